"""The pictures: seeded, truthful, of the size asked for, counted as the model counts them, and safe to load."""

import importlib
import io
import math
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib import drawing, images, phrases, preflight
from lib.errors import UserError
from lib.own_pictures import load_folder

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for training, which is no part of the package
SEEDS = st.integers(0, images.TRAINING_SEEDS - 1)


@pytest.mark.parametrize("kind", images.KINDS)
def test_same_seed_gives_same_bytes_in_another_process(kind):
    here = images.make(kind, 7, (160, 128), "jpeg").data
    code = f"from lib import images; import sys; sys.stdout.buffer.write(images.make({kind!r}, 7, (160, 128), 'jpeg').data)"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert here == there


def test_no_two_pictures_share_bytes():
    data = {images.make(kind, seed, (96, 96)).data for kind in images.KINDS for seed in range(30)}
    assert len(data) == 30 * len(images.KINDS)


@given(st.sampled_from(images.KINDS), SEEDS)
@settings(max_examples=40, deadline=None)
def test_what_is_shown_does_not_depend_on_the_size(kind, seed):
    assert images.make(kind, seed, (64, 64)).facts == images.make(kind, seed, (200, 120)).facts


@given(st.sampled_from(images.KINDS), SEEDS, st.integers(64, 300), st.integers(64, 300), st.sampled_from(["png", "jpeg"]))
@settings(max_examples=40, deadline=None)
def test_any_size_is_drawn_and_encoded(kind, seed, width, height, format):
    picture = images.make(kind, seed, (width, height), format)
    decoded = Image.open(io.BytesIO(picture.data))
    assert decoded.size == (width, height) and decoded.format.lower() == format


def test_the_largest_picture_can_be_made():
    assert images.make("count", 1, (4096, 4096), "jpeg").image.size == (4096, 4096)


@pytest.mark.parametrize("size", [(63, 100), (100, 4097)])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValueError, match="outside 64 to 4096"):
        images.make("shape", 1, size)


def test_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="known: shape, number"):
        images.make("cat", 1)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_shape_has_the_stated_colour_at_the_stated_place(seed):
    """The pixel farthest from the background lies in the stated third of the picture and has the stated hue."""
    picture = images.make("shape", seed, (240, 240))
    pixels = np.asarray(picture.image).astype(int)
    ink, paper = (np.array(drawing.COLORS[picture.facts[k]]) for k in ("color", "background"))
    closer = np.abs(pixels - ink).sum(2) + 30 < np.abs(pixels - paper).sum(2)
    rows, columns = np.nonzero(closer)
    position = picture.facts["position"]
    assert len(rows) > 100
    third = [("left", "center", "right")[int(columns.mean() // 80)], ("top", "center", "bottom")[int(rows.mean() // 80)]]
    expected = ["left" if "left" in position else "right" if "right" in position else "center",
                "top" if "top" in position else "bottom" if "bottom" in position else "center"]
    assert third == expected


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_stated_number_of_separate_objects_is_drawn(seed):
    """Objects never touch: flood filling the object pixels finds as many as the answer says."""
    facts = images.facts_of("count", seed) | {"shape": "circle", "color": "black", "background": "white"}
    ink = np.asarray(images._draw("count", facts, seed, (192, 144)).convert("L")) < 120
    assert _regions(ink) == facts["count"]


def _regions(mask: np.ndarray) -> int:
    todo, regions = {tuple(p) for p in np.argwhere(mask)}, 0
    while todo:
        stack, size = [todo.pop()], 1
        while stack:
            y, x = stack.pop()
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in todo:
                    todo.remove(near)
                    stack.append(near)
                    size += 1
        regions += size > 3  # specks of grain are no objects
    return regions


@given(SEEDS, st.sampled_from(images.PAIR_ASKS))
@settings(max_examples=60, deadline=None)
def test_a_pair_has_exactly_one_right_picture(seed, ask):
    one, two, facts = images.make_pair(seed, (64, 64), ask)
    right, wrong = (one, two) if facts["right"] == 1 else (two, one)
    if ask == "pair_count":
        assert one.facts["count"] != two.facts["count"]
    else:
        keys = {"pair_color": ("color", "shape")}.get(ask, (ask.removeprefix("pair_"),))
        assert all(right.facts[k] == facts[k] for k in keys)
        assert any(wrong.facts[k] != facts[k] for k in keys)


def test_more_objects_is_asked_about_the_picture_that_has_more():
    for seed in range(40):
        one, two, facts = images.make_pair(seed, (64, 64), "pair_count")
        assert facts["right"] == (1 if one.facts["count"] > two.facts["count"] else 2)


def test_the_receipt_adds_up():
    facts = images.make("receipt", 3).facts
    assert math.isclose(sum(float(p) for p in facts["lines"].values()), float(facts["total"]))


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_question_has_words_and_an_answer_without_unfilled_slots(lang):
    for kind in images.KINDS:
        picture = images.make(kind, 5, (128, 128))
        for name in images.asks(picture.facts):
            for wording in range(10):
                q = images.ask(picture, name, lang, wording)
                assert q.question and q.answer and not set("{}") & set(q.question + q.answer)


def test_unseen_words_are_words_and_a_small_share():
    assert len(images.WORDS) == len(set(images.WORDS))
    assert images.UNSEEN_WORDS < set(images.WORDS) and 0.05 < len(images.UNSEEN_WORDS) / len(images.WORDS) < 0.15


def test_the_control_is_uniform_and_of_the_same_size():
    picture = images.make("number", 1, (100, 80), "jpeg")
    control = images.grey(picture)
    assert control.size == picture.size and len(control.image.getcolors()) == 1 and control.questions == picture.questions


@pytest.mark.parametrize("size, expected", [((224, 224), 64), ((1024, 768), 768), ((4096, 4096), 16384), ((64, 64), 64)])
def test_tokens_of_the_published_model(size, expected):
    assert images.tokens(*size) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([(65_536, 16_777_216), (128 * 128, 1024 * 1024)]))
@settings(max_examples=300, deadline=None)
def test_tokens_agree_with_transformers(width, height, limits):
    try:
        importlib.import_module("training.compat")  # mends a torchvision that cannot load
        theirs = importlib.import_module("transformers.models.qwen2_vl.image_processing_qwen2_vl").smart_resize
    except Exception as error:  # needs a torchvision that loads
        pytest.skip(f"transformers' picture processor cannot be imported here: {type(error).__name__}")
    processor = images.Processor(min_pixels=limits[0], max_pixels=limits[1])
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError):
            images.tokens(width, height, processor)
    else:
        high, wide = theirs(height, width, factor=32, min_pixels=limits[0], max_pixels=limits[1])
        assert images.resized(width, height, processor) == (wide, high)


def _bomb() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))


def test_bad_files_are_named_skipped_and_counted_and_the_rest_goes_on(tmp_path):
    good = Image.new("RGB", (80, 60), "red")
    good.save(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "words.jpg").write_text("no picture at all")
    whole = images.make("shape", 1, (200, 200), "jpeg").data
    (tmp_path / "cut.jpg").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "bomb.png").write_bytes(_bomb())
    good.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.new("I;16", (80, 60)).save(tmp_path / "deep.png")
    palette = good.convert("P")
    palette.save(tmp_path / "palette.png", transparency=0)
    good.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (80, 60), "blue")])
    Image.new("RGB", (5000, 10)).save(tmp_path / "wide.png")
    Image.new("RGB", (2000, 3)).save(tmp_path / "thin.png")
    (tmp_path / "heavy.png").write_bytes(b"\0" * 300_000)
    (tmp_path / "notes.md").write_text("not a picture, and not meant as one")
    folder = load_folder(tmp_path, max_bytes=250_000)
    assert [p.name for p in folder.pictures] == ["good.png"]
    said = dict(line.split(": ", 1) for line in folder.skipped)
    expected = {"empty.png": "not a picture", "words.jpg": "not a picture", "cut.jpg": "truncated", "bomb.png": "bomb",
                "cmyk.jpg": "CMYK", "deep.png": "I;16", "palette.png": "transparency", "moving.gif": "animated, 2 frames",
                "wide.png": "more than 4096", "thin.png": "200 times", "heavy.png": "0.3 MB"}
    assert said.keys() == expected.keys()
    for name, words in expected.items():
        assert words in said[name], (name, said[name])
    assert not any("\n" in line for line in folder.skipped)


def test_orientation_is_honoured_and_metadata_is_left_behind(tmp_path):
    image = Image.new("RGB", (100, 60), "white")
    image.paste("red", (0, 0, 50, 60))  # red on the left; orientation 6 turns it to the top
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret caption"
    image.save(tmp_path / "turned.jpg", exif=exif, comment=b"another secret", quality=95)
    picture = load_folder(tmp_path).pictures[0]
    assert picture.size == (60, 100)
    assert picture.image.getpixel((30, 10))[1] < 60 < 200 < picture.image.getpixel((30, 90))[1]
    assert b"secret" not in picture.data and not Image.open(io.BytesIO(picture.data)).getexif()


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (70, 70), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert load_folder(tmp_path).pictures[0].image.getpixel((5, 5)) == (255, 255, 255)


def test_own_questions_come_from_answers_yaml(tmp_path):
    Image.new("RGB", (70, 70)).save(tmp_path / "cat.png")
    (tmp_path / "answers.yaml").write_text(
        "cat.png:\n  - question: Which animal?\n    answer: [cat, kitten]\nlost.png: []\nbad.png: 3\n", encoding="utf-8")
    folder = load_folder(tmp_path)
    assert [(q.question, q.answer) for q in folder.pictures[0].questions] == [("Which animal?", "cat | kitten")]
    assert any("no file lost.png" in line for line in folder.skipped) and any("bad.png needs" in line for line in folder.skipped)


def test_a_folder_tells_what_it_holds_and_skipped_in_one_line_each(tmp_path):
    (tmp_path / "two\nlines.png").write_bytes(b"")
    Image.new("RGB", (70, 70)).save(tmp_path / "cat.png")
    first, skipped, silent = str(load_folder(tmp_path)).split("\n")
    assert first == "1 pictures, 0 questions about them, 1 skipped"
    assert skipped.endswith("lines.png: not a picture") and silent.endswith("about cat.png")


@pytest.mark.parametrize("content", ["[1, 2", "just words", "\x00"])
def test_a_broken_answers_file_is_said_and_does_not_stop_the_pictures(tmp_path, content):
    Image.new("RGB", (70, 70)).save(tmp_path / "a.png")
    (tmp_path / "answers.yaml").write_text(content)
    folder = load_folder(tmp_path)
    assert len(folder.pictures) == 1 and len(folder.skipped) == 1


def test_a_folder_of_ones_own_that_is_missing_or_holds_no_picture_is_refused(tmp_path):
    (tmp_path / "answers.yaml").write_text("{}")
    for folder, words in ((tmp_path, "holds no picture"), (tmp_path / "none", "no such folder"), ("", "no such folder")):
        for refuse in (load_folder, lambda folder: preflight.check(pictures=str(folder))):
            with pytest.raises(UserError, match=words):
                refuse(folder)


def test_answers_are_in_the_language_of_the_question():
    picture = images.make("count", 2)
    assert phrases.answer("count", picture.facts, "zh").isascii() is False
    assert phrases.answer("count", picture.facts, "en").isascii() is True
