"""DataFrame -> Figure. Dark and light lines with distinct marks, so that they read on a grey printer too."""
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from lib.metrics import METRICS
from lib.stats import Estimate

DARK, LIGHT, ACCENT = "#1b3a57", "#9fb8cc", "#c8553d"

matplotlib.rcParams.update({
    "figure.dpi": 110, "savefig.dpi": 150, "figure.facecolor": "white", "font.size": 10, "axes.titlesize": 11,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e3e6e9",
    "legend.frameon": False, "svg.hashsalt": "workbook",
})


def _axes(title: str, x: str, y: str, height: float = 3.2):
    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def plain(value: float, _=None) -> str:
    """The label of a tick: 10,000."""
    return f"{value:,.10g}"


def log_ticks(axis, subs: tuple = (1, 2, 5)) -> None:
    """Ticks of a logarithmic axis at these multiples of powers of ten, in plain numbers."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(NullFormatter())


def _label(metric: str) -> str:
    name, unit, _, _ = METRICS[metric]
    return f"{name}, {unit}"


def histogram(frame: pd.DataFrame, metric: str, mean: Estimate, median: Estimate) -> Figure:
    """Distribution of one metric over requests, with mean (and its interval) and median.

    `frame`: lib.metrics.per_request of the measured rows; the estimates in the unit of the tables.
    """
    name, unit, factor, _ = METRICS[metric]
    values = frame[metric].dropna() * factor
    figure, axes = _axes(f"{name} of {len(values)} requests", _label(metric), "requests")
    axes.hist(values, bins=min(40, max(8, int(np.sqrt(len(values)) * 2))), color=LIGHT, edgecolor="white")
    axes.axvspan(mean.low, mean.high, color=ACCENT, alpha=0.25, lw=0)
    axes.axvline(mean.value, color=ACCENT, lw=1.8, label=f"mean {mean.value:.4g} {unit}, 95 % interval shaded")
    axes.axvline(median.value, color=DARK, lw=1.5, ls="--", label=f"median {median.value:.4g} {unit}")
    axes.legend(loc="upper right")
    return figure


def distribution(values: np.ndarray, title: str, label: str, mean: Estimate, median: Estimate) -> Figure:
    """Any values as a histogram, and beside it the share of them that lie below each. `label`: what they are, with the unit;
    the estimates are in that unit, the mean's interval shaded."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set_title(title)
    left.hist(values, bins=min(40, max(8, int(np.sqrt(len(values)) * 2))), color=LIGHT, edgecolor="white")
    left.set(xlabel=label, ylabel=f"of {len(values):,} values")
    right.step(np.sort(values), np.arange(1, len(values) + 1) / len(values) * 100, where="post", color=DARK, lw=1.6)
    right.set(xlabel=label, ylabel="share at most so large, %", ylim=(0, 103))
    for axes in (left, right):
        axes.axvspan(mean.low, mean.high, color=ACCENT, alpha=0.2, lw=0, zorder=0.5, label="95 % interval of the mean")
        axes.axvline(mean.value, color=ACCENT, lw=1.8, label=f"mean {mean.value:.4g}")
        axes.axvline(median.value, color=DARK, lw=1.5, ls="--", label=f"median {median.value:.4g}")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def over_time(frame: pd.DataFrame, metric: str) -> Figure:
    """One metric, request by request in the order of sending; warm-up and failures marked.

    `frame`: lib.metrics.per_request of the whole series.
    """
    name, _, factor, _ = METRICS[metric]
    start = frame["sent"].min()
    warm, cold = frame[frame["phase"] == "measure"], frame[frame["phase"] == "warmup"]
    figure, axes = _axes(f"{name} during the series", "seconds since the first request was sent", _label(metric))
    axes.plot(warm["sent"] - start, warm[metric] * factor, ".-", color=DARK, lw=0.7, ms=5, label="measured")
    if len(cold):
        axes.plot(cold["sent"] - start, cold[metric] * factor, "s", color="white", mec=ACCENT, ms=6, label="warm-up")
    for at in frame.loc[frame["error"].notna(), "sent"].dropna():
        axes.axvline(at - start, color=ACCENT, lw=1, ls=":")
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.15)
    axes.legend(loc="upper right", ncols=2)
    return figure


def token_gaps(gaps_s: np.ndarray) -> Figure:
    """Cumulative share of inter-token latencies. `gaps_s`: lib.metrics.inter_token, seconds."""
    gaps = np.sort(gaps_s) * 1000 if len(gaps_s) else np.array([0.0])
    figure, axes = _axes(f"Inter-token latency of {len(gaps):,} tokens", "ITL, ms", "share of tokens, %")
    axes.plot(gaps, np.arange(1, len(gaps) + 1) / len(gaps) * 100, color=DARK, lw=1.6)
    for share, style in ((50, "--"), (95, ":")):
        at = np.percentile(gaps, share)
        axes.axvline(at, color=ACCENT, lw=1.2, ls=style, label=f"{share} % within {at:.4g} ms")
    axes.set_xlim(0, np.percentile(gaps, 99.5) * 1.3)
    axes.set_ylim(0, 101)
    axes.legend(loc="lower right")
    return figure


def warmup_effect(frame: pd.DataFrame, metric: str, usual: Estimate) -> Figure:
    """The first requests one by one beside the usual range. `usual`: median in the unit of the tables."""
    name, unit, factor, _ = METRICS[metric]
    first = frame.head(int((frame["phase"] == "warmup").sum()))
    figure, axes = _axes(f"{name} of the first requests of the series", "request", _label(metric), 2.8)
    axes.bar([str(i + 1) for i in range(len(first))], first[metric] * factor, color=LIGHT, edgecolor=DARK)
    axes.axhline(usual.value, color=ACCENT, lw=1.6, ls="--", label=f"median when warm, {usual.value:.4g} {unit}")
    axes.set_ylim(top=axes.get_ylim()[1] * 1.2)  # room for the legend
    axes.legend(loc="upper right")
    return figure


def calibration(levels: pd.DataFrame) -> Figure:
    """The client on the metronome: how late first tokens were stamped and how much of a processor it took, by
    streams. `levels`: lib.calibration.Calibration.frame()."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = [f"{n}" for n in levels["streams"]]
    left.bar(at, levels["ttft_error_p99_ms"], color=LIGHT, edgecolor=DARK, label="p99")
    left.bar(at, levels["ttft_error_ms"], color=DARK, width=0.5, label="median")
    left.set(title="Error of TTFT", xlabel="streams", ylabel="measured later than true, ms")
    left.legend(loc="upper left")
    right.bar(at, levels["cpu_share"] * 100, color=LIGHT, edgecolor=DARK)
    right.axhline(100, color=ACCENT, lw=1.2, ls="--")
    right.set(title="Processor used by one worker", xlabel="streams", ylabel="% of a processor", ylim=(0, 110))
    return figure
