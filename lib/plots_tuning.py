"""The plot of 06_tuning, in the manner of lib.plots."""
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib import tuning
from lib.plots import ACCENT, DARK, LIGHT, log_ticks, plain


def pareto(found: pd.DataFrame, ttft_target_ms: float, tpot_target_ms: float) -> Figure:
    """Throughput against TPOT and against TTFT, a letter for each configuration; up and left is better. The line joins those that no
    other beats in both. Bars: the interval of the ratio to the baseline, at the baseline's value. `found`: tuning.summary."""
    both = found[(found["state"] == "measured") & found["throughput_tps.value"].notna()]
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes_of = figure.subplots(1, 2, sharey=True)
    for axes, cost, target in zip(axes_of, ("tpot_s", "ttft_s"), (tpot_target_ms, ttft_target_ms)):
        name, rows = tuning.METRICS[cost].name, both[both[f"{cost}.value"].notna()]
        axes.set(title=f"Throughput and {name}", xlabel=f"{name}, ms")
        if rows.empty:
            axes.text(0.5, 0.5, "nothing was measured", ha="center", va="center", transform=axes.transAxes)
            continue
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
        if x.max() > 5 * x.min():
            axes.set_xscale("log")
        if x.min() / 3 < target < x.max() * 3:
            axes.axvline(target, color=ACCENT, lw=1.2, ls="--", label=f"{name} target, {target:g} ms")
        axes.margins(x=0.14)
        if axes.get_xscale() == "log":
            low, high = axes.get_xlim()
            log_ticks(axes.xaxis, (1, 2, 5) if high < 100 * low else (1,))  # else 500 and 1,000 touch
        axes.set_ylim(0, y.max() * 1.25)
        for (at_x, at_y), letters in _together(axes, x, y, rows["letter"]):
            axes.annotate(letters, (at_x, at_y), textcoords="offset points", xytext=(7, 5), fontsize=10, fontweight="bold", zorder=5)
    axes_of[0].set_ylabel("throughput, tokens/s")
    axes_of[0].yaxis.set_major_formatter(plain)
    told = {label: handle for axes in axes_of for handle, label in zip(*axes.get_legend_handles_labels())}
    if told:
        figure.legend(told.values(), told.keys(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _together(axes, x, y, letters, near: float = 0.05) -> list:
    """[(point, "A B E")]: points so close that their letters would lie over each other share one label, at the highest of them."""
    places = axes.transAxes.inverted().transform(axes.transData.transform(np.column_stack([x, y])))
    groups = []
    for k in np.argsort(-places[:, 1]):
        group = next((g for g in groups if (np.abs(places[g[0]] - places[k]) < (near, near * 1.2)).all()), None)
        group.append(k) if group else groups.append([k])
    return [((x.iloc[g[0]], y.iloc[g[0]]), " ".join(sorted(letters.iloc[k] for k in g))) for g in groups]


def _ends(rows: pd.DataFrame, metric: str) -> np.ndarray:
    """Lengths of the bars to the left and right of each value; none at the baseline."""
    value, ratio = rows[f"{metric}.value"], rows[f"{metric}.ratio"]
    ends = np.array([value * (1 - rows[f"{metric}.low"] / ratio), value * (rows[f"{metric}.high"] / ratio - 1)], dtype=float)
    return np.nan_to_num(np.clip(ends, 0, value.max()), nan=0.0)
