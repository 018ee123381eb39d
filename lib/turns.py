"""Records of conversations -> what a turn costs, with its context cached and without. Pure."""
import numpy as np
import pandas as pd

from lib import compare, stats, tables
from lib.compare import Comparison
from lib.errors import UserError
from lib.metrics import METRICS

CACHED, COLD = "cached", "cold"


def label(rows: pd.DataFrame, talks, block: int = 16, whole: bool = True) -> pd.DataFrame:
    """Measured rows of lib.conversations.Talks with the columns `cache` (CACHED or COLD), `dialogue`, `round` (of four
    conversations, see Talks) and `new_tokens`: those of the prompt that no cache can have held, given that a block of
    `block` tokens is shared only when it is full. Cold turns have only new ones. A round that the end of the series cut
    off is left out; with `whole` False it stays. Raises UserError when none is whole."""
    ended = (rows["turn"] == talks.turns).groupby(rows["index"] // 4).sum()
    rows = rows[(rows["index"] // 4).isin(ended.index[ended == 4])] if whole else rows
    if rows.empty:
        raise UserError(f"the series ended before a round of four conversations of {talks.turns} turns was whole: give it more "
                        "time, or fewer turns")
    rows = rows.sort_values(["index", "turn"])
    held = (rows["prompt_tokens"] + rows["output_tokens"] - 1).groupby(rows["index"]).shift()
    cold = rows["index"].map(talks.cold).astype(bool)
    known = np.floor(held.fillna(0) / block) * block
    return rows.assign(
        cache=np.where(cold, COLD, CACHED), dialogue=rows["index"].map(talks.dialogue), round=rows["index"] // 4,
        new_tokens=rows["prompt_tokens"] - known.where(~cold, 0).clip(upper=rows["prompt_tokens"] - 1))


def gain(rows: pd.DataFrame, metric: str = "ttft_s") -> Comparison:
    """Cached against cold over the turns that have something to gain (from the second on), round by round. `rows`: of
    `label`. The ratio is cached / cold."""
    later = rows[rows["turn"] > 1]
    cold, cached = (later[later["cache"] == kind] for kind in (COLD, CACHED))
    return compare.compare(cold[metric], cached[metric], paired_rounds=(cold["round"], cached["round"]))


def by_turn(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a turn: context, new tokens, TTFT and TPOT cached and cold, medians, and cached / cold with its interval."""
    found = []
    for turn, of_turn in rows.groupby("turn"):
        cold, cached = (of_turn[of_turn["cache"] == kind] for kind in (COLD, CACHED))
        ratio = compare.compare(cold["ttft_s"], cached["ttft_s"], paired_rounds=(cold["round"], cached["round"])).ratio
        found.append({
            "turn": int(turn), "prompt tokens": of_turn["prompt_tokens"].mean(), "of them new": cached["new_tokens"].mean(),
            "TTFT cold, ms": cold["ttft_s"].median() * 1000, "TTFT cached, ms": cached["ttft_s"].median() * 1000,
            "cached / cold": tables.with_interval(ratio),
            "TPOT cold, ms": cold["tpot_s"].median() * 1000, "TPOT cached, ms": cached["tpot_s"].median() * 1000})
    return pd.DataFrame(found)


def hits(rows: pd.DataFrame) -> float:
    """Tokens that the cached turns of `label` can have taken from the prefix cache, at most."""
    return float((rows["prompt_tokens"] - rows["new_tokens"])[rows["cache"] == CACHED].sum())


def article_table(groups: dict[str, pd.DataFrame], claimed: pd.DataFrame) -> pd.DataFrame:
    """The article's table (mean, lowest, highest of each figure) for each group of rows, the article's own first.
    `claimed`: lib.claims.article()."""
    found = []
    for metric in ("ttft_s", "article_tps", "total_s"):
        name, unit, factor, _ = METRICS[metric]
        claim = claimed.loc[metric]
        row = {"figure": f"{name}, {unit}", f"article, {claim['hardware']}": f"{tables.number(claim['mean'])} "
               f"({tables.number(claim['low'])} to {tables.number(claim['high'])})"}
        for group, rows in groups.items():
            values = rows[metric].dropna() * factor
            mean = (stats.rate_mean if metric == "article_tps" else stats.mean)(values).value
            row[group] = f"{tables.number(mean)} ({tables.number(values.min())} to {tables.number(values.max())})"
        found.append(row)
    return pd.DataFrame(found)


def together(measured: dict, turns: int) -> pd.DataFrame:
    """A row a series of conversations at once (name -> (lib.series.Series, think time, s)): turns a second as counted and as
    the interactive response time law has it: users / (mean whole time + mean think time of a turn) (Lazowska et
    al., Quantitative System Performance, 1984, section 3.4)."""
    found = []
    for name, (series, think_s) in measured.items():
        rows, (began, ended) = series.measured, series.window
        if rows.empty:
            raise UserError(f"{name}: {series.streams} conversations were never going on together and answered: give it more time")
        inside = series.frame["done"].between(began, ended).sum() / (ended - began)
        law = series.streams / (rows["total_s"].mean() + think_s * (turns - 1) / turns)
        found.append({
            "load": name, "users": series.streams, "think time, s": think_s, "turns": len(rows), "turns/s": inside,
            "turns/s by the law": law, "TTFT, ms": rows["ttft_s"].median() * 1000,
            "TPOT, ms": rows["tpot_s"].median() * 1000})
    return pd.DataFrame(found)


def judged(rows: pd.DataFrame, talks, right) -> pd.DataFrame:
    """Turns of lib.conversations.PictureTalks with `question`, `expected` and whether the reply is `right(ask, facts,
    text, answer)`, as lib.judging.correct says."""
    asked = [talks.question(int(i), int(turn)) for i, turn in zip(rows["index"], rows["turn"])]
    facts = [talks.picture(int(i), int(turn)).facts for i, turn in zip(rows["index"], rows["turn"])]
    return rows.assign(question=[q.question for q in asked], expected=[q.answer for q in asked], right=[
        right(q.ask, f, text or "", q.answer) for q, f, text in zip(asked, facts, rows["text"])])


def talk_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `judged` for readers."""
    return pd.DataFrame({
        "conversation": rows["index"] + 1, "turn": rows["turn"], "prompt tokens": rows["prompt_tokens"], "TTFT, ms": rows["ttft_s"] * 1000,
        "question": rows["question"], "answer": rows["text"], "right": ["yes" if right else f"NO: {expected}" for right, expected
                                                                       in zip(rows["right"], rows["expected"])]})
