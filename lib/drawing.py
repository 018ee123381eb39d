"""Drawing primitives for the test pictures: colours, shapes, fonts and photographic texture.

Only fonts that ship inside matplotlib are used, and Pillow's basic text layout, so that the same
call gives the same pixels wherever the environment is.
"""

from __future__ import annotations

import functools
import math
import random
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Far enough apart that jitter, noise and shading never turn one into another.
COLORS = {
    "red": (214, 40, 40), "green": (46, 156, 66), "blue": (40, 84, 214), "yellow": (244, 210, 40),
    "orange": (242, 126, 24), "purple": (126, 52, 172), "pink": (246, 150, 196), "brown": (118, 72, 36),
    "black": (22, 22, 22), "white": (246, 246, 246), "gray": (136, 136, 136),
}
# Too close for a small shape under noise: never drawn one on the other.
TOO_CLOSE = ({"orange", "red"}, {"orange", "yellow"}, {"purple", "blue"}, {"brown", "black"}, {"brown", "gray"},
             {"pink", "white"}, {"brown", "red"}, {"yellow", "white"}, {"brown", "purple"}, {"brown", "orange"})
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring")
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold",
         "STIXGeneral", "STIXGeneralBol", "cmr10", "cmb10", "cmss10", "cmtt10")
_FONT_FOLDER = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_TILE = 1280


def contrasts(one: str, other: str) -> bool:
    """Whether a shape or text of colour `one` stands out on a background of colour `other`."""
    return one != other and {one, other} not in TOO_CLOSE


def legible(ink: str, paper: str) -> bool:
    """Whether text of colour `ink` can be read on `paper`: at least 60 grey levels of brightness apart."""
    bright = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (COLORS[ink], COLORS[paper])]
    return contrasts(ink, paper) and abs(bright[0] - bright[1]) >= 60


def jittered(rng: random.Random, color: str, spread: int = 9) -> tuple[int, int, int]:
    """A shade of a named colour, each channel moved by at most `spread`."""
    return tuple(min(255, max(0, c + rng.randint(-spread, spread))) for c in COLORS[color])


@functools.lru_cache(maxsize=512)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of matplotlib's at `size` pixels an em."""
    return ImageFont.truetype(str(_FONT_FOLDER / f"{name}.ttf"), size, layout_engine=ImageFont.Layout.BASIC)


def text_box(text: str, name: str, size: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the ink of `text` drawn at the origin."""
    return font(name, size).getbbox(text)


def fitting_size(text: str, name: str, width: float, height: float) -> int:
    """The largest font size (at least 8) at which the ink of `text` stays inside width x height pixels."""
    left, top, right, bottom = text_box(text, name, 100)
    return max(8, int(100 * min(width / (right - left), height / (bottom - top))))


def draw_text(image: Image.Image, text: str, name: str, size: int, center: tuple[float, float], color) -> None:
    """Draw `text` with the middle of its ink at `center`."""
    left, top, right, bottom = text_box(text, name, size)
    at = (round(center[0] - (left + right) / 2), round(center[1] - (top + bottom) / 2))
    ImageDraw.Draw(image).text(at, text, font=font(name, size), fill=color)


def draw_shape(image: Image.Image, shape: str, center: tuple[float, float], radius: float, color,
               angle: float = 0.0) -> None:
    """Draw a filled shape with smooth edges: drawn several times too large as a mask, then reduced."""
    scale = 4 if radius < 60 else 2
    side = 2 * math.ceil(radius + 2)
    mask = Image.new("L", (side * scale, side * scale), 0)
    _draw_mask(ImageDraw.Draw(mask), shape, side * scale / 2, radius * scale, angle)
    mask = mask.reduce(scale)
    corner = (round(center[0] - side / 2), round(center[1] - side / 2))
    image.paste(color, (*corner, corner[0] + side, corner[1] + side), mask)


def _draw_mask(draw: ImageDraw.ImageDraw, shape: str, c: float, r: float, angle: float) -> None:
    """Draw `shape` of radius r around (c, c) in white."""
    def polygon(points):
        cos, sin = math.cos(angle), math.sin(angle)
        draw.polygon([(c + r * (x * cos - y * sin), c + r * (x * sin + y * cos)) for x, y in points], fill=255)

    if shape == "circle":
        draw.ellipse((c - r, c - r, c + r, c + r), fill=255)
    elif shape == "ring":
        draw.ellipse((c - r, c - r, c + r, c + r), fill=255)
        inner = r * 0.55
        draw.ellipse((c - inner, c - inner, c + inner, c + inner), fill=0)
    elif shape == "square":
        polygon([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)])
    elif shape == "triangle":
        polygon([(0, -1), (0.92, 0.72), (-0.92, 0.72)])
    elif shape == "diamond":
        polygon([(0, -1), (0.72, 0), (0, 1), (-0.72, 0)])
    elif shape == "star":
        polygon([((1 if k % 2 == 0 else 0.42) * math.sin(k * math.pi / 5),
                  -(1 if k % 2 == 0 else 0.42) * math.cos(k * math.pi / 5)) for k in range(10)])
    elif shape == "cross":
        a = 0.3
        polygon([(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)])
    elif shape == "heart":
        curve = [(t := k * math.pi / 24, 16 * math.sin(t) ** 3 / 17,
                  -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17)
                 for k in range(48)]
        polygon([(x, y) for _, x, y in curve])
    else:
        raise ValueError(f"no such shape: {shape!r}; known: {', '.join(SHAPES)}")


@functools.lru_cache(maxsize=1)
def _noise_tile() -> np.ndarray:
    """(1280, 1280, 3) int8 of bell-shaped noise with a spread of about 32: a sum of four uniform bytes."""
    rng = np.random.Generator(np.random.PCG64(20260101))
    total = np.zeros((_TILE, _TILE, 3), np.int16)
    for _ in range(4):
        total += rng.integers(-28, 29, total.shape, dtype=np.int16)
    return total.clip(-127, 127).astype(np.int8)


def add_texture(image: Image.Image, rng: random.Random, noise: float, shade: float, blobs: float) -> Image.Image:
    """Lay photographic texture over a picture.

    noise: spread of the grain in grey levels; shade: grey levels between the two ends of a linear gradient;
    blobs: grey levels of slow colour variation. Zero leaves each out.
    """
    width, height = image.size
    out = np.asarray(image).astype(np.int16)
    if shade:
        angle = rng.uniform(0, 2 * math.pi)
        across = np.linspace(-0.5, 0.5, width, dtype=np.float32) * math.cos(angle)
        down = np.linspace(-0.5, 0.5, height, dtype=np.float32) * math.sin(angle)
        out += ((down[:, None] + across[None, :]) * shade).astype(np.int16)[:, :, None]
    if blobs:
        small = Image.frombytes("RGB", (5, 4), rng.randbytes(60)).resize((width, height), Image.Resampling.BICUBIC)
        out += ((np.asarray(small).astype(np.int16) - 128) * int(blobs * 2)) >> 8
    if noise:
        tile, y, x = _noise_tile(), rng.randrange(_TILE), rng.randrange(_TILE)
        if y + height <= _TILE and x + width <= _TILE:
            grain = tile[y:y + height, x:x + width]
        else:
            grain = np.take(np.take(tile, range(y, y + height), 0, mode="wrap"), range(x, x + width), 1, mode="wrap")
        out += (grain * np.int16(round(noise * 4))) >> 7
    return Image.fromarray(out.clip(0, 255).astype(np.uint8))
