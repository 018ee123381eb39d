"""How far answers stay the same, drawn: pairs of lib.consistency -> Figure, as in lib.plots."""
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib import consistency, stats
from lib.plots import ACCENT, DARK, LIGHT, _axes


def agreement(pairs: dict[str, pd.DataFrame]) -> Figure:
    """A line a condition: the share of answers that are the same, and of those that mean the same, with intervals."""
    figure, axes = _axes("Answers that agree with the answer alone", "% of the answers, with the 95 % interval", "", 1.4 + 0.45 * len(pairs))
    looks = ((consistency.same, -0.13, {"fmt": "o", "color": DARK}, "the same, token by token"),
             (consistency.kept, 0.13, {"fmt": "s", "color": ACCENT, "mfc": "white"}, "the same meaning, where it can be judged"))
    for of, shift, look, label in looks:
        found = [of(p).scaled(100) for p in pairs.values()]
        ends = [[e.value - e.low for e in found], [e.high - e.value for e in found]]
        axes.errorbar([e.value for e in found], np.arange(len(pairs)) + shift, xerr=np.clip(ends, 0, None), ms=6, lw=1.5, capsize=3,
                      label=label, **look)
    axes.set_yticks(range(len(pairs)), list(pairs))
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlim(min(axes.get_xlim()[0], 80), 101)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def margins(alone: pd.DataFrame, pairs: dict[str, pd.DataFrame]) -> Figure:
    """By how much each token was preferred to the next likeliest, beside how far rounding moves logprobs: an answer can part
    only where the first is not larger than the second. `alone`: rows of lib.asking."""
    found = consistency.gaps(alone)
    figure, axes = _axes(f"How narrowly {len(found):,} tokens were chosen", "logprob of the token less that of the next likeliest, nats", "tokens")
    least = max(min(found.min(), 1e-3) if len(found) else 1e-3, 1e-7) / 3
    edges = np.logspace(np.log10(least), np.log10(max(found.max(), 1) if len(found) else 1), 50)
    axes.hist(found, bins=edges, color=LIGHT, edgecolor=DARK, lw=0.5)
    usual = consistency.noise(pairs)
    if usual > 0:
        axes.axvspan(least, usual, color=ACCENT, alpha=0.25, lw=0, label=f"rounding moves logprobs by up to {usual:.2g}")
    else:
        axes.plot([], [], " ", label="no logprob moved, not by one bit")
    gaps = pd.concat([p["gap"] for p in pairs.values()]).dropna()
    if len(gaps):
        axes.plot(gaps.clip(lower=least), [1] * len(gaps), "v", color="black", mfc="white", ms=7,
                  label=f"{len(gaps)} places where answers part")
    axes.set_xscale("log")
    axes.set_yscale("log")  # the few narrow ones are what matters
    axes.set_ylim(bottom=0.6)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(loc="upper left", fontsize=9)
    return figure


def narrowest(alone: pd.DataFrame) -> float:
    """The narrowest choice of a token, nats."""
    found = consistency.gaps(alone)
    return float(found.min()) if len(found) else float("nan")


def openings(one: dict[str, list], two: dict[str, list], names: tuple[str, str], most: int = 6) -> Figure:
    """For each prompt, how often its commonest openings came, in percent of the samples with 95 % intervals: one bar a set."""
    figure = Figure(figsize=(7.2, 1.2 + 1.05 * len(one)), layout="constrained")
    for axes, prompt in zip(np.atleast_1d(figure.subplots(len(one), 1)), one):
        sets = [pd.Series(samples.get(prompt, []), dtype=str) for samples in (one, two)]
        shown = pd.concat(sets).value_counts().head(most).index
        for shift, look, name, texts in ((-0.2, {"color": DARK}, names[0], sets[0]), (0.2, {"color": LIGHT, "edgecolor": DARK}, names[1], sets[1])):
            found = [stats.share(int((texts == text).sum()), len(texts)).scaled(100) for text in shown]
            ends = [[e.value - e.low for e in found], [e.high - e.value for e in found]]
            axes.bar(np.arange(len(shown)) + shift, [e.value for e in found], 0.38, yerr=np.clip(ends, 0, None), label=name,
                     error_kw={"lw": 0.9, "ecolor": "black", "capsize": 2}, **look)
        axes.set_xticks(range(len(shown)), [repr(text[:14]) for text in shown], fontsize=8)
        axes.set_ylabel("%")
        axes.set_title(prompt, fontsize=9, fontweight="normal")
    figure.suptitle("The commonest openings of sampled answers", x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    return figure
