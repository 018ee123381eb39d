"""What the physical limit says of a claim on the hardware that it names, and a measurement scaled to it. Pure but for data files."""
import math
from functools import cache

from lib import limits, roofline, served, tables
from lib.claim_words import number_and_unit, said
from lib.claims import ANY, GPU, UNITS, Check, Claim
from lib.errors import UserError
from lib.limits import Limit

TIMES = ("ttft", "tpot", "total")  # the metrics of figure ids that are times; the others are tokens/s
METRICS = (*TIMES, "article_tps", "decode_tps", "throughput_tps")


def same_model(claimed: str, here: str) -> bool:
    def plain(name):
        return name.removeprefix("shape:").rsplit("/", 1)[-1].casefold()
    return claimed == ANY or plain(claimed) == plain(here)


def same_hardware(claimed: str, here: str) -> bool:
    if claimed in (ANY, GPU):
        return claimed == ANY or _machine(here) is not None
    try:
        sheet = roofline.datasheet_of(here) or roofline.datasheet(here)
        return sheet.name == roofline.datasheet(claimed).name
    except UserError:  # neither need be in data/gpus.yaml
        return claimed.casefold() in here.casefold().replace("-", " ").split()


def beside(found, claim: Claim, model: str, hardware: str, lang: str) -> bool:
    """Writes what the limit says of the claim, and the scaled comparison; -> whether the claim is impossible."""
    check = found.check
    metric = next((part for part in reversed(check.figure.split(".")) if part in METRICS), "")
    there = _bound(metric, claim, check.streams, _machine(claim.hardware))
    if there is None or UNITS[check.unit][0] != ("time" if metric in TIMES else "tokens") or check.comparator in ("falls", "rises", "happens") or check.seen:
        return False
    time, bound, (least, most) = UNITS[check.unit][0] == "time", there / UNITS[check.unit][1], check.region
    claimed = check.value if check.value is not None else most if time else least
    impossible = most < bound if time else least > bound
    found.share = bound / claimed if time else claimed / bound
    key = "impossible" if impossible else "longer" if time else "possible"
    found.limit = said(key, lang, hardware=claim.hardware, name=_level(check, lang), bound=f"{tables.number(bound)} {check.unit}",
                       claimed=f"{tables.number(claimed)} {check.unit}", percent=f"{100 * found.share:.0f}", times=f"{1 / found.share:.1f}")
    here = _bound(metric, claim, check.streams, _machine(hardware)) if same_model(claim.model, model) else None
    if here and found.measured is not None and not same_hardware(claim.hardware, hardware):
        scaled = found.measured.scaled(there / here)
        found.scaled = said("scaled", lang, hardware=claim.hardware, value=number_and_unit(scaled, check.unit, lang), name=_level(check, lang))
    return impossible


def _level(check: Check, lang: str) -> str:
    return said("at_once", lang, n=check.streams) if check.streams > 1 else ""


def _machine(name: str) -> limits.Machine | None:
    try:
        return roofline.datasheet_of(name) or roofline.datasheet(name)
    except UserError:
        return None


@cache
def _model(name: str) -> limits.Model | None:
    name = name.rsplit("/", 1)[-1]
    return served.model_published(name) if name in served.published() else None


def _bound(metric: str, claim: Claim, streams: int, on: limits.Machine | None) -> float | None:
    """The least time in ms, or the highest rate in tokens/s, that a machine allows for a claim's work; None if unknown."""
    model, work = _model(claim.model), claim.work
    if on is None or model is None:
        return None
    limit = Limit(model, work.dtype, on)
    sizes = (tuple(map(int, work.picture.split("x"))),) if work.picture else ()
    first = limit.prefill(work.prompt, pictures=sizes).seconds
    step = limit.decode(streams, work.prompt + work.output / 2).seconds
    whole = first + (work.output - 1) * step
    return {"ttft": first * 1e3, "tpot": step * 1e3, "total": whole * 1e3, "article_tps": work.output / whole, "decode_tps": 1 / step,
            "throughput_tps": streams / step}.get(metric)


def room(claim: Claim) -> float:
    """Tokens of context for which there is memory beside the weights, at 0.9 of it."""
    model, on = _model(claim.model), _machine(claim.hardware)
    return math.nan if model is None or on is None else Limit(model, "fp16", on).kv_room(0.9) or math.nan
