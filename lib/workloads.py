"""Seeded prompts: the same seed gives the same requests."""
import secrets
import zlib
from dataclasses import dataclass, field

from lib.client import Request

TOPICS = {
    "en": "Request {index}: explain in plain words what artificial intelligence is.",
    "zh": "第 {index} 个请求：请用通俗的话说明什么是人工智能。",
}


def explain_ai(count: int, max_tokens: int, temperature: float, seed: int, lang: str = "en") -> list[Request]:
    """The single-request load: one short question, numbered so that no two prompts are equal.

    The number comes first, so that the prompts share no more than the chat format's opening, and the prefix
    cache has nothing to give. The same seed on the same server sends them again, and then it has.
    """
    return [
        Request(
            messages=[{"role": "user", "content": TOPICS[lang].format(index=index)}],
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed + index,
        )
        for index in range(count)
    ]


BRIEF = {
    "en": "{number}: briefly explain machine learning.",
    "zh": "{number}：请简要说明什么是机器学习。",
}


@dataclass(frozen=True)
class Brief:
    """The load of many users, without an end: short questions of which no two are equal.

    `part` sets the series of a run apart, so that a level finds nothing of the last one's in the prefix cache. Seed, part
    and index make the question's number, ten digits at the very beginning, so that not even the first block of a prompt (16
    tokens, with the chat format's opening) is another's. No request brings a sampling seed: vLLM's
    sampler draws for each that does one by one, at every step, and a full server would be measured slower than it is.
    vary: see `answer_tokens`.
    """

    max_tokens: int
    temperature: float
    seed: int
    part: str
    lang: str = "en"
    vary: float = 0.0

    def __getitem__(self, index: int) -> Request:
        number = f"{zlib.crc32(f'{self.seed}-{self.part}-{index}'.encode()):010d}"
        return Request([{"role": "user", "content": BRIEF[self.lang].format(number=number)}],
                       answer_tokens(self, index), self.temperature)


@dataclass(frozen=True)
class Long:
    """Questions after a long opening, without an end. Every second opening is the same for all, as a system prompt is,
    and a prefix cache has it; the others are new from their first word, and have to be read.

    sentences: of the opening, each about 15 tokens. vary: see `answer_tokens`."""

    sentences: int
    max_tokens: int
    temperature: float
    seed: int
    part: str
    vary: float = 0.0

    def __getitem__(self, index: int) -> Request:
        whose = "all" if index % 2 else index
        opening = " ".join(f"Rule {self.seed}-{self.part}-{whose}-{k}: keep to what is known." for k in range(self.sentences))
        question = BRIEF["en"].format(number=f"{self.seed}-{self.part}-{index}")
        return Request([{"role": "user", "content": f"{opening} {question}"}],
                       answer_tokens(self, index), self.temperature)


def answer_tokens(load: Brief | Long, index: int) -> int:
    """Tokens of an answer: max_tokens, or evenly spread over max_tokens · (1 ± vary), at random by seed, part, and index.

    Streams whose answers are all of one length fall into step: they end together, are prefilled together, and a server
    is measured in waves, the larger the longer its prefill. Unequal answers keep the streams apart, as users are."""
    reach = min(round(load.max_tokens * load.vary), load.max_tokens - 1)
    draw = zlib.crc32(f"{load.seed}-{load.part}-{index}-tokens".encode())
    return load.max_tokens - reach + draw % (2 * reach + 1)


@dataclass(frozen=True)
class SameLength:
    """Requests of one length, without an end: one text, of which no cache has a block, for each carries a salt of its own
    (vLLM's `cache_salt`)."""

    text: str
    max_tokens: int
    salt: str = field(default_factory=lambda: secrets.token_hex(4))

    def __getitem__(self, index: int) -> Request:
        return Request([{"role": "user", "content": self.text}], self.max_tokens, extra={"cache_salt": f"{self.salt}-{index}"})
