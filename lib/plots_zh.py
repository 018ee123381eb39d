"""A plot's words in Chinese, put into the SVG that a run holds: no run has to be measured again, and no figure is drawn anew.

matplotlib writes each text as outlines, and what it says as a comment before them. Where there is a font that has all characters of
the Chinese words, their outlines take the place of the English ones; where there is none, the plot stays as it is.
"""
import functools
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import yaml
from matplotlib import font_manager
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font
from matplotlib.textpath import TextPath

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
SIZE = 100  # what matplotlib's own outlines of a text are drawn at, before they are scaled
SMALLEST = 0.7  # of that size, where the Chinese words are longer than the room between two marks
GOOD = re.compile(r"(?i)CJK ?SC|Source ?Han ?Sans|Micro ?Hei|Zen ?Hei|PingFang|YaHei|SimHei|Heiti|CJK")  # without serifs, made for Chinese

ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)


@functools.cache
def words() -> dict:
    """`labels`: English -> Chinese; `patterns`: for labels that hold a number or a name."""
    return yaml.safe_load((Path(__file__).parent / "templates" / "plots_zh.yaml").read_text(encoding="utf-8"))


def chinese(label: str) -> str | None:
    """A plot's label in Chinese; None for what has none: names, and what a model said."""
    known = words()["labels"]
    if label in known:
        return known[label]
    for pattern, said in words()["patterns"]:
        if found := re.fullmatch(pattern, label):
            return found.expand(said) if not found.groups() else re.sub(r"\\(\d)", lambda m: known.get(found[int(m[1])], found[int(m[1])]), said)
    return None


@functools.cache
def font() -> str | None:
    """The file of a font that has every character of the Chinese words; None where there is none."""
    needed = {ord(c) for text in [*words()["labels"].values(), *(said for _, said in words()["patterns"])] for c in text}
    able = []
    for path in sorted(font_manager.findSystemFonts()):
        try:
            face = FT2Font(path)
            if all(face.get_char_index(c) for c in needed):
                able.append((not GOOD.search(face.family_name), "bold" in path.lower(), path))
        except (OSError, RuntimeError, ValueError, UnicodeDecodeError):  # no font that matplotlib reads
            continue
    return min(able)[2] if able else None


def translated(svg: bytes) -> bytes:
    """A plot with its words in Chinese; as it is where there is no font for them, or it is none of matplotlib's."""
    file = font()
    if file is None:
        return svg
    try:
        root = ET.fromstring(svg, parser=ET.XMLParser(target=ET.TreeBuilder(insert_comments=True)))
    except ET.ParseError:
        return svg
    _walk(root, [], file)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _walk(node, above: list[str], file: str) -> None:
    name = node.get("id", "") if isinstance(node.tag, str) else ""
    if name.startswith("text_"):
        return _rewrite(node, above, file)
    for child in node:
        _walk(child, [*above, name], file)


def _rewrite(group, above: list[str], file: str) -> None:
    """A text's outlines, in Chinese, where the English ones were: by their middle, their left or their right end."""
    said = next((c.text.strip() for c in group if c.tag is ET.Comment), "")
    drawn = [c for c in group if isinstance(c.tag, str)]
    wanted = chinese(said)
    if wanted is None or len(drawn) != 1:
        return
    face = FT2Font(file)
    if not all(face.get_char_index(ord(c)) for c in wanted):
        return
    (text,) = drawn
    outlines = [use for use in text if use.tag == f"{{{SVG}}}use"]
    bold = any("Bold" in use.get(f"{{{XLINK}}}href", "") for use in outlines)
    before = TextPath((0, 0), said, size=SIZE, prop=FontProperties(weight="bold" if bold else "normal")).get_extents().width
    path = TextPath((0, 0), wanted, size=SIZE, prop=FontProperties(fname=file))
    wide = path.get_extents().width
    turned, axis = "rotate" in text.get("transform", ""), next((a for a in above if a.startswith("matplotlib.axis_")), "")
    share = 0.5 if turned or axis == "matplotlib.axis_1" else 1 if axis else 0  # at the y axis numbers and names end, elsewhere texts begin
    room = 1.2 * before if axis and not turned and share == 1 or any(a.startswith("legend") for a in above) else math.inf
    size = min(1.0, max(SMALLEST, room / wide))
    for use in outlines:  # the shapes of letters, which later texts use, stay
        text.remove(use)
    ET.SubElement(text, f"{{{SVG}}}path", {"d": _d(path), "transform": f"translate({share * (before - wide * size):.1f} 0) scale({size:.3f})"}
                  | ({"style": "stroke: #000000; stroke-width: 2"} if bold else {}))


def _d(path) -> str:
    """A path as SVG writes it."""
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    return " ".join(letters[code] + ("" if code == 79 else " ".join(f"{v:.1f}" for v in points)) for points, code in path.iter_segments(simplify=False))
