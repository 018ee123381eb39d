"""What a context costs, drawn: of conversations and of pictures. DataFrame -> Figure, as in lib.plots."""
import pandas as pd
from matplotlib.figure import Figure

from lib import tables
from lib.fit import Line
from lib.plots import ACCENT, DARK, LIGHT

# Marks differ in shape, filling and brightness, so that neither colour nor paper matters.
MARKS = ({"marker": "o", "color": DARK, "ls": "-"}, {"marker": "s", "color": ACCENT, "mfc": "white", "ls": "--"},
         {"marker": "^", "color": "#6b8299", "mfc": LIGHT, "ls": ":"}, {"marker": "D", "color": "#222222", "mfc": "white", "ls": "-."})


def line_and_residuals(groups: dict, line: Line, title: str, x: str, y: str, slope_unit: str, scale: float = 1.0) -> Figure:
    """Points of several groups (name -> (x values, y values)), the line fitted to the first, and its residuals below.

    `slope_unit`: what the slope times `scale` is in, for the legend.
    """
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for mark, (name, (at, values)) in zip(MARKS, groups.items()):
        upper.plot(at, values, **(mark | {"ls": ""}), ms=5, label=name)
    at, values = next(iter(groups.values()))
    ends = [min(at), max(at)]
    slope = tables.with_interval(line.slope.scaled(scale))
    upper.plot(ends, line.at(ends), color="black", lw=1.3, label=f"line through {next(iter(groups))}: {slope} {slope_unit}")
    lower.plot(at, values - line.at(at), **(MARKS[0] | {"ls": ""}), ms=4)
    lower.axhline(0, color="black", lw=1.0)
    upper.set(title=title, ylabel=y)
    upper.set_ylim(0, upper.get_ylim()[1] * 1.3)  # room for the legend
    lower.set(xlabel=x, ylabel="residual, ms")
    upper.legend(loc="upper left", fontsize=9)
    return figure


def by_turn(groups: dict[str, pd.DataFrame], metric: str, title: str, y: str) -> Figure:
    """Medians by turn, a line a group (name -> rows with `turn`), the middle half of the values as a bar. Times in s
    are drawn in ms."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="turn", ylabel=y)
    for shift, mark, (name, rows) in zip((-0.06, 0.06, 0.18, -0.18), MARKS, groups.items()):
        values = (rows[metric] * 1000).groupby(rows["turn"]).quantile([0.25, 0.5, 0.75]).unstack()
        at = values.index.to_numpy() + shift
        axes.vlines(at, values[0.25], values[0.75], color=mark["color"], lw=2.5, alpha=0.45)
        axes.plot(at, values[0.5], **mark, ms=6, lw=1.4, label=name)
    axes.set_xticks(sorted(set().union(*(rows["turn"].astype(int) for rows in groups.values()))))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    axes.legend(loc="upper left", fontsize=9, ncols=min(2, len(groups)))
    return figure


def strips(groups: dict, title: str, x: str) -> Figure:
    """Every value of each group (name -> values) as a dot in a line of its own, the median as a bar."""
    figure = Figure(figsize=(7.2, 1.3 + 0.45 * len(groups)), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=f"{x}; the bar is the median")
    for row, values in enumerate(groups.values()):
        values = pd.Series(values).dropna()
        axes.plot(values, [row] * len(values), "o", color=LIGHT, mec=DARK, ms=5, alpha=0.8)
        axes.plot([values.median()] * 2, [row - 0.3, row + 0.3], color=ACCENT, lw=2.4)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set(ylim=(len(groups) - 0.5, -0.5), xlim=(0, axes.get_xlim()[1]))
    return figure


def levels(table: pd.DataFrame, at: str, left: str, right: str, title: str) -> Figure:
    """Two columns of a table against a third, side by side."""
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    for axes, column, mark in zip(figure.subplots(1, 2), (left, right), MARKS):
        axes.plot(table[at], table[column], **mark, ms=6, lw=1.4)
        axes.set(xlabel=at, ylabel=column, xticks=table[at])
        axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure
