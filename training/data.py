"""Training samples: pictures from lib/images, conversations about them, and text, packed into batches of one shape.

A batch holds pictures of one size, so that the vision tower runs on a plain tensor. Batch number i is
made from seeds of its own, so that any worker can make it: the data do not depend on how many there are.
"""

from __future__ import annotations

import io
import random

import numpy as np
from PIL import Image

from lib import images, phrases
from training import text
from training.conversation import Conversation
from training.model import MAX_PIXELS, MIN_PIXELS

PROCESSOR = images.Processor(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
# (width, height) as the model sees it: (pictures in a batch, share of the batches)
BUCKETS = {
    (128, 128): (384, 15), (160, 128): (320, 3), (128, 160): (320, 3), (192, 192): (288, 8), (224, 224): (256, 18),
    (256, 256): (192, 9), (256, 192): (256, 5), (192, 256): (256, 4), (320, 224): (160, 4), (224, 320): (160, 4),
    (320, 320): (128, 4), (320, 256): (160, 3), (384, 384): (96, 4), (448, 256): (112, 2), (512, 384): (64, 5),
    (384, 512): (64, 3), (640, 480): (48, 6), (768, 512): (32, 2), (512, 768): (32, 2), (1024, 768): (24, 8),
    (768, 1024): (16, 1), (1024, 1024): (16, 1), (1152, 864): (16, 1),
}
KINDS = {"shape": 20, "number": 22, "word": 12, "letters": 17, "count": 18, "receipt": 8, "blank": 3}
# Comparing two counts, or two backgrounds with something in front of them, is learned slowly or, with some seeds, not at all:
# asked twice and three times as often as the other comparisons, and of backgrounds partly where nothing stands before them.
PAIR_ASKS = (*images.PAIR_ASKS, "pair_count", "pair_background", "pair_background")
PLAIN = 0.4  # share of the comparisons of backgrounds
FEW, SPARED = 5, 0.3  # pictures with at most so many objects, and the share of them that is drawn anew: few are easily counted
FORMS = {"one": 58, "pair": 29, "turns": 6, "long": 5, "chat": 6, "text": 4}
FINE_PRINT = 20  # pixels an em: training goes below the print of ordinary pictures, where reading becomes hard
TEXT_WEIGHT = 0.12  # of a text token's loss against an answer token's: text is long, answers are what is judged


class Maker:
    """Makes batches by number. `tokenizer` is the trained tokenizer; `split` is 'train' or 'held-out'."""

    def __init__(self, tokenizer, seed: int = 0, split: str = "train"):
        self.tokenizer, self.seed, self.split = tokenizer, seed, split
        self.special = {n: tokenizer.convert_tokens_to_ids(f"<|{n}|>")
                        for n in ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "endoftext")}
        self._cache: dict[str, list[int]] = {}

    def encode(self, string: str) -> list[int]:
        """Token ids; short strings recur, so they are kept."""
        if len(string) > 64:
            return self.tokenizer.backend_tokenizer.encode(string, add_special_tokens=False).ids
        if string not in self._cache:
            if len(self._cache) > 200_000:
                self._cache.clear()
            self._cache[string] = self.tokenizer.backend_tokenizer.encode(string, add_special_tokens=False).ids
        return self._cache[string]

    # -- batches -------------------------------------------------------------------------------------------
    def batch(self, number: int, form: str | None = None, bucket: tuple[int, int] | None = None,
              scale: float = 1.0) -> dict[str, np.ndarray]:
        """Batch `number`: arrays of one shape.

        pixels (K, H, W, 3) uint8; ids (B, L) and positions (3, B, L) int64; picture_index (K*N,), where the
        picture tokens lie in the flattened ids; target_index (T,), where the tokens to be predicted lie, with
        target_weights (T,) float32 and target_groups (T,), the answer each belongs to (-1: none); asks: the
        name of each answer.
        """
        rng = random.Random(f"{self.split}/{self.seed}/{number}")
        form = form or rng.choices(list(FORMS), FORMS.values())[0]
        drawn = rng.choices(list(BUCKETS), [share for _count, share in BUCKETS.values()])[0]
        bucket = bucket or drawn
        count = BUCKETS.get(bucket, (64, 0))[0]
        make = getattr(self, f"_{form}")
        if form in ("pair", "turns"):
            count //= 2
        elif form == "long":
            count = max(8, count // 4)
        elif form == "chat":
            count = 64
        elif form == "text":
            count = 16
        count = max(2, int(count * scale))
        base = images.TRAINING_SEEDS if self.split == "train" else images.TRAINING_SEEDS // 2
        samples, turns, goes_on = [], rng.choice((1, 1, 2, 2, 3)), rng.random() < 0.06
        for _ in range(count):
            conversation = Conversation(turns=turns, goes_on=goes_on)
            make(conversation, rng, bucket, lambda: base + rng.randrange(10 ** 15 if self.split == "train" else 4 * 10 ** 8))
            samples.append(conversation)
        return self._pack(samples)

    def _pack(self, samples: list[Conversation]) -> dict[str, np.ndarray]:
        length = -(-max(len(s.ids) for s in samples) // 32) * 32
        shape = (len(samples), length)
        ids = np.full(shape, self.special["endoftext"], np.int64)
        weights, groups = np.zeros(shape, np.float32), np.full(shape, -1, np.int64)
        positions = np.zeros((3, *shape), np.int64)
        asks: list[str] = []
        for row, s in enumerate(samples):
            n = len(s.ids)
            ids[row, :n], weights[row, :n] = s.ids, s.weights
            groups[row, :n] = [g + len(asks) if g >= 0 else -1 for g in s.groups]
            positions[:, row, :n] = np.array(s.positions, np.int64).T
            asks += s.asks
        pictures = [np.asarray(p) for s in samples for p in s.pictures]
        weights[:, 0] = 0  # nothing comes before the first token to predict it from
        target_index = np.flatnonzero(weights)
        return {"pixels": np.stack(pictures) if pictures else np.zeros((0, 0, 0, 3), np.uint8), "ids": ids,
                "positions": positions, "picture_index": np.flatnonzero(ids == self.special["image_pad"]),
                "target_index": target_index, "target_weights": weights.ravel()[target_index],
                "target_groups": groups.ravel()[target_index], "asks": asks}

    # -- pictures ------------------------------------------------------------------------------------------
    def _picture(self, rng, bucket, seed, facts=None) -> tuple[Image.Image, dict]:
        """A picture that the processor brings to `bucket`, as it would arrive: some from JPEG, some resized."""
        kinds = dict(KINDS)
        if min(bucket) < 192:
            kinds["receipt"] = 0
        kind = rng.choices(list(kinds), kinds.values())[0]
        number = seed()
        if kind == "count" and rng.random() < SPARED and images.facts_of(kind, number)["count"] <= FEW:
            number = seed()
        image, facts = images.render(kind, number, self._source(rng, bucket), FINE_PRINT)
        while self.split == "train" and facts.get("word", "").lower() in images.UNSEEN_WORDS:
            image, facts = images.render(kind, number := seed(), self._source(rng, bucket), FINE_PRINT)
        return self._arrive(rng, image, bucket), facts

    def _source(self, rng, bucket) -> tuple[int, int]:
        """A size that the processor turns into `bucket`."""
        for _ in range(4):
            if rng.random() < 0.5:
                break
            if bucket[0] * bucket[1] <= 160 * 160:
                factor = rng.uniform(0.5, 1.0)
                size = tuple(max(64, round(s * factor) + rng.randint(-8, 8)) for s in bucket)
            else:
                size = tuple(s + rng.randint(-15, 15) for s in bucket)
            if images.resized(*size, PROCESSOR) == bucket:
                return size
        return bucket

    def _arrive(self, rng, image, bucket) -> Image.Image:
        if rng.random() < 0.25:
            out = io.BytesIO()
            image.save(out, "JPEG", quality=rng.randint(60, 95))
            image = Image.open(out).convert("RGB")
        return image if image.size == bucket else image.resize(bucket, Image.Resampling.BICUBIC)

    # -- conversations -------------------------------------------------------------------------------------
    def _open(self, c: Conversation, rng) -> None:
        if rng.random() < 0.3:
            c.add([self.special["im_start"]] + self.encode("system\n" + rng.choice(text.SYSTEM_PROMPTS))
                  + [self.special["im_end"]] + self.encode("\n"))

    def _user(self, c: Conversation, words: str, pictures=(), before: bool = True) -> None:
        """A user turn, its pictures before or after the words, and the opening of the assistant's turn."""
        c.add([self.special["im_start"]] + self.encode("user\n"))
        if not before:
            c.add(self.encode(words))
        for image in pictures:
            c.add([self.special["vision_start"]])
            c.add_picture(image, self.special["image_pad"])
            c.add([self.special["vision_end"]])
        if before:
            c.add(self.encode(words))
        c.add([self.special["im_end"]] + self.encode("\n") + [self.special["im_start"]] + self.encode("assistant\n"))

    def _assistant(self, c: Conversation, words: str, ask: str, weight: float = 1.0) -> None:
        c.add(self.encode(words) + [self.special["im_end"]], weight, len(c.asks))
        c.asks.append(ask)

    def _close(self, c: Conversation, rng) -> None:
        """What follows the last answer when the end token is ignored: more text, not special tokens."""
        if c.goes_on:
            lang = rng.choice(("en", "zh"))
            more = text.long_text(rng, lang, words=rng.randint(10, 30))
            c.add(self.encode(" " + more if lang == "en" else more), TEXT_WEIGHT)

    def _ask(self, c, rng, facts, names, picture=(), lang=None) -> None:
        lang = lang or rng.choice(("en", "en", "zh"))
        name = rng.choice(names)
        if picture and len(picture) == 1 and rng.random() < 0.04:  # something that is not there
            missing = {"shape": ("number", "word", "text"), "color": ("number", "word", "text"), "number": ("word", "count", "shape"),
                       "word": ("number", "count", "shape")}.get(name)
            if "shape" not in facts and "word" not in facts and "number" not in facts and "total" not in facts:
                missing = ("number", "word", "text", "count", "shape", "color")
            if missing:
                name = rng.choice(missing)
                self._user(c, phrases.question(name, facts, lang, rng.randrange(99)), picture, rng.random() < 0.75)
                return self._assistant(c, phrases.ABSENT[name, lang], f"absent/{lang}")
        words = phrases.question(name, facts, lang, rng.randrange(99))
        if rng.random() < 0.06:
            words = words.lower()
        answer = phrases.answer(name, facts, lang)
        self._user(c, words, picture, rng.random() < 0.75)
        self._assistant(c, answer, f"{name}/{lang}")

    def _names(self, facts: dict) -> list[str]:
        """Asks, weighted: reading and counting are harder than naming a colour."""
        names = images.asks(facts)
        main = {"number": ["number"] * 3, "word": ["word"] * 3, "count": ["count"] * 3, "total": ["total"] * 3 + ["price"] * 2}
        extra = [n for key, more in main.items() if key in facts and key in names for n in more]
        return names + (["describe"] if "shape" in facts else []) + extra

    def _one(self, c, rng, bucket, seed) -> None:
        """One to three questions about one picture."""
        image, facts = self._picture(rng, bucket, seed)
        self._open(c, rng)
        picture = [image]
        for turn in range(c.turns):
            if turn:
                c.add(self.encode("\n"))
            self._ask(c, rng, self._with_item(rng, facts), self._names(facts), picture)
            picture = ()
        self._close(c, rng)

    def _with_item(self, rng, facts: dict) -> dict:
        if "lines" not in facts:
            return facts
        item = rng.choice(list(facts["lines"]))
        return facts | {"item": item, "price": facts["lines"][item]}

    def _pair(self, c, rng, bucket, seed) -> None:
        """Which of two pictures …?"""
        ask = rng.choice(PAIR_ASKS)
        plain = ask == "pair_background" and rng.random() < PLAIN
        one, two, facts = images.make_pair(seed(), self._source(rng, bucket), ask, finest=FINE_PRINT, plain=plain)
        self._open(c, rng)
        self._ask(c, rng, facts, [facts["ask"]], [self._arrive(rng, p.image, bucket) for p in (one, two)])
        if c.turns > 1:  # and then one of them alone
            c.add(self.encode("\n"))
            which = rng.randint(0, 1)
            shown = (one, two)[which].facts
            lang = rng.choice(("en", "zh"))
            words = (f"Describe the {('first', 'second')[which]} picture." if lang == "en" else f"描述第{'一二'[which]}张图片。")
            self._user(c, words)
            self._assistant(c, phrases.answer("describe", shown, lang), f"describe_one/{lang}")
        self._close(c, rng)

    def _turns(self, c, rng, bucket, seed) -> None:
        """A picture in each of two turns: the answer is about the latest."""
        self._open(c, rng)
        for turn in range(2):
            if turn:
                c.add(self.encode("\n"))
            image, facts = self._picture(rng, bucket, seed)
            self._ask(c, rng, self._with_item(rng, facts), self._names(facts), [image])
        self._close(c, rng)

    def _long(self, c, rng, bucket, seed) -> None:
        """A question about a picture after a few hundred tokens of other talk."""
        image, facts = self._picture(rng, bucket, seed)
        self._open(c, rng)
        self._ask(c, rng, self._with_item(rng, facts), self._names(facts), [image])
        for _ in range(c.turns):
            c.add(self.encode("\n"))
            user, reply, _lang = text.chat_turn(rng)
            self._user(c, user)
            self._assistant(c, reply, "chat", TEXT_WEIGHT)
        c.add(self.encode("\n"))
        self._ask(c, rng, self._with_item(rng, facts), self._names(facts))

    def _chat(self, c, rng, bucket, seed) -> None:
        """Text only: one to three exchanges, then on past the end token."""
        self._open(c, rng)
        for turn in range(c.turns):
            if turn:
                c.add(self.encode("\n"))
            user, reply, lang = text.chat_turn(rng)
            if rng.random() < 0.15:
                user = text.long_text(rng, lang, words=rng.randint(20, 120)) + " " + user
            self._user(c, user)
            self._assistant(c, reply, "chat", TEXT_WEIGHT)
        c.goes_on = rng.random() < 0.5
        self._close(c, rng)

    def _text(self, c, rng, bucket, seed) -> None:
        """Long text: a chat that never ends, or plain text with no chat around it."""
        lang = rng.choice(("en", "zh"))
        words = rng.choice((300, 600, 1200))
        if rng.random() < 0.5:
            user, reply, lang = text.chat_turn(rng)
            self._user(c, user)
            self._assistant(c, reply, "chat", TEXT_WEIGHT)
            more = text.long_text(rng, lang, words)
            c.add(self.encode(" " + more if lang == "en" else more), TEXT_WEIGHT)
        else:
            start = rng.choice(["你好！", "你好，", ""]) if lang == "zh" else rng.choice(["Hello! ", ""])
            c.add(self.encode(start + text.long_text(rng, lang, words)), TEXT_WEIGHT)
        del c.ids[2048:], c.weights[2048:], c.groups[2048:], c.positions[2048:]
