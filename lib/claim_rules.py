"""Claims held against a run: each holds, does not hold, holds only in part, is undecided, or is not testable here, because. Pure but for files.

A figure is judged by its interval, not by its value: inside what is claimed it holds, outside it does not, and across the edge
nothing is said. A claim of some hardware and model is tested on these alone. Elsewhere the physical limit of that
hardware (lib/limits.py) can still refute it; it can never confirm it. A comparison with another machine is
scaled by the two limits and marked as scaled. What needs no measuring is taken from where it is written: a model's
configuration, the source of the vLLM that is installed, or the claimant's other numbers.
"""
import difflib
import fnmatch
import importlib.util
import math
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from lib import claim_limits, compare, drafts, machine, metrics, records, sentences, served, telemetry, tuning
from lib.claim_words import LANGUAGES, UNSETTLED, counted, number_and_unit, said, table, word
from lib.claims import ANY, GPU, UNITS, UNSAID, Check, Claim, Claims, load, words
from lib.errors import UserError
from lib.rundir import RunDir, read_json, write_text
from lib.stats import Estimate

NEAR = 0.85  # alike enough to be a mistyped id
SMALLEST = 0.02  # a ratio this near to 1 neither rises nor falls
NO_DOUBT = ("valid", "faster", "slower", "higher", "lower", "the same", "no difference shown")


@dataclass
class Found:
    """What one check came to. `holds`: True, False, or None where it could not be told, for the `reason`. `ids`: the figures it is
    from."""

    check: Check
    holds: bool | None
    measured: Estimate | None = None
    unit: str = ""
    name: str = ""
    reason: str = ""
    limit: str = ""
    share: float = math.nan
    scaled: str = ""
    ids: tuple = ()


@dataclass
class Held:
    """A claim's verdict, in the language asked for: `verdict` is one of claim_words.VERDICTS' keys."""

    claim: Claim
    verdict: str
    reasons: list[str]
    found: list[Found] = field(default_factory=list)


def hold(claims: Claims, run: RunDir, lang: str = "en") -> list[Held]:
    """Every claim of a file against a run. Raises UserError where a claim's unit does not go with the figure it names."""
    asked = _Run(run, lang)
    return [_claim(claim, claims, asked, lang) for claim in claims.claims]


class _Run:
    """What rules ask of a run, read once."""

    def __init__(self, run: RunDir, lang: str):
        self.run, self.figures, self.info = run, run.figures(), run.info()
        self.model = str(self.info.get("model", ""))
        facts = self.info.get("facts", {})
        gpu = facts.get("GPU") or facts.get("client's GPU") or "none"
        named = (self.info.get("gpu") or {}).get("name")  # of a server on another machine, as its user named it
        self.hardware = named or (gpu.split(";")[0].split(",")[0] if gpu != "none" and "GPU" in facts else facts.get("processor", ""))
        self.tuning = read_json(self.run.path / "tuning.json", {})
        self.version = re.match("(?:vLLM ([^,]+))?", str(facts.get("server", "")))[1]  # None: not vLLM, or not told
        self.source = sentences.Source(lang, self.figures, self.info, drafts.words())

    def name(self, figure_id: str) -> str:
        """A figure's name, and whose it is."""
        figure = self.figures[figure_id]
        if self.source.lang == "zh":
            return f"{sentences.owner(self.source, figure_id, figure)}：{sentences.name(self.source, figure)}"
        return f"{Path(figure['records']).stem}: {figure['name']}"


# -- a claim -----------------------------------------------------------------------------------------
def _claim(claim: Claim, claims: Claims, run: _Run, lang: str) -> Held:
    elsewhere = _elsewhere(claim, run, lang)
    measured = [_check(check, claim, run, elsewhere, lang) for check in claim.checks]
    told = [_evidence(check, claim, claims, run, lang) for check in claim.evidence]
    found = measured if any(f.holds is not None for f in measured) else measured + told
    holds = [f.holds for f in found]
    if True in holds and False in holds:
        verdict = "part"
    elif False in holds:
        verdict = "fails"
    elif True in holds and (None not in holds or (not any(f.holds is not None for f in measured))):
        verdict = "holds"
    else:
        tested = any(f.measured is not None or f.holds is not None for f in measured)
        verdict = "undecided" if tested and not elsewhere else "untestable"
    decided = [f.reason for f in found if f.holds is not None]
    seen = [f.reason for f in found if f.holds is None and f.measured is not None and not elsewhere]
    open_ = [f.reason for f in found if f.holds is None]
    reasons = [words(claim, "untestable", lang)] if claim.untestable else decided + (open_ if verdict in UNSETTLED else seen)
    return Held(claim, verdict, list(dict.fromkeys(filter(None, reasons))), found)


def _elsewhere(claim: Claim, run: _Run, lang: str) -> str:
    """Why the claim is not about what this run measured; "" if it is."""
    if UNSAID in (claim.hardware, claim.model):
        return said("unsaid", lang)
    if claim_limits.same_model(claim.model, run.model) and claim_limits.same_hardware(claim.hardware, run.hardware):
        return ""
    names = [word(any_, lang) if name in (ANY, GPU) else name.rsplit("/", 1)[-1]
             for name, any_ in ((claim.model, "any model"), (claim.hardware, claim.hardware))]
    here = run.source.word("found", run.hardware) or "–"
    return said("elsewhere", lang, model=names[0], hardware=names[1], here_model=run.model or "–", here=here)


# -- what a run says of a check ----------------------------------------------------------------------
def _check(check: Check, claim: Claim, run: _Run, elsewhere: str, lang: str) -> Found:
    if check.starts:
        return replace(_started(check, run, lang), **({"holds": None, "reason": elsewhere} if elsewhere else {}))
    measured, unit, name, why, ids = _measured(check, claim, run, lang)
    found = Found(check, None, measured, unit, name, why, ids=ids)
    if claim.work and check.figure:
        impossible = claim_limits.beside(found, claim, run.model, run.hardware, lang)
        if elsewhere and impossible:
            return replace(found, holds=False, reason=found.limit)
    if elsewhere:
        found.reason = f"{elsewhere}; {why}" if _nearest(check, run) else elsewhere
    elif measured is not None and not why:
        shown = all(run.figures[i].get("shown", True) for i in ids)
        found.holds = _judge(check, measured) if shown and (math.isfinite(measured.low) or check.seen) else None
        key = "measured" if found.holds is not None else "undecided" if math.isfinite(measured.low) else "no_interval"
        if check.comparator == "happens" and found.holds is None:
            key = "not_seen" if shown else "not_shown"
        found.reason = said(key, lang, name=name, value=number_and_unit(measured, unit, lang), n=measured.n)
    return found


def _measured(check: Check, claim: Claim, run: _Run, lang: str) -> tuple[Estimate | None, str, str, str, tuple]:
    """(estimate in the check's unit, that unit, the figure's name, why it settles nothing, the ids of the figures)."""
    if check.first_of:
        found = _cold_over_warm(run, check.first_of, check.over)
        return (found, "times", word("first", lang), "", ()) if found else (
            None, "", "", said("no_series", lang, name=f"{check.first_of}, {check.first_of.rpartition('.')[0]}.{check.over}"), ())
    if check.flags:
        figure_id, inverse = _tuned(check, run)
        if figure_id is None:
            return None, "", "", said("no_flags", lang, flags=check.flags), ()
    else:
        figure_id, inverse = check.figure, False
    ids = [figure_id, *([check.over] if check.over else [])]
    if missing := [i for i in ids if i not in run.figures]:
        nearest = _nearest(check, run)
        return None, "", "", said("mistyped" if nearest else "no_figure", lang, name=missing[0], nearest=nearest), ()
    figures = [run.figures[i] for i in ids]
    doubt = next((f["verdict"] for f in figures if f["verdict"] not in NO_DOUBT), None)
    estimates = [_estimate(figure) for figure in figures]
    name = " / ".join(map(run.name, ids))
    if estimates[0] is None or estimates[-1] is None:
        return None, "", name, said("no_value", lang, name=name), ()
    unit, estimate = check.unit, estimates[0]
    if check.over:
        estimate = compare.ratio_of(estimates[1], estimates[0])
    else:
        factor = _factor(figures[0]["unit"], check.unit, claim.id, figure_id)
        estimate = estimate.scaled(factor)
    if inverse:
        estimate = Estimate(1 / estimate.value, 1 / estimate.high, 1 / estimate.low, estimate.n)
    why = said("doubtful", lang, name=name, verdict=sentences.reasons(run.source, doubt)) if doubt else ""
    return estimate, unit, name, why, tuple(ids)


def _nearest(check: Check, run: _Run) -> str:
    """The figure that a check must mean whose own is mistyped; "" where it is there, or where a run only lacks it: another level's is no
    mistyped one."""
    def bare(figure_id):
        return re.sub(r"[0-9]+", "#", figure_id)

    missing = next((i for i in (check.figure, check.over) if i and i not in run.figures and not check.first_of), "")
    if not missing or bare(missing) in map(bare, run.figures):
        return ""
    return next(iter(difflib.get_close_matches(missing, run.figures, 1, NEAR)), "")


def _estimate(figure: dict) -> Estimate | None:
    if figure["value"] is None:
        return None
    low, high = (math.nan if end is None else end for end in figure["interval"])
    return Estimate(figure["value"], low, high, int(figure["n"]))


def _factor(unit: str, wanted: str, claim: str, figure: str) -> float:
    if unit == wanted:
        return 1.0
    kinds = [UNITS.get(u, (u, 1)) for u in (unit, wanted)]
    if kinds[0][0] != kinds[1][0]:
        raise UserError(f"claim {claim!r}: unit {wanted!r} does not go with figure {figure}, which is in {unit!r}")
    return kinds[0][1] / kinds[1][1]


def _tuned(check: Check, run: _Run) -> tuple[str | None, bool]:
    """The figure of the ratio that a configuration with these flags had in 06_tuning, and whether it is the other way round: the
    baseline had them and the configuration did not."""
    configuration, inverse = _tried(check.flags, run)
    return (f"tuning.{configuration['letter']}.{check.metric}.{tuning.RATIO}" if configuration else None), inverse


def _tried(flags: str, run: _Run) -> tuple[dict | None, bool]:
    """The configuration of 06_tuning with these flags, or of this name; and whether it lacks them, and the baseline had them."""
    wanted = shlex.split(flags)
    switch_off = [wanted[0].replace("--", "--no-", 1)]
    for configuration in run.tuning.get("configurations", [])[1:]:
        own = configuration["own"]
        if configuration["name"] == flags:
            return configuration, False
        for part, inverse in ((wanted, False), (switch_off, len(wanted) == 1)):
            if own[:len(part)] == part and len(own) <= len(part) + (part[-1].startswith("--") and not inverse):  # and its value
                return configuration, inverse
    return None, False


def _started(check: Check, run: _Run, lang: str) -> Found:
    """Did a server with these flags start? Where it did not, the cause must be the one that the claim is about."""
    configuration, _ = _tried(check.starts, run)
    name = configuration["name"] if configuration else ""
    row = next((row for row in run.tuning.get("summary", []) if row["name"] == name), {})
    name = run.source.word("found", name)
    cause = str(row.get("cause", "")).partition(" (")[0]
    if row.get("state") == "measured":
        return Found(check, True, None, "", name, said("started", lang, name=name, means=words(check, "means", lang)))
    if row.get("state") == "cannot start" and check.confirmed in cause:
        return Found(check, False, None, "", name, said("not_started", lang, name=name, cause=cause, means=words(check, "means", lang)))
    return Found(check, None, None, "", name, said("no_flags", lang, flags=check.starts))


def _cold_over_warm(run: _Run, pattern: str, warm: str) -> Estimate | None:
    """TTFT of the very first request of each start, the token by which it proved that it serves, by the server's own histogram before each such
    series, as a multiple of that of the first request of that start's own series `warm`, by this client's clock, which counts more: geometric mean
    over starts, of whichever configuration, with Student's interval. Both come alone and after a pause, which costs as well (docs/gpu.md).
    None without such starts: none was fresh where there was no model to start."""
    cold, usual = [], []
    for name in fnmatch.filter(run.run.series(), pattern) if run.tuning.get("spec") else ():
        own = f"{name.rpartition('.')[0]}.{warm}"
        first, later = telemetry.first_ttft_s(run.run.requests_file(name)), math.nan
        if first and own in run.run.series():
            later = metrics.per_request(records.read(run.run.requests_file(own))).sort_values("sent")["ttft_s"].iloc[0]
        if later > 0:
            cold.append(first)
            usual.append(later)
    starts = range(len(cold))
    return compare.compare(usual, cold, paired_rounds=(starts, starts)).ratio if cold else None


def _judge(check: Check, e: Estimate) -> bool | None:
    """True: the whole interval lies in what is claimed. False: none of it. None: neither."""
    if check.comparator == "happens":  # one instance shows that it can
        return True if e.value > 0 else None
    low, high = (e.low, e.high) if math.isfinite(e.low) and math.isfinite(e.high) else (e.value, e.value)
    if check.comparator in ("falls", "rises"):
        low, high = (low, high) if check.comparator == "falls" else (1 / high, 1 / low)
        return True if high < 1 else False if low > 1 / (1 + SMALLEST) else None
    least, most = check.region
    return True if low >= least and high <= most else False if high < least or low > most else None


# -- what needs no measuring -------------------------------------------------------------------------
def _evidence(check: Check, claim: Claim, claims: Claims, run: _Run, lang: str) -> Found:
    if check.documented:
        return _documented(check, run, lang)
    if check.own:
        values = {c.figure: c.value for other in claims.claims for c in other.checks if c.figure and not c.over}
        value, name = values.get(check.own, math.nan), word("own", lang)
        value /= values.get(check.over, math.nan) if check.over else 1
    elif check.published:
        model, _, key = check.published.partition(" ")
        value, name = served.published().get(model, {}).get("config", {}), f"{model}: {key}"
        for part in key.split("."):
            value = value.get(part, math.nan) if isinstance(value, dict) else math.nan
    else:
        value, name = claim_limits.room(claim), said("room", lang, hardware=claim.hardware)
    e = Estimate(float(value), math.nan, math.nan, 0)
    if not math.isfinite(e.value):
        return Found(check, None, None, "", name, said("no_value", lang, name=name))
    return Found(check, _judge(check, e), e, check.unit, name, said("told", lang, name=name, value=number_and_unit(e, check.unit, lang)))


def _documented(check: Check, run: _Run, lang: str) -> Found:
    """Does the vLLM that is installed say so? Its source is read, not run; where the server's was another, the reason says which."""
    spec = importlib.util.find_spec("vllm")
    folder = Path(spec.submodule_search_locations[0]).resolve() if spec else None
    path = folder and (folder / check.documented).resolve()
    path = path if path and path.is_relative_to(folder) else None  # a claims file reads vLLM's files, and no others
    version = next((v for name, v in machine.versions().items() if name.startswith("vllm")), "")
    try:
        text = path.read_text(encoding="utf-8") if path else ""
    except OSError:
        text = ""
    text = " ".join(re.sub(r'"\s+f?"', "", text).split())  # a long message stands in pieces
    if " ".join(check.says.split()) not in text:
        return Found(check, None, None, "", "", said("not_documented", lang, file=check.documented, version=version or word("none", lang)))
    if run.version and run.version.partition("+")[0] != version.partition("+")[0]:
        version = said("other_version", lang, version=version, server=run.version)
    return Found(check, check.speaks == "for", None, "", "", said("documented", lang, version=version, file=check.documented, means=words(check, "means", lang)))


def of_file(run: RunDir, file: str = "", lang: str = "en") -> list[Held]:
    """A file's claims against a run; the run keeps the file, and its report shows it from then on, until `article` is the file.
    Without one: the run's own, else the article's. Raises UserError for what is wrong in the file, and keeps nothing then."""
    if lang not in LANGUAGES:
        raise UserError(f"language {lang!r} is unknown: choose one of {', '.join(LANGUAGES)}")
    own = run.path / "claims.yaml"
    claims = load(file or (str(own) if own.exists() else "article"))
    held = hold(claims, run, lang)
    if file == "article":
        own.unlink(missing_ok=True)
    elif file:
        write_text(own, yaml.safe_dump(claims.model_dump(exclude_defaults=True), allow_unicode=True, sort_keys=False))
    return held


def section(run: RunDir, lang: str = "en") -> dict:
    """For a report: `counted`, how many claims hold, in words, and `rows`, one a claim (claim_words.table). Where the file is
    broken, `counted` is the line that says so."""
    try:
        held = of_file(run, "", lang)
    except UserError as error:
        return {"counted": str(error), "rows": []}
    return {"counted": counted(held, lang), "rows": table(held, lang).to_dict("records")}
