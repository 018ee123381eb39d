"""Past runs at the desk: pick a run, a series and a metric, and see its distribution and its requests one by one."""
import io
import threading
from pathlib import Path

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML, Image, display
from matplotlib.figure import Figure

from lib import OUTPUTS, metrics, plots, plots_load, records, stats, tables
from lib.desk import by_hand, present, said
from lib.errors import UserError
from lib.rundir import find, read_json


# -- what there is -----------------------------------------------------------------------------------
def runs() -> list[str]:
    """The runs under outputs/ that hold requests, the newest first; outputs/latest is one of them by its own name."""
    found = {p.parent.parent: p.stat().st_mtime for p in OUTPUTS.glob("*/requests/*.jsonl") if not p.parent.parent.is_symlink()}
    return [path.name for path in sorted(found, key=found.get, reverse=True)]


def series_of(run: str) -> list[str]:
    """The series of a run, as its files name them, those whose requests have times first; what telemetry sampled is none."""
    files = [p for p in (OUTPUTS / run / "requests").glob("*.jsonl") if not p.stem.endswith(".telemetry")]
    return [p.stem for p in sorted(files, key=lambda p: (not _timed(p), p.stem))]


def _timed(path: Path) -> bool:
    with path.open("rb") as lines:
        return b'"reads"' in lines.readline()


def read(run: str, series: str) -> tuple[pd.DataFrame, tuple[float, float], str]:
    """(lib.metrics.per_request with `steady`, the steady window, the load in words) of a series, from its files.

    Where series.json does not tell the window, it goes from the first request to the last reply. Raises UserError,
    in one line, where the records tell nothing.
    """
    path = OUTPUTS / run / "requests" / f"{series}.jsonl"
    try:
        frame = metrics.per_request(records.read(path, say=False))  # `summary` says it
    except OSError as error:
        raise UserError(f"{run}: requests/{path.name} cannot be read ({error.strerror})")
    about = read_json(OUTPUTS / run / "series.json", {})
    about = about.get(series) if isinstance(about, dict) else None
    about = about if isinstance(about, dict) else {}
    if frame["sent"].isna().all():
        raise UserError(f"{run}: requests/{path.name} holds no requests with times (answers to questions about pictures are kept without)")
    ends = about.get("window_s") or ()
    known = len(ends) == 2 and all(isinstance(t, (int, float)) for t in ends)
    window = tuple(ends) if known else (float(frame["sent"].min()), float(frame["done"].max()))
    return metrics.mark_steady(frame, window), window, str(about.get("shape") or "load not told")


def verdict(run: str, series: str, metric: str) -> str:
    """What was published of a series' metric."""
    name, figures = metrics.METRICS[metric][0], read_json(OUTPUTS / run / "figures.json", {})
    found = [f.get("verdict") for f in figures.values() if f.get("records") == f"requests/{series}.jsonl" and str(f.get("name")).startswith(name)]
    return str(found[0]) if found else "no figure of it was published"


# -- what is shown -----------------------------------------------------------------------------------
def shown(run: str, series: str, metric: str, frame: pd.DataFrame, window, shape: str) -> tuple[Figure, Figure, str]:
    """(distribution, waterfall, both in words) of a metric of a series."""
    name, unit, factor, formula = metrics.METRICS[metric]
    values = stats.finite(metrics.values(frame, window)[metric]) * factor
    if not len(values):
        raise UserError(f"{series} has no {name}: none of its {len(frame)} requests was measured, or they are too short for it")
    mean, median = stats.mean(values), stats.quantile(values, 0.5)
    counts, torn = metrics.denominators(frame), frame.attrs.get("torn_lines", 0)
    words = (f"{name} = {formula}. Median {tables.with_interval(median)} {unit}, mean {tables.with_interval(mean)} {unit}, of {len(values)} values. "
             f"{series} in run {run}, {shape}: {counts['sent']} requests sent, {counts['measured']} measured, {counts['failed']} failed. "
             f"Verdict: {verdict(run, series, metric)}." + f" {torn} torn lines were left out." * bool(torn))
    return plots.distribution(values, f"{name} of {series}", f"{name}, {unit}", mean, median), plots_load.waterfall(frame, window), words


def explorer(run: str = "") -> None:
    """Choose a run, a series and a metric, and see them. run: what is shown first; the newest if none is named. Raises
    UserError where there is no such run."""
    panel = Explorer(find(run).name if run else "")
    if by_hand():
        return present(panel.box, "An explorer of past runs")
    display(HTML(panel.line.value), *(Image(data=bytes(image.value), width=790) for image in panel.images if image.value))


class Explorer:
    """The panel; `box` is the widget."""

    def __init__(self, run: str = ""):
        self.run, self.series = widgets.Dropdown(description="run"), widgets.Dropdown(description="series", layout={"width": "20em"})
        self.metric = widgets.Dropdown(options=[(m[0], key) for key, m in metrics.METRICS.items()], description="metric")
        self.again = widgets.Button(description="look again", layout={"width": "8em"}, tooltip="what was measured meanwhile is listed, too")
        self.line, self.images = widgets.HTML(), [widgets.Image(format="png", layout={"width": "790px"}) for _ in range(2)]
        self.box = widgets.VBox([widgets.HBox([self.run, self.series, self.metric, self.again], layout={"flex_flow": "row wrap"}),
                                 self.line, *self.images]).add_class("explorer")
        self._filling = False
        self._one_at_a_time = threading.RLock()  # a click and a choice come in two threads of the kernel (subshells): the last one drawn is what is chosen
        self.run.observe(lambda change: self._chosen(self.list_series), "value")
        for choice in (self.series, self.metric):
            choice.observe(lambda change: self._chosen(self.show), "value")
        self.again.on_click(lambda button: self.list_runs())
        self.list_runs(run)

    def _chosen(self, then) -> None:
        with self._one_at_a_time:
            if not self._filling:
                then()

    def list_runs(self, first: str = "") -> None:
        with self._one_at_a_time:
            self._offer(self.run, runs(), first or self.run.value)
            self.list_series()

    def list_series(self) -> None:
        self._offer(self.series, series_of(self.run.value) if self.run.value else [], self.series.value)
        self.show()

    def _offer(self, choice: widgets.Dropdown, there: list[str], wanted: str | None) -> None:
        """List what there is, and choose what was wanted if it is among it; nothing is drawn on the way."""
        self._filling = True
        choice.options = there
        choice.value = wanted if wanted in there else there[0] if there else None
        self._filling = False

    def show(self) -> None:
        """Draw what is chosen; what cannot be drawn is said in a line."""
        try:
            if not self.series.value:
                raise UserError("no run under outputs/ holds requests yet: measure something, and look again")
            self._draw()
        except UserError as error:
            self._place([b"", b""], str(error))
        except Exception as error:  # files edited by hand hold anything; nobody sees the traceback of a callback
            self._place([b"", b""], f"{self.series.value} of {self.run.value} cannot be shown ({type(error).__name__}: {error})")

    def _draw(self) -> None:
        frame, window, shape = read(self.run.value, self.series.value)
        *figures, words = shown(self.run.value, self.series.value, self.metric.value, frame, window, shape)
        self._place([png(figure) for figure in figures], words)

    def _place(self, pictures: list[bytes], words: str) -> None:
        for image, data in zip(self.images, pictures):
            image.value, image.layout.display = data, None if data else "none"
        self.line.value = said(words)


def png(figure: Figure) -> bytes:
    """A figure as a picture file."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
