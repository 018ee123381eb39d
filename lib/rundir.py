"""The run folder: records, figures, plots and what made them, under outputs/<run>/.

    run.json               what was asked, on which machine, what became of each notebook
    server.json, .log      the server that answered
    requests/SERIES.jsonl  one row per request
    series.json            how each series was made: load, client, server, client against server
    calibration.json       what the client can measure on this machine
    figures.json           every published figure, entered once
    plots/*.svg            the plots, listed in plots.json
    notebooks/, html/      the executed notebooks, as notebooks and as pages
    report.html
"""
import io
import json
import math
import os
import re
import threading
from pathlib import Path

from matplotlib.figure import Figure

from lib import OUTPUTS
from lib.errors import UserError
from lib.stats import Estimate

NAME = re.compile(r"[\w][\w.+-]*", re.ASCII)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, content) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, default):
    """The content of a JSON file; `default` when there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise UserError(f"{path.name} in run {path.parent.name} is damaged ({error}): restore it or make the run again")


class RunDir:
    """One run. `name`: a folder name under outputs/, made when it is missing."""

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

    # -- records ---------------------------------------------------------------------------------
    def requests_file(self, series: str) -> Path:
        return self.path / "requests" / f"{series}.jsonl"

    def new_requests_file(self, series: str) -> Path:
        """Where a new series goes. An earlier one of that name is kept beside it, numbered."""
        path = self.requests_file(series)
        if path.exists():
            older = len(list(path.parent.glob(f"{series}.older-*.jsonl"))) + 1
            path.rename(path.with_name(f"{series}.older-{older}.jsonl"))
        return path

    def write_rows(self, series: str, rows: list[dict]) -> None:
        """Rows that are not records of lib.records, one JSON object a line."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(self.new_requests_file(series), lines)

    # -- figures ---------------------------------------------------------------------------------
    def publish(
        self, figure_id: str, name: str, estimate: Estimate, unit: str, verdict: str, notebook: str, series: str,
        headline: bool = False, formula: str = "", counts: dict | None = None, table: str = "",
    ) -> None:
        """Enter a figure, or replace the one of that id. Everything that is published prints from here.

        `headline`: it opens the report. `formula`: how it is defined, shown where it stands.
        `counts`: requests sent, measured, failed (lib.metrics.denominators). `table`: figures of several series that
        name the same one stand together in the report; without, those of a series do.
        """
        figures = self.figures()
        figures[figure_id] = {
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
        } | ({"table": table} if table else {}) | ({"effective_n": _number(estimate.effective_n)} if estimate.effective_n else {})
        write_json(self.path / "figures.json", figures)

    def enter_series(self, name: str, about: dict) -> None:
        """Keep what is known of a series beside its records; replaces an earlier one of that name."""
        write_json(self.path / "series.json", self.series() | {name: about})

    def series(self) -> dict:
        return read_json(self.path / "series.json", {})

    def figures(self) -> dict:
        return read_json(self.path / "figures.json", {})

    def save_plot(self, plot_id: str, figure: Figure, caption: str, notebook: str) -> bytes:
        """Keep a plot for the report as SVG; returns the same plot as PNG, for a notebook to show."""
        figure.savefig(self.path / "plots" / f"{plot_id}.svg")
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        plots = self.plots()
        plots[plot_id] = {"file": f"plots/{plot_id}.svg", "caption": caption, "notebook": notebook}
        write_json(self.path / "plots.json", plots)
        return picture.getvalue()

    def plots(self) -> dict:
        return read_json(self.path / "plots.json", {})

    # -- what made it ----------------------------------------------------------------------------
    def info(self) -> dict:
        return read_json(self.path / "run.json", {})

    def update_info(self, **entries) -> None:
        write_json(self.path / "run.json", self.info() | entries)

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
    return RunDir(path.resolve().name)


def _number(value: float) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
