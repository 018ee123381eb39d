"""Seeded pictures with known answers.

    picture = make("number", seed=7, size=(224, 224), format="jpeg", quality=80)
    picture.facts        {'number': '4182', 'background': 'yellow', …}
    picture.questions    [Question(ask='number', lang='en', question='Read the number.', answer='The number is 4182.'), …]
    data_url(picture)    'data:image/jpeg;base64,…', what a chat request carries

The same kind and seed show the same thing at every size, so that a sweep over resolutions asks the same
question; the same kind, seed and size give the same bytes (of one Pillow version). Seeds from
TRAINING_SEEDS on were used to train the embedded model; below it, none was.
"""

from __future__ import annotations

import base64
import io
import math
import random
from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image

from lib import drawing, phrases
from lib.pixels import Processor, resized, tokens  # noqa: F401  (part of this module's interface)

TRAINING_SEEDS = 1_000_000_000
KINDS = ("shape", "number", "word", "letters", "count", "receipt", "blank")
PAIR_ASKS = ("pair_color", "pair_shape", "pair_background", "pair_count", "pair_number")
MIN_SIDE, MAX_SIDE = 64, 4096
PRINT = 32  # pixels an em, the smallest print of an ordinary picture
WORDS = """
able acid also apple area army atom aunt away baby back bake ball band bank barn base bath bean bear beat bell belt bench
best bike bird blank blue board boat body bold bone book boot born both bowl brain bread brick broom brush bulb bush cake
calm camp candy card care cart cat chain chalk cheap chef child city clay clean clock cloud club coat code coin cold cook
copper corn cost crab crown cup curve daily dance dark data dawn deep deer desk dish dog door dove draw dream dress drink
drum duck dust eagle early earth east easy echo edge egg empty exit eye face fact fair farm fast feather fence field film
find fire fish flag flame flat flood floor flour fly fog food foot forest fork four fox fresh frog fruit full game garden
gate gift giant glass goat gold good grain grape grass great group guest guide hair half hall hand happy harbor hat hawk
heat help hen herb hill home honey hook hope horn horse hotel house huge ice idea inch ink iron island jacket jar jazz jet
job join joke juice jump kettle key kind king kite knee knife lake lamb lamp land large last leaf left lemon letter light
lime line lion list local long loud love low lucky lunch magic mail map maple mark mask meal menu metal milk mind mint mix
moon mouse music nail name neck nest new nice night nine noble north nose note ocean olive onion open orbit oven owl page
paint pair palm paper park party path peach pear pen phone piano pilot pink pipe plan plant plate plum poem pond pony pool
proud pump quick quiet rabbit radio rain ranch red rice right ring river road robot rock roof root rope rose round rug sail
salt sand seed seven shade sheep shelf ship shirt shoe silk silver sink sky sleep slow smile snow soap sofa soil song soup
south spoon star steel stem stone store storm sugar sun swan sweet table taxi tea tent thin three tiger time toast tower
town toy train tree truck tulip twin uncle unit valley van vase verb view violin visit wagon walk wall warm watch water
wave wax west whale wheat wheel white wild wind wine wolf wood wool word yard year yellow young zebra zero zone
""".split()
UNSEEN_WORDS = frozenset(WORDS[5::10])  # never printed in a training picture
SHOPS = ("CAFE", "MARKET", "BAKERY", "GARDEN", "STORE", "CORNER", "KIOSK", "DELI")
ITEMS = ("TEA", "COFFEE", "BREAD", "MILK", "RICE", "APPLE", "SOAP", "CAKE", "EGGS", "JUICE", "SOUP", "FISH", "SALT", "PLUM")


@dataclass(frozen=True)
class Question:
    """A question about a picture: `ask` names what is asked, `answer` is the canonical right answer."""
    ask: str
    lang: str
    question: str
    answer: str


@dataclass
class Picture:
    """A picture and the truth about it. `data` holds the encoded bytes that a request sends."""
    kind: str
    seed: int
    image: Image.Image
    facts: dict
    format: str = "png"
    quality: int = 85
    name: str = ""
    own_questions: list[Question] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size

    @property
    def mime(self) -> str:
        return f"image/{self.format}"

    @cached_property
    def data(self) -> bytes:
        return encode(self.image, self.format, self.quality)

    @property
    def questions(self) -> list[Question]:
        """One question of each applicable sort in each language; for a user's picture, the user's own."""
        if self.own_questions:
            return self.own_questions
        return [ask(self, name, lang, wording=self.seed) for name in asks(self.facts) for lang in ("en", "zh")]


def make(kind: str, seed: int, size: tuple[int, int] = (224, 224), format: str = "png", quality: int = 85,
         finest: int = PRINT) -> Picture:
    """Draw one picture.

    kind: one of KINDS. size: (width, height), each 64 to 4096 pixels. format: 'png' or 'jpeg' (then `quality`, 1-95).
    finest: the smallest print of a number or word in pixels an em; a picture too small for it gets the largest that fits.
    """
    if format not in ("png", "jpeg"):
        raise ValueError(f"format is 'png' or 'jpeg', not {format!r}")
    image, facts = render(kind, seed, size, finest)
    return Picture(kind, seed, image, facts, format, quality, name=f"{kind}-{seed}")


def make_pair(seed: int, size: tuple[int, int] = (224, 224), ask: str | None = None,
              format: str = "png", quality: int = 85, finest: int = PRINT, plain: bool = False) -> tuple[Picture, Picture, dict]:
    """Two pictures that differ in what is asked, and the facts of the question; facts['right'] is 1 or 2.

    ask: one of PAIR_ASKS; None draws one. plain: nothing but their backgrounds, for `pair_background`.
    """
    rng = random.Random(f"pair/{seed}")
    drawn = rng.choice(PAIR_ASKS)
    ask = ask or drawn
    kind = "blank" if plain else {"pair_count": "count", "pair_number": "number"}.get(ask, "shape")
    right = rng.randint(1, 2)
    for attempt in range(10_000):  # neighbours in a seeded row, until a pair differs clearly
        one, two = (facts_of(kind, f"{seed}/{attempt}/{k}") for k in (1, 2))
        if _differ(ask, one, two):
            break
    if ask == "pair_count":
        right = 1 if one["count"] > two["count"] else 2
    wanted = one if right == 1 else two
    pictures = [Picture(kind, seed, _draw(kind, facts, f"{seed}/pair{k}", size, finest), facts, format, quality, f"pair-{seed}-{k}")
                for k, facts in ((1, one), (2, two))]
    return *pictures, {"ask": ask, "right": right} | wanted


def _differ(ask: str, one: dict, two: dict) -> bool:
    if ask == "pair_count":
        more, less = max(one["count"], two["count"]), min(one["count"], two["count"])
        return more >= less + 2
    key = ask.removeprefix("pair_")
    if ask == "pair_color":
        return (one["color"], one["shape"]) != (two["color"], two["shape"])
    return one[key] != two[key]


def facts_of(kind: str, seed) -> dict:
    """What a picture of this kind and seed shows, whatever its size."""
    rng = random.Random(f"{kind}/{seed}/facts")
    color = rng.choice(list(drawing.COLORS))
    background = rng.choice([c for c in drawing.COLORS if drawing.contrasts(color, c)])
    if kind in ("number", "word", "letters"):  # thin strokes need a difference in brightness, not in hue alone
        background = rng.choice([c for c in drawing.COLORS if drawing.legible(color, c)])
    facts = {"background": background}
    if kind == "shape":
        facts |= {"shape": rng.choice(drawing.SHAPES), "color": color,
                  "position": rng.choice(("center", "center", *phrases.POSITION_ZH))}
    elif kind == "count":
        facts |= {"shape": rng.choice(drawing.SHAPES), "color": color, "count": rng.randint(1, 9)}
    elif kind == "number":
        digits = rng.randint(2, 5)
        facts |= {"number": str(rng.randint(10 ** (digits - 1), 10 ** digits - 1)), "ink": color}
    elif kind == "word":
        facts |= {"word": rng.choice(WORDS).upper(), "ink": color}
    elif kind == "letters":  # no word of any language: can only be read, not guessed
        facts |= {"word": "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(3, 6))), "ink": color}
    elif kind == "receipt":
        items = rng.sample(ITEMS, rng.randint(2, 4))
        prices = [rng.randint(50, 1999) for _ in items]
        facts = {"background": background, "shop": rng.choice(SHOPS), "total": f"{sum(prices) / 100:.2f}",
                 "lines": {item: f"{price / 100:.2f}" for item, price in zip(items, prices)}}
    elif kind != "blank":
        raise ValueError(f"no such kind of picture: {kind!r}; known: {', '.join(KINDS)}")
    return facts


def render(kind: str, seed, size: tuple[int, int], finest: int = PRINT) -> tuple[Image.Image, dict]:
    """(image, facts), without encoding: what `make` and the training script share. finest: see `make`."""
    facts = facts_of(kind, seed)
    return _draw(kind, facts, seed, size, finest), facts


def _draw(kind: str, facts: dict, seed, size: tuple[int, int], finest: int = PRINT) -> Image.Image:
    width, height = size
    if not (MIN_SIDE <= min(size) and max(size) <= MAX_SIDE):
        raise ValueError(f"a picture of {width}x{height} is outside {MIN_SIDE} to {MAX_SIDE} pixels a side")
    rng = random.Random(f"{kind}/{seed}/{width}x{height}")
    image = Image.new("RGB", size, drawing.jittered(rng, facts["background"]))
    if kind in ("shape", "count"):
        for center, radius in _places(rng, facts, width, height):
            angle = rng.uniform(-0.12, 0.12)
            drawing.draw_shape(image, facts["shape"], center, radius, drawing.jittered(rng, facts["color"]), angle)
    elif "ink" in facts:
        _draw_line(image, rng, facts, finest)
    elif kind == "receipt":
        _draw_receipt(image, rng, facts)
    plain = rng.random() < 0.25
    return image if plain else drawing.add_texture(
        image, rng, noise=rng.uniform(2, 14), shade=rng.choice((0, 0, rng.uniform(10, 40))),
        blobs=rng.choice((0, 0, rng.uniform(6, 18))))


def _places(rng: random.Random, facts: dict, width: int, height: int) -> list[tuple[tuple[float, float], float]]:
    """Centre and radius of every object."""
    side = min(width, height)
    if "count" not in facts:
        position = facts["position"]
        x = 0.2 if "left" in position else 0.8 if "right" in position else 0.5
        y = 0.2 if "top" in position else 0.8 if "bottom" in position else 0.5
        radius = side * (rng.uniform(0.12, 0.36) if position == "center" else rng.uniform(0.11, 0.17))
        wobble = side * 0.03
        return [((x * width + rng.uniform(-wobble, wobble), y * height + rng.uniform(-wobble, wobble)), radius)]
    # A grid with one object at most in a cell keeps objects apart, however many there are.
    columns = 4 if width >= 1.3 * height else 3
    rows = 4 if height >= 1.3 * width else 3
    cell = min(width / columns, height / rows)
    largest = 0.5 if rng.random() < 0.5 else 0.36
    places = []
    for index in rng.sample(range(columns * rows), facts["count"]):
        radius = cell * rng.uniform(0.26, largest) * 0.9
        free_x, free_y = width / columns / 2 - radius - 1, height / rows / 2 - radius - 1
        places.append((((index % columns + 0.5) * width / columns + rng.uniform(-free_x, free_x),
                        (index // columns + 0.5) * height / rows + rng.uniform(-free_y, free_y)), radius))
    return places


def _draw_line(image: Image.Image, rng: random.Random, facts: dict, finest: int) -> None:
    """Print the number or word somewhere, in a random font and size."""
    width, height = image.size
    text = facts.get("number") or rng.choice((facts["word"], facts["word"].capitalize(), facts["word"].lower()))
    name = rng.choice(drawing.FONTS)
    largest = drawing.fitting_size(text, name, width * 0.9, height * 0.5)
    smallest = min(largest, max(finest, largest / 5))
    size = round(math.exp(rng.uniform(math.log(smallest), math.log(largest))))
    left, top, right, bottom = drawing.text_box(text, name, size)
    free_x, free_y = (width - right + left) / 2 * 0.9, (height - bottom + top) / 2 * 0.85
    center = (width / 2 + rng.uniform(-free_x, free_x), height / 2 + rng.uniform(-free_y, free_y))
    drawing.draw_text(image, text, name, size, center, drawing.jittered(rng, facts["ink"]))


def _draw_receipt(image: Image.Image, rng: random.Random, facts: dict) -> None:
    """A paper strip with a shop's name, priced items and a total."""
    width, height = image.size
    margin = rng.uniform(0.01, 0.05) * min(width, height)
    image.paste(drawing.jittered(rng, "white", 6), (round(margin), round(margin), round(width - margin), round(height - margin)))
    lines = [(facts["shop"], ""), *facts["lines"].items(), ("TOTAL", facts["total"])]
    columns = 15  # characters a line: the longest item, a gap, the price
    name = rng.choice(("DejaVuSansMono", "DejaVuSansMono-Bold", "cmtt10"))
    step = (height - 2 * margin) / (len(lines) + 0.6)
    inner = width - 2.6 * margin
    size = max(8, int(min(inner / (columns * 0.62), step / 1.15)))
    ink = drawing.jittered(rng, "black")
    font, draw = drawing.font(name, size), drawing.ImageDraw.Draw(image)
    left = (width - inner) / 2 + rng.uniform(0, max(0, inner - columns * 0.62 * size)) / 2
    right = left + columns * 0.61 * size
    for row, (text, price) in enumerate(lines):
        y = margin + step * (row + 0.8)
        if not price:
            draw.text(((left + right) / 2, y), text, font=font, fill=ink, anchor="mm")
            continue
        draw.text((left, y), text, font=font, fill=ink, anchor="lm")
        draw.text((right, y), price, font=font, fill=ink, anchor="rm")


def asks(facts: dict) -> list[str]:
    """What can be asked about a picture with these facts."""
    if "total" in facts:
        return ["describe", "total", "shop"]
    if "number" in facts:
        return ["describe", "number", "text", "background"]
    if "word" in facts:
        return ["describe", "word", "text", "background"]
    if "count" in facts:
        return ["describe", "count", "color", "background"] if facts["count"] > 1 else ["describe", "count", "shape", "color"]
    if "shape" in facts:
        return ["describe", "color", "shape", "background", "position"]
    return ["describe", "background"]


def ask(picture: Picture, name: str, lang: str = "en", wording: int = 0) -> Question:
    """The question `name` about a picture, in one of its wordings, with the right answer."""
    return Question(name, lang, phrases.question(name, picture.facts, lang, wording), phrases.answer(name, picture.facts, lang))


def grey(picture: Picture) -> Picture:
    """The control: a uniform grey picture of the same size and format, under the same questions."""
    return Picture(picture.kind, picture.seed, Image.new("RGB", picture.size, (128, 128, 128)), picture.facts,
                   picture.format, picture.quality, f"{picture.name}-grey", picture.questions)


def encode(image: Image.Image, format: str = "png", quality: int = 85) -> bytes:
    """The bytes of an image file that holds pixels only: no EXIF, colour profile, comment or text."""
    out = io.BytesIO()
    image = Image.frombytes(image.mode, image.size, image.tobytes())  # leaves the metadata behind
    image.save(out, format.upper(), **({"quality": quality} if format == "jpeg" else {"compress_level": 6}))
    return out.getvalue()


def data_url(picture: Picture) -> str:
    """The picture as the URL that a chat request's image_url part takes."""
    return f"data:{picture.mime};base64,{base64.b64encode(picture.data).decode()}"
