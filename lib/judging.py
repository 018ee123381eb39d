"""Whether a free-text reply is right: rules, lenient about form and strict about content.

Case, articles, synonyms, a whole sentence around the answer, digits or words, English or Chinese do not
matter. What is said does: "a white circle on a red background" is not "a red circle on a white one".
"""

from __future__ import annotations

import re
import unicodedata

from lib import phrases

_COLORS = {name: [name, zh, zh[:-1]] for name, zh in phrases.COLOR_ZH.items()}
for _name, _more in {"gray": ["grey", "silver", "银色"], "purple": ["violet", "magenta"], "brown": ["褐色", "咖啡色"],
                     "pink": ["粉红色", "粉红"], "orange": ["橘色", "橘黄色", "橙"], "blue": ["navy", "深蓝"],
                     "yellow": ["golden", "金色"]}.items():
    _COLORS[_name] += _more
_SHAPES = {
    "circle": ["circle", "circular", "round", "disc", "disk", "dot", "ball", "圆形", "圆点", "圆"],
    "square": ["square", "正方形", "方形", "方块"], "triangle": ["triangle", "triangular", "三角"],
    "star": ["star", "星"], "diamond": ["diamond", "rhombus", "lozenge", "菱形", "钻石"],
    "cross": ["cross", "plus", "十字", "加号"], "heart": ["heart", "心形", "爱心", "心"],
    "ring": ["ring", "donut", "doughnut", "annulus", "hollow circle", "圆环", "环", "空心圆"]}
_NUMERALS = {word: n for n, words in enumerate([
    ["zero", "no", "none"], ["one", "single"], ["two", "pair"], ["three"], ["four"], ["five"], ["six"], ["seven"],
    ["eight"], ["nine"], ["ten"], ["eleven"], ["twelve"]]) for word in words}
_NUMERALS_ZH = {c: n for n, c in enumerate("零一二三四五六七八九十")} | {"两": 2}


def correct(ask: str, facts: dict, reply: str, answer: str = "") -> bool:
    """Judge a reply to the question `ask` about a picture with these facts.

    For a user's own question (ask 'own'), `answer` holds the accepted answers, separated by ' | '.
    """
    text = normal(reply)
    if not text:
        return False
    if ask == "own":
        return any(_contains(text, normal(one)) for one in answer.split(" | "))
    if ask == "describe":
        return _describes(facts, text)
    if ask.startswith("pair_"):
        return _which(text) == facts["right"]
    if ask == "text":
        ask = "number" if "number" in facts else "word"
    rule = {"number": _number, "word": _word, "count": _count, "color": _color, "shape": _shape,
            "background": _background, "position": _position, "total": _amount, "price": _amount, "shop": _shop}[ask]
    return rule(facts, text)


def normal(text: str) -> str:
    """Lower case, full-width forms made ordinary, markdown marks removed, white space single."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\s+", " ", re.sub(r"[*_`#]", "", text)).strip()


def _contains(text: str, wanted: str) -> bool:
    """Whether `wanted` occurs as a word of its own; Chinese has no spaces between words, so there anywhere."""
    if re.search(r"[\u3400-\u9fff]", wanted):
        return wanted in text
    return re.search(rf"(?<![a-z0-9]){re.escape(wanted)}(?:s|es)?(?![a-z0-9])", text) is not None


def _mentions(text: str, names: dict[str, list[str]]) -> list[tuple[int, int, str]]:
    """(start, end, name) of each mention in order; of overlapping ones the longest ('圆环' is no '圆')."""
    found = []
    for name, words in names.items():
        for word in words:
            edge = r"(?<![a-z]){}(?:s|es)?(?![a-z])" if word.isascii() else "{}"
            found += [(m.start(), m.end(), name) for m in re.finditer(edge.format(re.escape(word)), text)]
    found.sort(key=lambda f: (f[0] - f[1], f[0]))
    kept = []
    for start, end, name in found:
        if all(end <= s or start >= e for s, e, _ in kept):
            kept.append((start, end, name))
    return sorted(kept)


def _split_colors(text: str) -> tuple[str | None, str | None]:
    """(colour of the shape, colour of the background): each colour goes to the noun it stands nearest to.

    A colour before its noun ('red circle', '红色的圆形') is nearer than one after it ('the circle is red').
    """
    colors = _mentions(text, _COLORS)
    shapes = _mentions(text, _SHAPES)
    grounds = [(m.start(), m.end(), "background") for m in re.finditer(r"background|backdrop|背景|canvas|底色", text)]

    def nearest(nouns, taken=None):
        options = []
        for start, end, _ in nouns:
            for color in colors:
                if color is taken:
                    continue
                if color[1] <= start:
                    options.append((start - color[1], color))
                elif color[0] >= end:
                    options.append((color[0] - end + 4, color))
        return min(options, key=lambda o: o[0])[1] if options else None

    shape = nearest(shapes)
    ground = nearest(grounds, taken=shape if len(colors) > 1 else None) if grounds else None
    if ground is None and len(colors) > 1 and shape is not None:  # "a red circle on white"
        ground = next(c for c in reversed(colors) if c is not shape)
    return shape and shape[2], ground and ground[2]


def _describes(facts: dict, text: str) -> bool:
    if "total" in facts:
        return _amount(facts, text) or any(word in text for word in ("receipt", "收据", "小票", "发票", "bill"))
    if "number" in facts:
        return _number(facts, text)
    if "word" in facts:
        return _word(facts, text)
    if "shape" not in facts:
        return _background(facts, text) and not _mentions(text, _SHAPES)
    shape, ground = _split_colors(text)
    counted = facts.get("count", 1) == 1 or _count(facts, text)
    return _shape(facts, text) and shape == facts["color"] and ground == facts["background"] and counted


def _shape(facts: dict, text: str) -> bool:
    named = {name for _, _, name in _mentions(text, _SHAPES)}
    return named == {facts["shape"]} or (facts["shape"] == "ring" and named == {"ring", "circle"})


def _color(facts: dict, text: str) -> bool:
    named = {name for _, _, name in _mentions(text, _COLORS)}
    return named == {facts["color"]} or (len(named) > 1 and _split_colors(text)[0] == facts["color"])


def _background(facts: dict, text: str) -> bool:
    named = {name for _, _, name in _mentions(text, _COLORS)}
    return named == {facts["background"]} or (len(named) > 1 and _split_colors(text)[1] == facts["background"])


def _number(facts: dict, text: str) -> bool:
    """The first number of two or more digits is the right one; spaces or commas between its digits do not matter."""
    joined = re.sub(r"(?<=\d)[ ,.-](?=\d)", "", text)
    runs = [run for run in re.findall(r"\d+", joined) if len(run) > 1]
    return bool(runs) and runs[0] == facts["number"]


def _word(facts: dict, text: str) -> bool:
    """The word stands in the reply, whole or spelled out letter by letter."""
    wanted = facts["word"].casefold()
    spelled = r"[ .,-]+".join(wanted)
    return re.search(rf"(?<![a-z])(?:{re.escape(wanted)}|{spelled})(?![a-z])", text) is not None


def _count(facts: dict, text: str) -> bool:
    """The first number in the reply, in digits or words; 'a circle' counts as one when nothing else is said."""
    found = [(m.start(), int(m.group())) for m in re.finditer(r"(?<![\d#])\d{1,3}(?!\d)", text)]
    found += [(m.start(), _NUMERALS[m.group()]) for m in re.finditer(r"\b(?:" + "|".join(_NUMERALS) + r")\b", text)]
    found += [(m.start(), _NUMERALS_ZH[m.group(1)]) for m in re.finditer(r"([零一二三四五六七八九十两])(?=[个颗枚只张条块朵])", text)]
    if not found and re.match(r"(?:there is )?an? ", text):
        found = [(0, 1)]
    return bool(found) and min(found)[1] == facts["count"]


def _position(facts: dict, text: str) -> bool:
    """The same side or corner; 'middle left' is the left."""
    words = {"top": "top|upper|above|上", "bottom": "bottom|lower|below|下", "left": "left|左", "right": "right|右",
             "center": "center|centre|middle|central|中"}
    found = {name for name, pattern in words.items() if re.search(pattern, text)}
    if len(found) > 1:
        found.discard("center")
    return found == set(facts["position"].split())


def _amount(facts: dict, text: str) -> bool:
    """The amount of money, with a point or a comma; of several the last, since a total follows its parts."""
    amounts = re.findall(r"\d+[.,]\d{2}(?!\d)", text)
    wanted = facts["price"] if "price" in facts else facts["total"]
    return bool(amounts) and amounts[-1].replace(",", ".") == wanted


def _shop(facts: dict, text: str) -> bool:
    return _contains(text, facts["shop"].casefold())


def _which(text: str) -> int | None:
    """1 or 2, whichever picture is named first; None if neither."""
    first = re.search(r"\bfirst\b|\b1st\b|\bleft\b|(?:picture|image|photo|number|图片?|图像) ?[1一]\b|第[一1]|^1\b|图一|左", text)
    second = re.search(r"\bsecond\b|\b2nd\b|\bright\b|(?:picture|image|photo|number|图片?|图像) ?[2二]\b|第[二2]|^2\b|图二|右", text)
    if not first or not second:
        return 1 if first else 2 if second else None
    return 1 if first.start() < second.start() else 2
