"""Seeded conversations that grow to a context length: the same seed gives the same dialogues.

What users say is in data/dialogues.yaml; what was answered becomes part of the next turn's messages, as it does for
a user. Where a context has to grow faster than that, the user pastes material of the dialogue's topic along.
"""
import random
import re
import secrets
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd
import yaml

from lib import DATA, images
from lib.client import Request
from lib.errors import UserError
from lib.records import Record
from lib.unseen import unseen

SYSTEM = {"en": "You are a helpful assistant.", "zh": "你是一个有用的助手。"}
FIRST_GUESS = {"en": 0.5, "zh": 1.5}  # tokens a character, before the server has counted any
MARGIN = 64  # tokens of the context that are left free, and beside them this share of a turn's growth: how many tokens
SPREAD = 0.2  # a sentence has is only known afterwards
CACHES = ("on", "cold", "alternate")


@dataclass(frozen=True)
class Talks:
    """A workload (see lib.driver) of conversations without an end: item i opens conversation i.

    turns: of the user, in each. context: tokens that the last turn's prompt and answer fill, about. max_tokens: of every
    answer, exactly. cache: "on", "cold", or "alternate": conversations in the order on, cold, cold, on, the first two
    with one dialogue and the last two with another, so that a round of four compares like with like. langs: drawn from.

    Cold requests carry a salt of their own (vLLM's `cache_salt`, which enters the hash of the first block), so that they
    share no block with any other and their tokens stay the same. The turns of a
    cached conversation share theirs. `salt` sets a workload apart from earlier ones, or a second run on the same server would find the first's blocks.
    """

    turns: int
    context: int
    max_tokens: int
    seed: int = 1
    cache: str = "on"
    think_s: float = 0.0
    langs: tuple = ("en", "zh")
    salt: str = field(default_factory=lambda: secrets.token_hex(4))
    _said: dict = field(default_factory=dict, repr=False, compare=False)  # (dialogue, turn) -> messages

    def __post_init__(self):
        if self.turns < 1 or self.max_tokens < 1:
            raise UserError(f"{self.turns} turns of {self.max_tokens} tokens: both must be at least 1")
        if self.think_s < 0:
            raise UserError(f"think time {self.think_s} s: it cannot be negative")
        if self.cache not in CACHES:
            raise UserError(f"cache {self.cache!r}: choose one of {', '.join(CACHES)}")
        least = MARGIN + self.turns * (self.max_tokens + 60)
        if self.context < least:
            raise UserError(f"a context of {self.context:,} tokens has no room for {self.turns} turns of {self.max_tokens} "
                            f"tokens: take at least {least:,}, or fewer turns")

    def __getitem__(self, index: int) -> Request:
        opening = [{"role": "system", "content": SYSTEM[self._lang(index)]}, self._user(index, 1, 30, None)]
        return self._request(index, 1, opening)

    def follow(self, request: Request, record: Record) -> Request | None:
        """The next turn; None after the last."""
        turn = record.turn + 1
        if turn > self.turns:
            return None
        said = request.messages + [{"role": "assistant", "content": record.text}]
        counted = record.prompt_tokens or 0
        per_char = counted / max(1, sum(len(m["content"]) for m in request.messages))
        return self._request(record.index, turn,
                             said + [self._user(record.index, turn, counted + record.output_tokens, per_char or None)])

    def expected(self) -> pd.DataFrame:
        """What a turn's prompt should hold, and what of it a cache can spare, a row a turn."""
        turn = np.arange(1, self.turns + 1)
        prompt = self._due(turn)
        new = np.diff(prompt, prepend=0) - self.max_tokens * (turn > 1)
        return pd.DataFrame({"turn": turn, "prompt tokens": prompt.round(), "of them new": new.round(),
                             "prefill to do, cached / cold": new / prompt})

    def _due(self, turn):
        """Tokens that a turn's prompt should hold."""
        return (self.context - MARGIN - SPREAD * self.context / self.turns) * turn / self.turns - self.max_tokens

    def cold(self, index: int) -> bool:
        return self.cache == "cold" or (self.cache == "alternate" and index % 4 in (1, 2))

    def dialogue(self, index: int) -> int:
        """Which dialogue conversation `index` has."""
        return index // 2 if self.cache == "alternate" else index

    def _request(self, index: int, turn: int, messages: list[dict]) -> Request:
        if self.cache == "alternate":  # the second conversation says what the first did, its answers included
            messages = self._said.setdefault((self.dialogue(index), turn), messages)
        salt = f"{self.salt}-{index}" + (f"-{turn}" if self.cold(index) else "")
        return Request(messages, self.max_tokens, extra={"cache_salt": salt})

    def _lang(self, index: int) -> str:
        return self.langs[self.dialogue(index) % len(self.langs)]

    def _user(self, index: int, turn: int, held: int, per_char: float | None) -> dict:
        """What the user says, with as much material as brings the context to its share of the whole. held: tokens that
        it has already. per_char: tokens a character, as the server has counted so far."""
        lang, dialogue = self._lang(index), self.dialogue(index)
        rng = random.Random(f"talk/{self.seed}/{dialogue}/{turn}")
        topics = dialogues()[lang]
        topic = topics[random.Random(f"topic/{self.seed}/{dialogue}").randrange(len(topics))]
        text = filled(topic["turns"][(turn - 1) % len(topic["turns"])], lang, rng)
        room = (self._due(turn) - held) / (per_char or FIRST_GUESS[lang])
        while len(longer := text + "\n" + filled(rng.choice(topic["material"]), lang, rng)) < room:
            text = longer
        return {"role": "user", "content": text}


@dataclass(frozen=True)
class PictureTalks:
    """A workload of conversations about pictures, which stay in the context: at each of the turns `show_at` a picture
    comes, and every turn asks something else about the newest. Answers end by themselves, so that they can be judged
    (see `judged`)."""

    turns: int
    seed: int = 1
    size: tuple = (224, 224)
    show_at: tuple = (1, 3)
    max_tokens: int = 48
    think_s: float = 0.0
    salt: str = field(default_factory=lambda: secrets.token_hex(4))

    def __getitem__(self, index: int) -> Request:
        return self._request(index, [self._user(index, 1)])

    def follow(self, request: Request, record: Record) -> Request | None:
        """The next turn; None after the last."""
        if record.turn >= self.turns:
            return None
        said = request.messages + [{"role": "assistant", "content": record.text}]
        return self._request(record.index, said + [self._user(record.index, record.turn + 1)])

    def picture(self, index: int, turn: int) -> images.Picture:
        """The newest picture at a turn."""
        shown = sum(at <= turn for at in self.show_at)
        rng = random.Random(f"picture talk/{self.seed}/{index}/{shown}")
        kind, seed = rng.choice(("shape", "shape", "number")), rng.randrange(images.TRAINING_SEEDS)
        return unseen(images.make(kind, seed, self.size, "jpeg"), f"{self.salt}/{index}")

    def question(self, index: int, turn: int) -> images.Question:
        picture = self.picture(index, turn)
        since = turn - max(at for at in self.show_at if at <= turn)
        names = images.asks(picture.facts)
        return images.ask(picture, names[since % len(names)], "en", wording=self.seed + index)

    def _request(self, index: int, messages: list[dict]) -> Request:
        return Request(messages, self.max_tokens, fixed_length=False, extra={"cache_salt": f"{self.salt}-{index}"})

    def _user(self, index: int, turn: int) -> dict:
        content = [{"type": "text", "text": self.question(index, turn).question}]
        if turn in self.show_at:
            content.insert(0, {"type": "image_url", "image_url": {"url": images.data_url(self.picture(index, turn))}})
        return {"role": "user", "content": content}


def lasting(seconds: float, share: float, count: int) -> dict:
    """How long a series goes on, as lib.load.run takes it: its share of `seconds`, or `count` conversations where that is 0."""
    return {"seconds": seconds * share} if seconds else {"count": count}


def filled(template: str, lang: str, rng: random.Random) -> str:
    """A template of data/dialogues.yaml with its slots drawn; a slot that comes twice is drawn twice."""
    slots = dialogues()["slots"][lang]
    text = re.sub(r"\{(\w+)\}", lambda m: str(rng.randint(2, 59) if m[1] == "n" else rng.choice(slots[m[1]])), template)
    return text[:1].upper() + text[1:]


@cache
def dialogues() -> dict:
    return yaml.safe_load((DATA / "dialogues.yaml").read_text(encoding="utf-8"))
