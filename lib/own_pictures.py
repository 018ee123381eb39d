"""The user's own pictures: a folder of files beside an `answers.yaml`.

    cat.jpg:
      - question: Which animal is this?
        answer: cat                  # right if the reply contains it
      - question: 图里有几只猫？
        answer: [2, 两只]             # any of these
        lang: zh

A file that cannot be used is named in one line, counted and left out; the others go on.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from lib import ROOT, reading
from lib.errors import UserError
from lib.images import MAX_SIDE, Picture, Question

NOT_PICTURES = {".md", ".yaml", ".yml", ".txt"}  # notes that belong in such a folder
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO")  # not those that start a program, as EPS does
PLAIN_MODES = {"1", "L", "P", "RGB", "RGBA", "LA"}


@dataclass
class Folder:
    """What a folder held: pictures that can be sent, and one line for each file that cannot."""
    pictures: list[Picture] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Counts, then a line for each thing that was skipped."""
        questions = sum(len(p.own_questions) for p in self.pictures)
        silent = [p.name for p in self.pictures if not p.own_questions]
        lines = [f"{len(self.pictures)} pictures, {questions} questions about them, {len(self.skipped)} skipped"]
        lines += [f"skipped  {line}" for line in self.skipped]
        lines += [f"no question in answers.yaml about {', '.join(silent)}"] * bool(silent)
        # A file name may hold anything, a line break too.
        return "\n".join("".join(c if c.isprintable() else "�" for c in line) for line in lines)


def files(path: str | Path) -> list[Path]:
    """What a folder holds besides notes, in name order: pictures, it seems. Raises UserError where there is no folder, or nothing in it.

    path: where it is; a relative one starts in the workbook's folder, wherever a notebook runs.
    """
    folder = ROOT / Path(path).expanduser()
    if not str(path) or not folder.is_dir():
        raise UserError(f"pictures {str(path)!r}: there is no such folder; name one that holds pictures, as data/images does")
    found = sorted(f for f in folder.iterdir() if not (f.is_dir() or f.name.startswith(".") or f.suffix.lower() in NOT_PICTURES))
    if not found:
        raise UserError(f"pictures {str(path)!r}: this folder holds no picture; put some into it (data/images/README.md says which), or name "
                        "another")
    return found


def load_folder(path: str | Path, max_side: int = MAX_SIDE, max_bytes: int = 20_000_000) -> Folder:
    """Read every picture of a folder, in name order. Raises UserError as `files` does.

    path: as `files` takes it.
    max_side, max_bytes: the largest picture (pixels a side, bytes a file) that the server is sent.
    """
    found, path, folder = files(path), ROOT / Path(path).expanduser(), Folder()
    answers = _answers(path / "answers.yaml", folder.skipped)
    for file in found:
        try:
            picture = _load(file, max_side, max_bytes)
            picture.own_questions = [_question(file.name, entry) for entry in answers.get(file.name) or []]
            folder.pictures.append(picture)
        except Unusable as reason:
            folder.skipped.append(f"{file.name}: {reason}")
    known = {file.name for file in path.iterdir()}
    folder.skipped += [f"answers.yaml: no file {name}" for name in answers if name not in known]
    return folder


class Unusable(Exception):
    """Why a file is left out, in words for the user."""


def _load(file: Path, max_side: int, max_bytes: int) -> Picture:
    """A picture upright, in RGB, with nothing but its pixels."""
    if not file.is_file() or not file.resolve().is_relative_to(file.parent.resolve()):
        raise Unusable("no file of this folder")  # a pipe would be waited for; a link may lead to anything
    if file.stat().st_size > max_bytes:
        raise Unusable(f"{file.stat().st_size / 1e6:.1f} MB, more than the {max_bytes / 1e6:.0f} MB that are sent")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                _check(image, max_side)
                pixels = _rgb(ImageOps.exif_transpose(image))
                pixels.info = {}  # comments and the like would be sent and shown with it
                return Picture("own", 0, pixels, {}, "jpeg" if image.format == "JPEG" else "png", 95, file.name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unusable("a decompression bomb: far more pixels than a picture needs") from None
    except Image.UnidentifiedImageError:
        raise Unusable("not a picture") from None
    except Unusable:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        text = str(error)
        raise Unusable("truncated" if "truncated" in text or "Truncated" in text else f"damaged ({' '.join(text.split())[:60]})") from None


def _check(image: Image.Image, max_side: int) -> None:
    """Refuse, from the header alone, what should not be decoded or would not be shown as it looks."""
    if max(image.size) > max_side:
        raise Unusable(f"{image.width}x{image.height} pixels, more than {max_side} a side")
    if max(image.size) > 200 * min(image.size):
        raise Unusable(f"{image.width}x{image.height} pixels: one side is more than 200 times the other")
    if getattr(image, "n_frames", 1) > 1:
        raise Unusable(f"animated, {image.n_frames} frames")
    if image.mode not in PLAIN_MODES:
        raise Unusable(f"colour mode {image.mode}")
    if image.mode == "P" and "transparency" in image.info:
        raise Unusable("a palette with transparency")


def _rgb(image: Image.Image) -> Image.Image:
    """RGB, transparency laid on white."""
    if image.mode not in ("RGBA", "LA"):
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _answers(file: Path, skipped: list[str]) -> dict:
    """The answers file as a dict of file name -> list of entries; what cannot be read is said, not raised."""
    if not file.exists():
        return {}
    try:
        content = reading.yaml_file(file) or {}
    except (reading.Unreadable, OSError) as error:
        skipped.append(f"answers.yaml: cannot be read ({error})")
        return {}
    if not isinstance(content, dict):
        skipped.append("answers.yaml: not a list of file names with questions")
        return {}
    good = {}
    for name, entries in content.items():
        valid = isinstance(entries, list) and all(isinstance(e, dict) and {"question", "answer"} <= e.keys() for e in entries)
        if valid:
            good[str(name)] = entries
        else:
            skipped.append(f"answers.yaml: {name} needs a list of entries with question and answer")
    return good


def _question(name: str, entry: dict) -> Question:
    answers = entry["answer"] if isinstance(entry["answer"], list) else [entry["answer"]]
    return Question("own", str(entry.get("lang", "en")), str(entry["question"]), " | ".join(str(a) for a in answers))
