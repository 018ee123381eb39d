"""Seeded prompts: the same seed gives the same requests."""
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
