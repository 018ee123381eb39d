"""Seeded prompts: the same seed gives the same requests."""
from lib.client import Request

TOPICS = {
    "en": "Explain in plain words what artificial intelligence is. (request {index})",
    "zh": "请用通俗的话说明什么是人工智能。（第 {index} 个请求）",
}


def explain_ai(count: int, max_tokens: int, temperature: float, seed: int, lang: str = "en") -> list[Request]:
    """The single-request load: one short question, numbered so that no two prompts are equal.

    The number comes last, so the prompts share a prefix; it is shorter than a block of the prefix cache.
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
