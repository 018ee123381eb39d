"""The run folder: records, figures, plots and what made them, under outputs/<run>/.

    run.json               what was asked, on which machine, what became of each notebook
    server.json, .log      the server that answered
    requests/SERIES.jsonl  one row per request
    owners.json            which notebook made each series
    series.json            how each series was made: load, client, server, client against server
    calibration.json       what the client can measure on this machine
    figures.json           every published figure, entered once
    plots/*.svg            the plots, listed in plots.json
    aside/N/               what was begun and not ended when the run was cut off for the Nth time (lib.resume)
    notebooks/, html/      the executed notebooks, as notebooks and as pages
    report.html
"""
import fcntl
import io
import json
import math
import os
import re
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lib import OUTPUTS, reading
from lib.errors import UserError
from lib.hiding import hide, hide_in

if TYPE_CHECKING:  # they take seconds, which a mistyped command is to be told without
    from matplotlib.figure import Figure

    from lib.stats import Estimate

PART = ".part"  # of a file that is being written; one that stays was left by a process that was killed
NAME = re.compile(r"[\w][\w.+-]*", re.ASCII)


def write_text(path: Path, text: str, lasting: bool = False) -> None:
    """Replace a file in one step, so that a reader never sees half of it. `lasting`: it is on the disk itself, not
    only in the machine's memory, when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}{PART}")
    try:
        temporary.write_text(text, encoding="utf-8")
        if lasting:
            sync(temporary)
        os.replace(temporary, path)
        if lasting:
            sync(path.parent)
    except BaseException:  # a full disk: what was there stays as it was
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content, lasting: bool = False) -> None:
    """Replace a JSON file in one step; what must not be seen is hidden in it (lib.hiding)."""
    _write_hidden(path, hide_in(content), lasting)


def _write_hidden(path: Path, content, lasting: bool = False) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n", lasting)


def sync(path: Path) -> None:
    """See to it that a file, or a folder's list of files, outlives a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, default):
    """The content of a JSON file; `default` when there is no such file."""
    try:
        return reading.json_file(path)
    except FileNotFoundError:
        return default
    except reading.Unreadable as error:
        raise UserError(f"{path.name} in run {path.parent.name} is damaged ({error}): restore it or make the run again")


class RunDir:
    """One run. `name`: a folder name under outputs/, made when it is missing. `notebook`: who works in it, and owns
    the series that it makes."""

    notebook = ""
    _kept_back: dict | None = None  # figures, inside `together`

    def __init__(self, name: str):
        if not NAME.fullmatch(name):
            raise UserError(f"run name {name!r} is not usable: letters, digits, '.', '_', '+' and '-' only")
        self.name = name
        self.path = OUTPUTS / name
        try:
            (self.path / "requests").mkdir(parents=True, exist_ok=True)
            (self.path / "plots").mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"outputs/{name} cannot be written ({error.strerror}): free some disk or mend its rights")

    @contextmanager
    def _alone(self):
        """While inside, no other process reads and rewrites this run's JSON files: a notebook by hand beside a run."""
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def settle(self) -> None:
        """See to it that what has been written so far outlives a loss of power."""
        for path in self.path.rglob("*"):
            if not path.is_symlink() and (path.is_file() or path.is_dir()):
                sync(path)

    # -- records ---------------------------------------------------------------------------------
    def requests_file(self, series: str) -> Path:
        if "/" in series or series.startswith(".") or "\0" in series:  # series.json may come from anywhere
            raise UserError(f"run {self.name}: {series[:60]!r} is no name of a series: changed by hand")
        return self.path / "requests" / f"{series}.jsonl"

    def new_requests_file(self, series: str) -> Path:
        """Where a new series goes. An earlier one of that name is kept beside it, numbered."""
        path = self.requests_file(series)
        if self.notebook:
            self._enter("owners.json", {series: self.notebook})
        if path.exists():
            older = len(list(path.parent.glob(f"{series}.older-*.jsonl"))) + 1
            path.rename(path.with_name(f"{series}.older-{older}.jsonl"))
        return path

    def write_rows(self, series: str, rows: list[dict]) -> None:
        """Rows that are not records of lib.records, one JSON object a line."""
        lines = "".join(json.dumps(hide_in(row), ensure_ascii=False) + "\n" for row in rows)
        write_text(self.new_requests_file(series), lines)

    # -- figures ---------------------------------------------------------------------------------
    def publish(
        self, figure_id: str, name: str, estimate: "Estimate", unit: str, verdict: str, notebook: str, series: str,
        headline: bool = False, formula: str = "", counts: dict | None = None, table: str = "", shown: bool = True,
    ) -> None:
        """Enter a figure, or replace the one of that id. Everything that is published prints from here.

        `headline`: it opens the report. `formula`: how it is defined, shown where it stands.
        `counts`: requests sent, measured, failed (lib.metrics.denominators). `table`: figures of several series that
        name the same one stand together in the report; without, those of a series do.
        `shown`: False where chance explains what was counted: it then confirms no claim that such a thing happens.
        """
        entry = {
            "name": name,
            "value": _number(estimate.value),
            "interval": [_number(estimate.low), _number(estimate.high)],
            "unit": unit,
            "n": estimate.n,
            "verdict": verdict,
            "notebook": notebook,
            "records": f"requests/{series}.jsonl",
            "headline": headline,
            "formula": formula,
            "counts": counts or {},
        } | ({"table": table} if table else {}) | ({} if shown else {"shown": False}) | ({"effective_n": _number(estimate.effective_n)} if estimate.effective_n else {})
        if self._kept_back is None:
            self._enter("figures.json", {figure_id: entry})
        else:
            self._kept_back[figure_id] = entry

    @contextmanager
    def together(self):
        """While inside, figures are kept back; they are written in one step at its end: each alone would rewrite all others."""
        if self._kept_back is not None:  # one inside another
            yield
            return
        self._kept_back = {}
        try:
            yield
        finally:
            kept, self._kept_back = self._kept_back, None
            if kept:
                self._enter("figures.json", kept)

    def _enter(self, part: str, entries: dict) -> None:
        """Add these to one of the run's JSON files, or replace them there. What it has was hidden when it came, and is not looked
        through again: with a thousand figures that took a third of a second for each."""
        with self._alone():
            _write_hidden(self.path / part, read_json(self.path / part, {}) | hide_in(entries))

    def enter_series(self, name: str, about: dict) -> None:
        """Keep what is known of a series beside its records; replaces an earlier one of that name."""
        self._enter("series.json", {name: about})

    def owners(self) -> dict:
        """Series -> the notebook that made it, entered before its first row."""
        return read_json(self.path / "owners.json", {})

    def series(self) -> dict:
        return read_json(self.path / "series.json", {})

    def figures(self) -> dict:
        return read_json(self.path / "figures.json", {})

    def save_plot(self, plot_id: str, figure: "Figure", caption: str, notebook: str) -> bytes:
        """Keep a plot for the report as SVG; returns the same plot as PNG, for a notebook to show."""
        drawn, picture = io.StringIO(), io.BytesIO()
        figure.savefig(drawn, format="svg")
        write_text(self.path / "plots" / f"{plot_id}.svg", hide(drawn.getvalue()))
        figure.savefig(picture, format="png")
        entry = {"file": f"plots/{plot_id}.svg", "caption": caption, "notebook": notebook}
        self._enter("plots.json", {plot_id: entry})
        return picture.getvalue()

    def plots(self) -> dict:
        return read_json(self.path / "plots.json", {})

    def forget(self, notebooks: list[str], series: set[str], place: Path | None) -> None:
        """Take out the figures, plots and series of notebooks that are to be run again; `place` keeps them."""
        with self._alone():
            for part, gone in (("figures.json", lambda key, entry: entry["notebook"] in notebooks),
                               ("plots.json", lambda key, entry: entry["notebook"] in notebooks), ("series.json", lambda key, entry: key in series)):
                content = read_json(self.path / part, {})
                taken = {key: entry for key, entry in content.items() if gone(key, entry)}
                if taken:
                    if place:
                        write_json(place / part, taken)
                    write_json(self.path / part, {key: entry for key, entry in content.items() if key not in taken})

    # -- what made it ----------------------------------------------------------------------------
    def info(self) -> dict:
        return read_json(self.path / "run.json", {})

    def update_info(self, **entries) -> None:
        with self._alone():
            write_json(self.path / "run.json", self.info() | entries, lasting=True)

    def make_latest(self) -> None:
        """Point outputs/latest at this run."""
        link = OUTPUTS / f".latest.{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(self.name)
        os.replace(link, OUTPUTS / "latest")


def find(name: str) -> RunDir:
    """A run that exists; "latest" is the newest one.

    Raises UserError when there is none of that name.
    """
    path = OUTPUTS / name
    if not NAME.fullmatch(name) or not path.is_dir():
        known = sorted(p.parent.name for p in OUTPUTS.glob("*/run.json") if not p.parent.is_symlink())
        raise UserError(f"there is no run {name!r} in outputs/ (there: {', '.join(known) or 'none'}): `workbook run` makes one")
    if not path.resolve().is_relative_to(OUTPUTS.resolve()):
        raise UserError(f"outputs/{name} leads out of outputs/: what is written for a run stays in there; copy the folder itself")
    return RunDir(path.resolve().name)


def _number(value: float) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
