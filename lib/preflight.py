"""What is wrong with the parameters of a load, told in one line before anything is sent. Pure but for `ulimit -n`."""
import math

from lib import allowed, configurations, descriptors, own_pictures, reading, roofline
from lib.errors import UserError


def check(**parameters) -> None:
    """Check parameters of notebooks by their name; those without a check pass. Raises UserError."""
    for name, value in parameters.items():
        if name in CHECKS:
            CHECKS[name](name, value)


def listed(value) -> list:
    """A list parameter; papermill's own -p hands one over as text, `[1, 2, 4]`."""
    try:
        value = reading.yaml_text(value) if isinstance(value, str) else value
    except reading.Unreadable:
        raise UserError(f"{value!r} is not readable as a list: write it as [1, 2, 4]")
    return list(value) if isinstance(value, (list, tuple)) else [value]


def rising(levels: list[int]) -> list[int]:
    """Levels in rising order, each once."""
    return sorted(set(levels))


def _levels(name: str, value: list) -> None:
    if not value:
        raise UserError(f"{name} is empty: give at least one number of requests in flight")
    for level in value:
        _streams(name, level)


def _streams(name: str, value: int) -> None:
    if type(value) is not int or value < 1:
        raise UserError(f"{name} {value!r}: at least 1 request must be in flight, and a whole number of them")
    if done := descriptors.room_for(value, name):
        print(done)


def _batches(name: str, value: list) -> None:
    _levels(name, value)
    if min(value) < 2:
        raise UserError(f"{name} {value}: one request alone is no batch, give numbers from 2 up")


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{name} {value:g}: it must be greater than 0")


def _target(name: str, value: float) -> None:
    if not value > 0:
        raise UserError(f"{name} {value:g} cannot be met: no answer takes {'no time' if value == 0 else 'less than no time'}")


def _fractions(name: str, value: list) -> None:
    if not value:
        raise UserError(f"{name} is empty: give at least one share of the capacity")
    for fraction in value:
        if type(fraction) not in (int, float) or not 0 < fraction < math.inf:
            raise UserError(f"{name} {fraction!r}: a share of the capacity is a number greater than 0")


def _gpu(name: str, value: str) -> None:
    if value:
        roofline.datasheet(value)


def _price(name: str, value) -> None:
    from lib import cost  # pandas and scipy take seconds, which a mistyped command is to be told without

    cost.given(value)


def _count(name: str, value: int, least: int = 1) -> None:
    if type(value) is not int or value < least:
        raise UserError(f"{name} {value!r}: give a whole number of at least {least}")


def _none_or_more(name: str, value: int) -> None:
    _count(name, value, 0)


def _not_negative(name: str, value: float) -> None:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise UserError(f"{name} {value!r}: give a number of at least 0")


def _sizes(name: str, value: list) -> None:
    if not value:
        raise UserError(f"{name} is empty: give at least one size, like 1024x768")
    allowed.parse_sizes(value)


KINDS = {
    _count: ("requests", "questions", "turns", "turn_tokens", "talk_rounds", "picture_talks", "picture_requests", "picture_answer",
             "size_repeats", "picture_rounds", "ocr_pictures", "picture_probes", "tuning_rounds", "tuning_apart", "load_tokens",
             "consistency_questions", "consistency_texts", "consistency_tokens", "sampled_answers", "opening_samples"),
    _none_or_more: ("warmup", "seed", "searches", "context_tokens", "picture_most", "tuning_questions"),
    _not_negative: ("temperature", "single_seconds", "talk_seconds", "picture_seconds", "think_s"),
    _positive: ("seconds", "level_seconds", "endurance_seconds", "tuning_seconds"),
    _levels: ("streams", "concurrency", "picture_streams"),
    _streams: ("most_streams", "talks_at_once", "ocr_streams", "endurance_streams", "tuning_streams", "rush_streams", "beside_streams"),
    _target: ("ttft_target_ms", "tpot_target_ms"),
}
CHECKS = {name: check for check, names in KINDS.items() for name in names} | {
    "max_tokens": lambda name, value: _count(name, value, 2),  # the time per token is that between two
    "consistency_batches": _batches, "open_fractions": _fractions, "picture_sizes": _sizes, "gpu": _gpu,
    "pictures": lambda name, value: own_pictures.files(value), "configurations": lambda name, value: configurations.read(value),
    "price_per_hour": _price}


def window(name: str, seconds: float, request_s: float) -> None:
    """Can a series of `seconds` hold even one whole request of `request_s`? Raises UserError."""
    if seconds < 2 * request_s:  # sent after the start, answered before the end, wherever it falls
        raise UserError(f"{name} {seconds:g} s is shorter than a request needs ({request_s:.3g} s, and a window must hold a "
                        f"whole one): give at least {20 * request_s:.2g} s, for 20 of them")
