"""Somebody's published claims as data: an article's, or a vendor's table's. lib/claim_rules.py holds them against a run.

data/claims/README.md tells users how to write a file; the models below are its schema.
"""
import difflib
import math
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib import DATA, reading
from lib.errors import UserError

FOLDER = DATA / "claims"
UNITS = {  # unit -> (what it is of, in units of the first of its kind)
    "ms": ("time", 1), "s": ("time", 1000), "tokens/s": ("tokens", 1), "requests/s": ("requests", 1), "pictures/s": ("pictures", 1),
    "GB": ("memory", 1), "GiB": ("memory", 1.073741824), "MB": ("memory", 1e-3), "%": ("share", 1), "times": ("ratio", 1), "": ("ratio", 1),
    "tokens": ("length", 1), "requests": ("number", 1)}
NEEDS = {"about": ("value",), "between": ("low", "high"), "at least": ("value",), "at most": ("value",), "falls": (), "rises": (), "happens": ()}
SOURCES = ("figure", "flags", "starts", "first_of", "own", "memory", "published", "documented")
TOLD = ("min", "max", "kv_tokens", "gpu_memory")  # what was seen or read, and no estimate: it needs no interval
ANY, UNSAID, GPU = "any", "not said", "a GPU"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Work(Strict):
    """The work behind a figure, for the physical limit: tokens of prompt and answer, a picture as 1024x768."""

    prompt: int
    output: int
    picture: str = Field("", pattern=r"^(\d+x\d+)?$")
    dtype: Literal["fp32", "bf16", "fp16", "fp8", "int8", "awq-int4"] = "fp16"


class Check(Strict):
    """One figure of a claim, and where it is to be found: `figure`, an id of figures.json; `flags`, the ratio of `metric` that
    06_tuning measured with these flags; `starts`, whether 06_tuning could start a server with these flags; `first_of`, the TTFT of the one
    request that came before each of these series as a multiple of the first one's of series `over` of the same start;
    `own`, another number of the same claims file; `memory`, what fits the hardware; `published`, a model's config.json;
    `documented`, a file of the installed vLLM in which `says` stands. over: divided by that one. confirmed: words that the
    cause why nothing started must hold for it to count."""

    figure: str = ""
    flags: str = ""
    metric: str = ""
    starts: str = ""
    first_of: str = ""
    own: str = ""
    memory: Literal["", "kv_room"] = ""
    published: str = ""
    documented: str = ""
    says: str = ""
    speaks: Literal["", "for", "against"] = ""
    means: str = ""
    means_zh: str = ""
    over: str = ""
    confirmed: str = ""
    comparator: Literal["about", "between", "at least", "at most", "falls", "rises", "happens", ""] = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    tolerance: float = 0.1
    unit: str = "times"
    streams: int = 1

    @model_validator(mode="after")
    def _whole(self):
        given = [name for name in SOURCES if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"needs one of {', '.join(SOURCES)}, and has {' and '.join(given) or 'none'}")
        needed = ("says", "speaks", "means") if self.documented else ("comparator", *NEEDS.get(self.comparator, ()))
        needed += ("metric",) if self.flags else ("over",) if self.first_of else ("means",) if self.starts else ()
        if missing := [name for name in needed if getattr(self, name) in (None, "")]:
            raise ValueError(f"needs {missing[0]!r}")
        if self.unit not in UNITS:
            raise ValueError(f"unit {self.unit!r} is unknown{_nearest(self.unit, UNITS)} (known: {', '.join(filter(None, UNITS))})")
        if self.comparator == "between" and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        if self.starts and self.comparator != "happens":
            raise ValueError(f"what 'starts' can only happen, so its comparator is 'happens', not {self.comparator!r}")
        return self

    @property
    def region(self) -> tuple[float, float]:
        """What is claimed, from and to, in the check's unit; for "about", "between", "at least" and "at most"."""
        if self.comparator == "between":
            return self.low, self.high
        if self.comparator == "about":
            return self.value * (1 - self.tolerance), self.value * (1 + self.tolerance)
        return (self.value, math.inf) if self.comparator == "at least" else (-math.inf, self.value)

    @property
    def seen(self) -> bool:
        """Is its figure what was seen, and no estimate? Without an interval nothing else is judged."""
        return (self.metric or self.figure.rpartition(".")[2]) in TOLD and not self.over


class Claim(Strict):
    """checks: what a run can say, on the claimed hardware and model (any: on each; hardware `a GPU`: on each of these).
    evidence: what needs no measuring."""

    id: str
    en: str
    zh: str = ""
    model: str = ""
    hardware: str = ""
    method: str = ""
    method_zh: str = ""
    reading: str = ""
    reading_zh: str = ""
    untestable: str = ""
    untestable_zh: str = ""
    work: Work | None = None
    checks: list[Check] = []
    evidence: list[Check] = []

    @model_validator(mode="after")
    def _testable(self):
        if not (self.checks or self.evidence or self.untestable):
            raise ValueError("needs 'checks', 'evidence' or the reason why it is 'untestable'")
        return self


class Claims(Strict):
    """A file of claims. model and hardware: of every claim that names no other. What ends in _zh is its Chinese, where there is one."""

    source: str
    source_zh: str = ""
    model: str
    hardware: str
    claims: list[Claim]


def load(name: str = "article") -> Claims:
    """A claims file, by its name in data/claims or its path. Raises UserError, in one line, for what is wrong in it."""
    known = sorted(p.stem for p in FOLDER.glob("*.yaml") if p.stem != "article_hardware")
    path = FOLDER / f"{name}.yaml" if name in known else Path(name).expanduser()
    try:
        content = reading.yaml_file(path)
    except OSError:
        raise UserError(f"there is no claims file {str(name)!r} (there: {', '.join(known)}; or the path of a YAML file)")
    except reading.Unreadable as error:
        raise UserError(f"claims file {path.name}: {error}")
    if not isinstance(content, dict) or content.get("claims") == []:
        what = "is empty" if not content else {dict: "holds no claim", list: "is a list"}.get(type(content), "is no mapping")
        raise UserError(f"claims file {path.name} {what}: it needs source, model, hardware, and under claims: a list of them; "
                        "data/claims/README.md shows one")
    try:
        found = Claims.model_validate(content)
    except ValidationError as error:
        raise UserError(f"claims file {path.name}: {_said(error.errors()[0], content)}")
    ids = [claim.id for claim in found.claims]
    if twice := next((i for i in ids if ids.count(i) > 1), None):
        raise UserError(f"claims file {path.name}: two claims are named {twice!r}")
    for claim in found.claims:
        claim.model, claim.hardware = claim.model or found.model, claim.hardware or found.hardware
    return found


def words(of: Strict, name: str, lang: str) -> str:
    """An entry of a claims file in a language; as it is where it has no other."""
    return (getattr(of, f"{name}_zh") if lang == "zh" else "") or getattr(of, name)


def _said(error: dict, content) -> str:
    """pydantic's first error in our words, with the claim's id in place of its number."""
    place, words, part = list(error["loc"]), error["msg"].removeprefix("Value error, "), content
    where = []
    for step in place:
        part = part[step] if isinstance(part, (dict, list)) and (step in part if isinstance(part, dict) else step < len(part)) else None
        where.append((f"claim {part['id']!r}" if isinstance(part, dict) and "id" in part else f"no. {step + 1}") if isinstance(step, int) else step)
    if error["type"] == "extra_forbidden":
        known = {1: Claims, 3: Claim}.get(len(place), Work if "work" in place else Check).model_fields
        words = f"the key is unknown{_nearest(str(place[-1]), known)} (known: {', '.join(known)})"
    elif error["type"] == "missing":
        words = "it is missing"
    elif error["type"] == "literal_error":
        known = error["ctx"]["expected"].removesuffix(" or ''")
        words = f"{error['input']!r} is none of {known}{_nearest(str(error['input']), NEEDS)}"
    elif not error["type"].startswith("value_error") and where:
        words = f"{words.replace('Input should be', 'it should be')}, not {error['input']!r}"
    where = [w for w in where if w != "claims"]
    return f"{', '.join(map(str, where))}: {words}"


def _nearest(word: str, known) -> str:
    close = difflib.get_close_matches(word, [str(k) for k in known], 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


# -- the article's, as its notebooks show them --------------------------------------------------------
def _rows(metrics: dict[str, str]) -> pd.DataFrame:
    """Claims of the article, by id -> metric: claim, unit, mean, low, high, hardware; index: metric."""
    found, rows = {claim.id: claim for claim in load().claims}, []
    for name, metric in metrics.items():
        claim = found[name]
        row = {"metric": metric, "id": name, "claim": claim.en, "unit": claim.checks[0].unit, "mean": None, "low": None, "high": None,
               "hardware": claim.hardware}
        for check in claim.checks:
            row |= ({"low": check.low, "high": check.high} if check.comparator == "between" else
                    {{"min": "low", "max": "high"}.get(check.figure.rpartition(".")[2], "mean"): check.value})
        rows.append(row)
    return pd.DataFrame(rows).astype({c: float for c in ("mean", "low", "high")}).set_index("metric")


def article() -> pd.DataFrame:
    """The article's claims of a single request, one row each; index: metric."""
    return _rows({"ttft-single": "ttft_s", "speed-single": "article_tps", "total-single": "total_s"}).replace({"hardware": {"T4": "T4, 100 requests"}})


def pictures() -> pd.DataFrame:
    """What the article claims of requests with a picture, one row each; index: metric."""
    return _rows({"image-ttft": "ttft_s", "image-speed": "article_tps", "image-memory": "gpu_memory", "ocr-500": "ocr"})


def levels() -> pd.DataFrame:
    """The article's table of requests at once: total_ms and throughput_tps; index: streams."""
    claim = next(c for c in load().claims if c.id == "batch-1-2-4-8")
    cells = [(check.streams, "total_ms" if check.unit == "ms" else "throughput_tps", check.value) for check in claim.checks]
    return pd.DataFrame(cells, columns=["streams", "what", "value"]).pivot(index="streams", columns="what", values="value")


def consistency() -> pd.DataFrame:
    """What the article says of answers in batches, one row each; index: id."""
    return pd.DataFrame([{"id": c.id, "claim": c.en, "hardware": c.hardware} for c in load().claims if c.id == "batch-same"]).set_index("id")
