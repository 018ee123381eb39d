"""The plot of 06_tuning, in the manner of lib.plots."""
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib import tuning
from lib.plots import ACCENT, DARK, LIGHT


def pareto(found: pd.DataFrame, ttft_target_ms: float, tpot_target_ms: float) -> Figure:
    """Throughput against TPOT and against TTFT, a letter for each configuration; up and left is better. The line joins those that no
    other beats in both. Bars: the interval of the ratio to the baseline, at the baseline's value. `found`: tuning.summary."""
    rows = found[(found["state"] == "measured") & found["throughput_tps.value"].notna()]
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes_of = figure.subplots(1, 2, sharey=True)
    for axes, cost, target in zip(axes_of, ("tpot_s", "ttft_s"), (tpot_target_ms, ttft_target_ms)):
        x, y = rows[f"{cost}.value"] * 1000, rows["throughput_tps.value"]
        best = tuning.front(rows, cost)
        axes.plot(*zip(*sorted(zip(x[best], y[best]))), "-", color=LIGHT, lw=2, zorder=1, label="nothing better seen")
        axes.errorbar(x, y, xerr=_ends(rows, cost) * 1000, yerr=_ends(rows, "throughput_tps"), fmt="none", ecolor=DARK, lw=0.8, zorder=2)
        worse = rows.get("answers.verdict", pd.Series("", rows.index)) == "worse"
        for some, mark, color, label in ((~worse, "o", DARK, None), (worse, "X", ACCENT, "answers worse")):
            if some.any():
                axes.plot(x[some], y[some], mark, color=color, ms=6, zorder=3, label=label)
        if tuning.BASELINE in rows.index:
            axes.plot(x[tuning.BASELINE], y[tuning.BASELINE], "s", color="white", mec=ACCENT, mew=1.6, ms=8, zorder=4, label="baseline")
        for at_x, at_y, letter in zip(x, y, rows["letter"]):
            axes.annotate(letter, (at_x, at_y), textcoords="offset points", xytext=(7, 5), fontsize=10, fontweight="bold", zorder=5)
        name = tuning.METRICS[cost].name
        axes.set_xscale("log" if x.max() > 5 * x.min() else "linear")
        if x.min() / 3 < target < x.max() * 3:
            axes.axvline(target, color=ACCENT, lw=1.2, ls="--", label=f"target {target:g} ms")
        axes.set(title=f"Throughput and {name}", xlabel=f"{name}, ms")
        axes.margins(x=0.12)
    axes_of[0].set_ylabel("throughput, tokens/s")
    axes_of[0].set_ylim(0, np.nanmax(rows["throughput_tps.value"]) * 1.25)
    axes_of[0].legend(loc="lower left", fontsize=8)
    return figure


def _ends(rows: pd.DataFrame, metric: str) -> np.ndarray:
    """Lengths of the bars to the left and right of each value; none at the baseline."""
    value, ratio = rows[f"{metric}.value"], rows[f"{metric}.ratio"]
    ends = np.array([value * (1 - rows[f"{metric}.low"] / ratio), value * (rows[f"{metric}.high"] / ratio - 1)], dtype=float)
    return np.nan_to_num(np.clip(ends, 0, value.max()), nan=0.0)
