"""Plots of many users, and of a long series: DataFrame -> Figure, in the manner of lib.plots."""
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lib import endurance as moments_of
from lib.plots import ACCENT, DARK, LIGHT, _axes, log_ticks


def _users(axes, levels) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [f"{n}" for n in levels])
    axes.xaxis.set_minor_locator(NullLocator())


def _log(axes) -> None:
    axes.set_yscale("log")
    log_ticks(axes.yaxis)


def _line(axes, rows, column, label, style="o-", **look):
    """Values with their intervals; a value without one stands alone."""
    ends = [(rows[column] - rows.get(f"{column}_low", np.nan)).fillna(0), (rows.get(f"{column}_high", np.nan) - rows[column]).fillna(0)]
    axes.errorbar(rows["streams"], rows[column], yerr=np.clip(ends, 0, None), fmt=style, color=look.pop("color", DARK), ms=5, lw=1.5,
                  capsize=3, label=label, **look)


def concurrency(rungs: pd.DataFrame, knee: int | None) -> Figure:
    """Throughput, TTFT, TPOT and whole time by number of users; knee marked. `rungs`: lib.queueing.scaling's."""
    figure = Figure(figsize=(7.2, 5.8), layout="constrained")
    (through, whole), (ttft, tpot) = figure.subplots(2, 2)
    _line(through, rungs, "throughput_tps", "seen")
    through.plot(rungs["streams"], rungs["perfect"], "--", color=LIGHT, lw=1.6, label="if nobody waited")
    through.set(title="Throughput", ylabel="tokens/s")
    _log(through)
    _line(whole, rungs, "total_ms", "mean")
    whole.set(title="Whole time", ylabel="ms")
    for axes, name in ((ttft, "ttft"), (tpot, "tpot")):
        _line(axes, rungs, f"{name}_ms", "median")
        if rungs[f"{name}_p95_ms"].notna().any():
            axes.plot(rungs["streams"], rungs[f"{name}_p95_ms"], "^:", color=ACCENT, ms=5, label="p95")
        axes.set(title=name.upper(), ylabel="ms")
    for axes in (through, whole, ttft, tpot):
        _users(axes, rungs["streams"])
        axes.set_xlabel("users at once")
        if axes is not through:
            axes.set_ylim(bottom=0)
        if knee:
            axes.axvline(knee, color=ACCENT, lw=1, ls=(0, (1, 3)), label="knee")
        axes.legend(loc="upper left")
    return figure


def efficiency(rungs: pd.DataFrame) -> Figure:
    """Throughput against perfect scaling, and against the time that each user waits per token. `rungs`:
    lib.queueing.scaling's."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [f"{n}" for n in rungs["streams"]]
    bars = left.bar(names, rungs["efficiency"] * 100, color=LIGHT, edgecolor=DARK)
    left.bar_label(bars, fmt="%.0f", padding=2, fontsize=9)
    left.axhline(100, color=DARK, lw=1, ls="--")
    left.set(title="Of perfect scaling", xlabel="users at once", ylabel="%", ylim=(0, max(115, rungs["efficiency"].max() * 115)))
    each = rungs["throughput_tps"] / rungs["streams"]
    right.plot(each, rungs["throughput_tps"], "o-", color=DARK, ms=5, lw=1.5)
    for n, x, y in zip(names, each, rungs["throughput_tps"]):
        right.annotate(n, (x, y), textcoords="offset points", xytext=(6, 3), fontsize=9)
    right.set(title="All together, and each", xlabel="tokens/s for each user", ylabel="tokens/s together")
    right.margins(x=0.12, y=0.1)
    right.set_ylim(bottom=0)
    return figure


def waterfall(frame: pd.DataFrame, window: tuple[float, float], most: int = 40) -> Figure:
    """Request by request from the middle of a window: waiting for the first token, then the answer. `frame`:
    lib.metrics.per_request of one level."""
    good = frame[frame["error"].isna() & frame["sent"].notna()].sort_values("sent")
    middle = sum(window) / 2
    rows = good[good["done"] > middle].head(most) if len(good) > most else good
    zero, lanes = rows["sent"].min(), np.arange(len(rows))
    figure, axes = _axes(f"{len(rows)} requests as they came", "seconds since the first of them was sent", "request",
                         max(2.6, 0.8 + 0.11 * len(rows)))
    axes.barh(lanes, rows["first"] - rows["sent"], left=rows["sent"] - zero, height=0.85, color="white", edgecolor=ACCENT,
              hatch="/////", lw=0.8, label="to the first token")
    axes.barh(lanes, rows["last"] - rows["first"], left=rows["first"] - zero, height=0.85, color=DARK, label="first to last token")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(lanes[::5], [f"{n}" for n in rows["index"].astype(int).iloc[::5]])
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower left")
    return figure


def open_loop(tried: pd.DataFrame, capacity: float, ttft_ms: float, share: float = 95) -> Figure:
    """TTFT, and how many met the targets, by offered rate. tried: lib.search.best_rate's lines; capacity: requests/s."""
    rows = tried.sort_values("rate")
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(rows["rate"], rows["ttft_ms"], "o-", color=DARK, ms=5, label="median")
    if rows["ttft_p95_ms"].notna().any():
        left.plot(rows["rate"], rows["ttft_p95_ms"], "^:", color=ACCENT, ms=5, label="p95")
    left.axhline(ttft_ms, color=DARK, lw=1, ls="--", label=f"target {ttft_ms:g} ms")
    left.set(title="TTFT when the public asks", ylabel="ms, from when it was due")
    _log(left)
    met = rows["share"] * 100
    ends = np.clip([met - rows["share_low"] * 100, rows["share_high"] * 100 - met], 0, None)
    right.errorbar(rows["rate"], met, yerr=ends, fmt="-", color=DARK, lw=1.3, capsize=3)
    for holds, mark, label in ((True, "o", "kept"), (False, "X", "not kept")):
        some = rows["holds"] == holds
        right.plot(rows["rate"][some], met[some], mark, color=DARK if holds else ACCENT, ms=7, label=label)
    right.axhline(share, color=DARK, lw=1, ls="--", label=f"{share:g} % asked for")
    right.set(title="Met both targets", ylabel="% of requests", ylim=(0, 105))
    for axes in (left, right):
        axes.axvline(capacity, color=ACCENT, lw=1.2, ls=(0, (1, 2)), label="capacity of the closed loop")
        axes.set_xlabel("requests/s offered")
        axes.set_xlim(left=0)
        axes.legend(fontsize=8)
    return figure


def over_time(found: pd.DataFrame, worst_at: list[float], died_s: float | None = None) -> Figure:
    """A long series, moment by moment: a panel for each group of quantities that there is. found:
    lib.endurance.moments. worst_at: moments to mark, s; died_s: when the server stopped answering."""
    panels = [  # columns that share an axis, and its label
        (["throughput_tps"], "tokens/s"), (["ttft_ms", "tpot_ms"], "ms"), (["running", "waiting"], "requests"),
        (["kv_pct", "cpu_pct"], "%"), (["gpu_memory_gib"] if found["gpu_memory_gib"].notna().any() else ["memory_gib"], "GiB"),
        (["gpu_temperature_c"], "°C"), (["gpu_sm_mhz"], "MHz"), (["gpu_power_w"], "W"),
    ]
    panels = [(there, unit) for columns, unit in panels if (there := [c for c in columns if found[c].notna().any()])]
    figure = Figure(figsize=(7.2, 0.6 + 1.45 * len(panels)), layout="constrained")
    all_axes = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
    middle = found["at_s"] + found["length_s"] / 2
    for axes, (columns, unit) in zip(all_axes, panels):
        for column, (style, color) in zip(columns, (("-", DARK), ("--", ACCENT))):
            axes.plot(middle, found[column], style, color=color, lw=1.4, marker="." if len(found) <= 80 else None, ms=4,
                      label=moments_of.NAMES[column][0])
        for at in worst_at:
            axes.axvspan(at, at + found["length_s"].iloc[0], color=LIGHT, alpha=0.5, lw=0)
        if died_s is not None:
            axes.axvline(died_s, color=ACCENT, lw=1.6, ls=":")
        low, high = axes.get_ylim()
        if unit not in ("GiB", "MHz", "°C"):
            axes.set_ylim(0, max(high * 1.3, 1.0))
        else:
            axes.set_ylim(low - 0.1 * (high - low), high + 0.4 * (high - low))
        axes.set_ylabel(unit)
        axes.legend(loc="upper right", ncols=2, fontsize=8, borderaxespad=0.1)
    all_axes[0].set_title("The worst moments are shaded" + ("; at the dotted line the server died" if died_s is not None else ""))
    all_axes[-1].set_xlabel("seconds since the first request was sent")
    return figure


def against_limit(rungs: pd.DataFrame, limits: dict[int, float], machine: str) -> Figure:
    """Throughput by number of users under the line that the machine sets. rungs: lib.search.ladder's; limits: tokens/s by
    number of users, of those rungs that have one."""
    rungs = rungs[rungs["streams"].isin(list(limits))]
    figure, axes = _axes("Throughput, and what the machine allows", "users at once", "tokens/s together", 3.6)
    streams, seen, top = list(rungs["streams"]), list(rungs["throughput_tps"]), [limits[n] for n in rungs["streams"]]
    axes.plot(streams, top, "--", color=ACCENT, lw=1.8, label=f"limit of this {machine}")
    _line(axes, rungs, "throughput_tps", "measured, and its share of the limit")
    _log(axes)
    axes.set_ylim(min(seen) / 2.5, max(top) * 6)
    axes.fill_between(streams, top, axes.get_ylim()[1], color=LIGHT, alpha=0.35, lw=0, label="impossible")
    for n, value, limit in zip(streams, seen, top):
        axes.annotate(f"{100 * value / limit:.2g} %", (n, value), textcoords="offset points", xytext=(0, -16), ha="center", fontsize=9)
    _users(axes, streams)
    axes.legend(loc="upper left", fontsize=9)
    return figure
