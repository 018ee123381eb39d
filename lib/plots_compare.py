"""lib.compare_runs.ratios -> Figure."""
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lib.plots import ACCENT, DARK, LIGHT

MARKS = ("o", "s", "^", "D", "v")
MOST = 60  # series in one figure; a longer one cannot be read


def forest(rows: pd.DataFrame, against: str, smallest: float = 0.02) -> Figure:
    """Ratios to `against`, a panel a metric, a line a series, a mark a run; bars are 95 % intervals, hollow marks have none or
    rest on too little. Within the band a difference is too small to matter."""
    names, panels = list(dict.fromkeys(rows["series"]))[:MOST], list(dict.fromkeys(rows["metric"]))
    runs = list(dict.fromkeys(rows["run"]))
    figure = Figure(figsize=(2.0 + 2.6 * len(panels), 1.6 + 0.24 * len(names) + 0.2 * len(runs)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, metric in zip(axes, panels):
        of_metric = rows[(rows["metric"] == metric) & rows["series"].isin(names)]
        far = float(np.abs(np.log(of_metric["ratio"])).replace(np.inf, np.nan).max())
        reach = np.exp(max(np.log(1.3), 1.5 * far if np.isfinite(far) else 0))
        panel.axvspan(1 / (1 + smallest), 1 + smallest, color=LIGHT, alpha=0.5, lw=0)
        panel.axvline(1, color=DARK, lw=0.8)
        for k, run in enumerate(runs):
            of_run = of_metric[of_metric["run"] == run]
            y = np.array([names.index(s) for s in of_run["series"]]) + (k - (len(runs) - 1) / 2) * 0.6 / len(runs)
            sure = (of_run["low"].notna() & ~of_run["verdict"].str.startswith("undecided")).to_numpy()
            color = (DARK, ACCENT, "#6b7c8c", "#8a6d3b", "#3f7f5f")[k % 5]
            panel.hlines(y, of_run["low"].clip(1 / reach, reach), of_run["high"].clip(1 / reach, reach), color=color, lw=1.2)
            for which, face in ((sure, color), (~sure, "white")):
                panel.plot(of_run["ratio"][which], y[which], MARKS[k % 5], color=color, mfc=face, ms=5, ls="",
                           label=run if face == color else None)
        better = "higher" if metric == "throughput" else "lower"
        panel.set(title=metric, xlabel=f"ratio, {better} is better", xscale="log", xlim=(1 / reach, reach), ylim=(len(names) - 0.5, -0.5))
        panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
        panel.xaxis.set_minor_locator(NullLocator())
    axes[0].set_yticks(range(len(names)), names)
    whose = runs[0] if len(runs) == 1 else "other runs"
    figure.suptitle(f"Means of {whose} as multiples of those of {against}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    if len(runs) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    return figure
