"""Are the article's figures possible? Each beside the limit of the GPU and model that it names, from data alone. Pure."""
from dataclasses import dataclass

import pandas as pd
import yaml

from lib import DATA, claims, queueing, roofline, served, tables
from lib.efficiency import FAR, NEAR
from lib.limits import Bound, Limit

DTYPE = "fp16"  # 16 bits, as on a T4, which computes no bf16


@dataclass(frozen=True)
class Figure:
    """One claimed figure and the limit beside it, in `unit`; for ms less is better."""

    claim: str
    value: float
    unit: str
    limit: float
    by: str

    @property
    def percent(self) -> float:
        return 100 * (self.limit / self.value if self.unit == "ms" else self.value / self.limit)

    @property
    def judged(self) -> str:
        if self.percent > 100:
            return "NO: above the limit"
        return "yes, near the limit" if self.percent >= NEAR else "yes" if self.percent >= FAR else "yes, far from the limit"


def figures() -> dict[str, Figure]:
    """The article's speeds and first-token times on a T4, and the one that it quotes of an RTX 3060; by short names, and
    the levels by their number of users."""
    about, single, pictured = _about(), claims.article(), claims.pictures()
    card, quoted = _limit(about["fits"]), _limit(about["quoted"])
    prompt, answer, size = about["prompt_tokens"], about["answer_tokens"], tuple(about["picture"])
    seen = prompt + card.model.vision.tokens(*size)
    text, picture = card.prefill(prompt), card.prefill(seen, pictures=(size,))
    with_picture = card.decode(1, seen + about["picture_answer_tokens"] / 2)
    found = {users: _rate(f"{users} at once", row["throughput_tps"], card.decode(users, prompt + answer / 2), users)
             for users, row in queueing.article().iterrows()}
    shape = "{}×{}".format(*size)
    return found | {
        "text": Figure("first token, text", single.loc["ttft_s", "mean"], "ms", text.seconds * 1000, text.by),
        "picture": Figure(f"first token, one {shape} picture", pictured.loc["ttft_s", "low"] * 1000, "ms", picture.seconds * 1000, picture.by),
        "with picture": _rate(f"with one {shape} picture", pictured.loc["article_tps", "mean"], with_picture),
        "ocr": _rate("the quoted OCR run, were it on a T4", pictured.loc["ocr", "mean"], picture, unit="pictures/s"),
        "quoted": _rate(about["quoted"]["claim"], about["quoted"]["tokens_per_s"], quoted.decode(1, prompt + answer / 2)),
    }


def _rate(claim: str, value: float, bound: Bound, each: int = 1, unit: str = "tokens/s") -> Figure:
    return Figure(claim, value, unit, each / bound.seconds, bound.by)


def table() -> pd.DataFrame:
    """Claimed, limit and share, a line a figure."""
    return pd.DataFrame([{
        "claim": f.claim, "article": f"{tables.number(f.value)} {f.unit}", "limit": f"{tables.number(f.limit)} {f.unit}",
        "of the limit, %": f.percent, "limited by": f.by, "possible?": f.judged} for f in figures().values()])


def words() -> str:
    """What the limits say about the article's speeds, in sentences."""
    found, levels = figures(), list(queueing.article().index)
    one, most, text, picture = (found[name] for name in (levels[0], levels[-1], "text", "picture"))
    over = [f.claim for f in found.values() if f.percent > 100]
    return (
        f"{'Above their limit, and so impossible: ' + '; '.join(over) if over else 'None of them is above its limit: physics contradicts none'}. "
        f"{tables.number(one.value)} tokens/s are {one.percent:.0f} % of the {tables.number(one.limit)} that a T4's memory allows one user of "
        f"Qwen3-VL-2B in 16 bits; {tables.number(most.value)} with {levels[-1]} users are {most.percent:.0f} % of "
        f"{tables.number(most.limit)}, since one reading of the weights serves all of them"
        + (", and more users would have got more" if most.percent < NEAR else "")
        + f". The first token took {text.value / text.limit:.0f} times as long as reading the weights once, and with a picture "
        f"{picture.value / picture.limit:.0f} times as long as computing it"
        + (": what those times measure is not the GPU." if max(text.percent, picture.percent) < FAR else "."))


def memory() -> str:
    """Do the models fit the cards that the article names, in sentences."""
    about = _about()
    card, small, speed = _limit(about["fits"]), _limit(about["quoted"]), about["quoted"]["tokens_per_s"]
    room, context, each = card.kv_room(), about["max_model_len"], about["prompt_tokens"] + about["answer_tokens"]
    weights, read, link = small.model.weight_bytes(DTYPE), small.model.read_bytes(DTYPE), small.machine.link
    # 1 / tokens/s = (read - x) / bandwidth + x / link, solved for x: the bytes that cross the link for each token.
    crossing = (1 / speed - read / small.machine.bandwidth(read)) / (1 / link - 1 / small.machine.bandwidth(read))
    told = (
        f"{card.model.name} has {card.model.parameters:,} weights, {tables.number(card.model.weight_bytes(DTYPE) / 1e9)} GB in 16 bits: "
        f"{'they fit' if room else 'they do not fit'} the {card.machine.memory / 1e9:.0f} GB of the {card.machine.name}. At 90 % of it "
        f"{room:,.0f} tokens of context fit beside them (work space not counted): {room / context:.1f} requests of the full "
        f"{context:,} tokens, {room / each:,.0f} of the article's. ")
    if "bf16" not in card.machine.flops:
        told += f"The {card.machine.name} computes no bfloat16, which is the model's own dtype: vLLM's auto makes it float16 there. "
    told += f"{small.model.name} takes {tables.number(weights / 1e9)} GB: "
    if weights > small.machine.memory:
        return told + f"more than the {small.machine.name} holds."
    return told + (f"it fits the {small.machine.name} without any offload, which then allows {tables.number(1 / small.decode(1, each).seconds)} tokens/s; "
                   f"{speed:g} are left where {tables.number(crossing / 1e9)} GB cross the link to the host for every token.")


def _about() -> dict:
    return yaml.safe_load((DATA / "claims" / "article_hardware.yaml").read_text(encoding="utf-8"))


def _limit(named: dict) -> Limit:
    return Limit(served.model_published(named["model"]), DTYPE, roofline.datasheet(named["gpu"]))
