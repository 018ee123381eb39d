"""A run that is to be compared, read and checked: whole, of this version, its figures those of its records. Files in, runs out."""
import contextlib
import math
import re
import shlex
from pathlib import Path

import numpy as np

from lib import OUTPUTS, ROOT, metrics, records, rundir, stats, tables
from lib.errors import UserError
from lib.foreign import clean
from lib.imported import Measured, Run, read
from lib.rundir import read_json

SHOWN = {"ttft_s": "lower", "tpot_s": "lower", "total_s": "lower", "throughput_tps": "higher"}  # metric -> what is good
PARTS = ("run.json", "series.json", "figures.json")
PASSING = re.compile(r", started here in [\d.]+ s|, was running already|,? ?\(?[\d.]+ GiB free\)?")  # no setting, but how it was just then


@contextlib.contextmanager
def reading(run: str, what: str):
    """What is read inside comes from a run folder: where it has another form than the workbook writes, that is told in one line.
    what: what cannot be done then."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a folder that came from elsewhere, or was edited, may hold anything
        raise UserError(f"run {run}: {what} ({type(error).__name__}: {clean(error, 80)}): changed by hand, or written by another version of the "
                        "workbook")


def open_run(word: str) -> Run:
    """A run of this workbook by its name under outputs/ or its folder, or another tool's result file."""
    path = OUTPUTS / word if (OUTPUTS / word).is_dir() else Path(word)
    if path.is_dir() and any((path / part).exists() for part in (*PARTS, "requests")):
        with reading(path.name, "it cannot be compared"):
            return _workbook(path.resolve())
    if path.exists():
        return read(path.resolve())
    if "/" in word or word.endswith(".json"):
        raise UserError(f"there is no file or run {word!r}")
    with reading(word, "it cannot be compared"):
        return _workbook(rundir.find(word).path)


def unfinished(info: dict) -> str:
    """What of a run is not done, in words, from its run.json; "" where all is."""
    states = info.get("notebooks") or {}
    return ", ".join(f"{name} {state.get('status')}" for name, state in states.items() if state.get("status") != "done") if states else "run by hand"


def last_whole() -> str:
    """The newest run under outputs/ all of whose notebooks are done; "" where there is none."""
    found = []
    for path in OUTPUTS.glob("*/run.json"):
        with contextlib.suppress(UserError, AttributeError):  # whatever else lies there
            info = read_json(path, {})
            if info.get("plan") and not unfinished(info) and not path.parent.is_symlink():
                found.append((str(info.get("began")), path.parent.name))
    return max(found)[1] if found else ""


def _workbook(path: Path) -> Run:
    """A run folder, checked: whole, of this version, and its figures those of its records."""
    missing = [part for part in PARTS if not (path / part).exists()]
    if missing:
        raise UserError(f"run {path.name} is half there: it has no {' and no '.join(missing)}; make the run again, or fetch the whole folder")
    info, about, figures = (read_json(path / part, {}) for part in PARTS)
    facts = {name: PASSING.sub("", str(fact)) for name, fact in info.get("facts", {}).items() if name not in ("disk", "model")}
    facts |= _maker(info.get("made_by"))
    facts |= {"profile": info.get("profile", ""), "measured": info.get("began", "")}
    facts |= {f"parameter {name}": str(value) for name, value in info.get("parameters", {}).items()}
    series = {name: _series(path, name, known, figures) for name, known in about.items()}
    return Run(path.name, "workbook", str(info.get("model", "")), facts, series, path)


def _maker(made_by) -> dict:
    """What made a run, as settings that may differ between runs."""
    if not isinstance(made_by, dict):
        return {}
    packages = made_by.get("packages") if isinstance(made_by.get("packages"), dict) else {}
    return {"workbook": f"{made_by.get('workbook')}, code {made_by.get('code')}", "python": str(made_by.get("python", ""))} | {
        f"package {name}": str(version) for name, version in packages.items()}


def _series(path: Path, name: str, known: dict, figures: dict) -> Measured:
    if "/" in name or name.startswith(".") or "\0" in name:
        raise UserError(f"run {path.name}: {name[:60]!r} is no name of a series: changed by hand")
    file = path / "requests" / f"{name}.jsonl"
    if not file.exists():
        packed = path / "requests.tar.xz"  # as published runs have them
        shown = shlex.quote(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))
        remedy = f"`tar xJf {shown}/{packed.name} -C {shown}` unpacks them" if packed.exists() else "fetch the whole folder, or make the run again"
        raise UserError(f"run {path.name} is half there: series {name} has no requests/{file.name}; {remedy}")
    if not isinstance(known, dict) or {"shape", "window_s", "counts"} - set(known):
        raise UserError(f"run {path.name} was written by another version of the workbook: series {name} has no "
                        "shape, window_s or counts in series.json; make the run again with this one")
    frame = records.read(file, say=False)  # said below
    if frame.attrs["torn_lines"]:
        raise UserError(f"run {path.name}: {frame.attrs['torn_lines']} lines of requests/{file.name} are no records: cut off, or changed by hand")
    window = tuple(math.nan if t is None else t for t in known["window_s"])
    frame = metrics.mark_steady(metrics.per_request(frame), window)
    counts = metrics.denominators(frame)
    values = {metric: v for metric, v in metrics.values(frame, window).items() if metric in SHOWN}
    _agree(path.name, name, values, counts, known["counts"], figures)
    rows = metrics.measured(frame)
    return Measured(
        known["shape"], float(rows["prompt_tokens"].median()), float(rows["output_tokens"].median()), values, {}, counts,
        {metric: figures.get(f"{name}.{metric.removesuffix('_s')}.mean", {}).get("verdict", "") for metric in values},
        rows[["index", "turn", "prompt_tokens"]])


def _agree(run: str, name: str, values: dict, counts: dict, told: dict, figures: dict) -> None:
    """The records against what was written of them when they were measured. Raises UserError where they differ."""
    def wrong(what, written, found):
        raise UserError(f"run {run}: {what} of series {name} is {written} in its files and {found} by its records: changed by hand, "
                        "or written by another version of the workbook")
    for what, n in told.items():
        if counts.get(what) != n:
            wrong(f"the number of requests ({what})", n, counts.get(what))
    for metric, found in values.items():
        label, _, factor, _ = metrics.METRICS[metric]
        written = figures.get(f"{name}.{metric.removesuffix('_s')}.mean", {}).get("value")
        mean = float(np.mean(stats.finite(found))) * factor if len(stats.finite(found)) else math.nan
        if written is not None and not math.isclose(written, mean, rel_tol=1e-6):
            wrong(f"mean {label}", tables.number(written), tables.number(mean))
