"""A run that was cut off: what of it is whole, and what was begun is set aside, so that no series mixes two attempts.

The grain is the notebook. One that was done stays as it is, with its executed .ipynb, records and figures. Any other is run
again from its first cell; what its earlier attempt had written goes to aside/N/, rows included, and is part of no figure.
"""
import json
import re

from lib import records
from lib.errors import UserError
from lib.rundir import PART, RunDir
from lib.time_limit import REPORT

ALSO = {"00_setup": ("calibration.json",), "06_tuning": ("tuning.json",)}  # made by these beside their series


def left(run: RunDir, notebooks: list[str]) -> list[str]:
    """The notebooks of a run that are not done, in order. Raises UserError where run.json is no run's."""
    states = run.info().get("notebooks")
    if not isinstance(states, dict) or not all(isinstance(states.get(name, {}), dict) for name in notebooks):
        raise UserError(f"run.json in run {run.name} is damaged (what became of its notebooks is not told): restore it or make the run again")
    missing = [name for name in notebooks if states.get(name, {}).get("status") != "done" or not _whole(run, name)]
    return [name for name in notebooks if name in missing or (missing and name == REPORT)]


def _whole(run: RunDir, notebook: str) -> bool:
    """Is what a done notebook left still there?"""
    try:
        cells = json.loads((run.path / "notebooks" / f"{notebook}.ipynb").read_bytes())["cells"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    mine = [series for series, owner in run.owners().items() if owner == notebook]
    return isinstance(cells, list) and all(run.requests_file(series).exists() for series in mine)


def set_aside(run: RunDir, notebooks: list[str]) -> dict:
    """Move what earlier attempts at these notebooks wrote to aside/N/ -> what is aside by now, of all attempts: {"rows", "torn"}; empty
    where nothing is. It may be cut off anywhere too: done again, it moves the rest."""
    for path in run.path.rglob(f".*{PART}"):
        path.unlink(missing_ok=True)
    mine = {series for series, owner in run.owners().items() if owner in notebooks}
    moving = [path for path in sorted((run.path / "requests").iterdir()) if _series_of(path.name) in mine]
    moving += [path for name in notebooks for path in (
        run.path / "notebooks" / f"{name}.ipynb", run.path / "html" / f"{name}.html", *(run.path / file for file in ALSO.get(name, ())))]
    moving += [run.path / plot["file"] for plot in run.plots().values() if plot["notebook"] in notebooks]
    moving = [path for path in moving if path.exists()]
    place = run.path / "aside" / str(1 + len(list(run.path.glob("aside/*"))))
    for path in moving:
        target = place / path.relative_to(run.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    run.forget(notebooks, mine, place if moving else None)
    found = [records.lines(path, say=False) for path in run.path.glob("aside/*/requests/*.jsonl") if ".telemetry" not in path.name]
    return {"rows": sum(len(rows) for rows, _ in found), "torn": sum(torn for _, torn in found)} if found else {}


def _series_of(file: str) -> str:
    """A file under requests/ -> the series that it belongs to."""
    return re.sub(r"(\.older-\d+)?(\.telemetry(\.before|\.after)?)?\.(jsonl|prom)$", "", file)


def goes_on(name: str) -> str:
    """What a user is told to do about a run that is not whole."""
    return f"`workbook run --resume {name}` goes on with it"


def words(info: dict) -> list[str]:
    """What a run's info says of how it was cut off, a line each: the attempts to go on, and what is aside."""
    out = []
    for attempt in info.get("attempts") or []:
        kept = f"{len(attempt['kept'])} notebooks were done and kept" if attempt["kept"] else "no notebook was done"
        out.append(f"This run was cut off, and gone on with at {attempt['at']}: {kept}, {', '.join(attempt['again']) or 'none'} run again.")
    if aside := info.get("aside"):
        torn = aside["torn"]
        out.append(f"{aside['rows']:,} rows of what was cut off are kept in aside/ and are part of no figure" + (
            f"; {torn} more {'lines are' if torn > 1 else 'line is'} torn, because the writer was cut off" if torn else "") + ".")
    return out
