"""Runs side by side: two GPUs, two versions, two models; this workbook's runs and other tools' results. Files in, tables out.

Ratios are b / a with the intervals of lib.compare, from the values of each request of both runs. Where both
runs sent the same requests, and what takes long in one takes long in the other, they are held against each other in
blocks, so that their mixture is no spread. The runs were measured one after the other, on another day or machine: whatever else changed
between them is in the ratio, and no interval shows it. What is not the same work is not compared.
"""
import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib import metrics, rundir, stats, tables
from lib.compare import compare
from lib.errors import UserError
from lib.finished import SHOWN, open_run
from lib.imported import COUNTS, Measured, Run

SAME_TOKENS, ABOUT_AS_MANY = 0.02, 0.25  # relative; the latter where two tokenizers or tools count the prompt
ALIKE = 0.5  # correlation of the same requests in two runs, from which on they are held against each other
BLOCKS, LEAST_IN_BLOCK = 10, 4  # of neighbouring requests, so that what lasts for some of them counts once
FEW = f"fewer than {stats.MIN_SAMPLES} values"


@dataclass
class Side:
    """Two series of the same work: `name`, a's and b's."""

    name: str
    a: Measured
    b: Measured


# -- what may be compared ----------------------------------------------------------------------------
def open_all(words: list[str], any_model: bool = False) -> list[Run]:
    """The runs in the order asked for; the first is what the others are held against. Raises UserError where there is
    nothing to compare."""
    if len(words) < 2:
        raise UserError("a comparison needs at least two runs: name them, the one to compare with first")
    runs = [open_run(word) for word in words]
    for a, b in itertools.combinations(runs, 2):
        if a.path == b.path:
            raise UserError(f"{a.name} is to be compared with itself: name another run")
    for a, b in ((runs[0], other) for other in runs[1:]):
        if _model(a) != _model(b) and not any_model:
            raise UserError(f"{a.name} measured {a.model or 'an unnamed model'}, {b.name} {b.model or 'an unnamed model'}: "
                            "--any-model compares different models")
        pairs, left = matched(a, b)
        if any(_copied(pair) for pair in pairs):
            raise UserError(f"{b.name} holds the very requests of {a.name}: a copy of a run shows no difference")
        if not pairs:
            why = "; ".join(left[:3]) or f"{a.name} has {', '.join(a.series) or 'no series'}; {b.name} has {', '.join(b.series) or 'no series'}"
            again = f"; `workbook run --like {a.name} --server …` makes the work of {a.name} again elsewhere" if (rundir.OUTPUTS / a.name).is_dir() else ""
            raise UserError(f"{a.name} and {b.name} have no work in common ({why}){again}")
    return runs


def matched(a: Run, b: Run) -> tuple[list[Side], list[str]]:
    """The series of the same work, and why others of the same name or shape are left out."""
    if a.tool == b.tool == "workbook":
        found = [(name, a.series[name], b.series[name]) for name in a.series if name in b.series]
    else:
        found = [(one.shape, one, other) for one, other in itertools.product(a.series.values(), b.series.values())
                 if one.shape == other.shape]
    counted_alike = a.tool == b.tool and _model(a) == _model(b)
    started = [_configurations(run) for run in (a, b)]
    pairs, left = [], []
    for name, one, other in found:
        letter = name.split(".")[1].partition("-")[2] if name.startswith("tuning.") else ""
        (said_a, own_a), (said_b, own_b) = (of_run.get(letter, ("not told", None)) for of_run in started)
        reason = f"{said_a} against {said_b}" if own_a != own_b else different_work(one, other, counted_alike)
        if reason:
            left.append(f"{name}: {reason}")
        else:
            pairs.append(Side(name, one, other))
    return pairs, left


def _configurations(run: Run) -> dict[str, tuple[str, list]]:
    """What 06_tuning started in a run: letter -> (name, its own flags). One list's B is not another's."""
    told = rundir.read_json(run.path / "tuning.json", {}) if run.tool == "workbook" else {}
    listed = told.get("configurations") if isinstance(told, dict) else None
    return {c.get("letter"): (c.get("name", "?"), [c.get("model"), c.get("own")]) for c in listed or [] if isinstance(c, dict)}


def different_work(a: Measured, b: Measured, counted_alike: bool = True) -> str | None:
    """Why two series are not the same work; None where they are. `counted_alike`: one tokenizer and one tool counted."""
    if a.shape != b.shape:
        return f"{a.shape} against {b.shape}"
    limits = {"output_tokens": ("answers", SAME_TOKENS), "prompt_tokens": ("prompts", SAME_TOKENS if counted_alike else ABOUT_AS_MANY)}
    for name, (what, limit) in limits.items():
        one, other = getattr(a, name), getattr(b, name)
        if abs(one - other) > limit * max(one, other):
            return f"{what} of {one:.0f} tokens against {other:.0f}"
    return None


def _model(run: Run) -> str:
    return run.model.rsplit("/", 1)[-1].removeprefix("shape:").casefold()


def _copied(pair: Side) -> bool:
    one, other = pair.a.values.get("total_s"), pair.b.values.get("total_s")
    return one is not None and other is not None and len(one) > 1 and np.array_equal(one, other, equal_nan=True)


# -- the comparison ----------------------------------------------------------------------------------
def ratios(runs: list[Run], smallest: float = 0.02) -> pd.DataFrame:
    """A row a series, metric and run after the first: `a`, `b` (means, in the units of the tables), `ratio` of the
    means with `low` and `high`, `median_ratio`, `verdict`, `n_a`, `n_b`, `doubt` (what speaks against either series)."""
    rows = []
    for run in runs[1:]:
        for pair in matched(runs[0], run)[0]:
            rows += [_ratio(runs[0], run, pair, metric, smallest) for metric in SHOWN if _has(pair.a, metric) and _has(pair.b, metric)]
    return pd.DataFrame(rows)


def _has(series: Measured, metric: str) -> bool:
    return len(stats.finite(series.values.get(metric, []))) > 0 or math.isfinite(series.told.get(metric, {}).get("mean", math.nan))


def _ratio(a: Run, b: Run, pair: Side, metric: str, smallest: float) -> dict:
    name, unit, factor, _ = metrics.METRICS[metric]
    values = [stats.finite(side.values.get(metric, [])) for side in (pair.a, pair.b)]
    means = [float(v.mean()) if len(v) else side.told[metric]["mean"] for v, side in zip(values, (pair.a, pair.b))]
    doubts = {f"{run.name}: {side.verdicts[metric]}" for run, side in ((a, pair.a), (b, pair.b))
              if side.verdicts.get(metric, "valid") not in ("valid", "")}
    row = {"run": b.name, "against": a.name, "series": pair.name, "metric": name, "unit": unit, "a": means[0] * factor,
           "b": means[1] * factor, "ratio": means[1] / means[0] if means[0] else math.nan, "low": math.nan, "high": math.nan,
           "median_ratio": math.nan, "n_a": len(values[0]), "n_b": len(values[1]), "doubt": "; ".join(sorted(doubts))}
    if not all(len(v) for v in values):
        return row | {"verdict": "no interval: only a mean was kept"}
    blocks = _in_blocks(pair, metric)
    one, other, rounds = blocks or (*values, None)
    found = compare(one, other, paired_rounds=rounds, better=SHOWN[metric], smallest=smallest)
    verdict = (f"undecided: {FEW}" if min(map(len, values)) < stats.MIN_SAMPLES else
               found.verdict if found.ratio.low > 0 else "undecided: the values are too uneven for an interval")
    return row | {"ratio": found.ratio.value, "low": found.ratio.low, "high": found.ratio.high,
                  "median_ratio": found.median_ratio.value, "verdict": verdict}


def _in_blocks(pair: Side, metric: str) -> tuple | None:
    """(a's values, b's, the block of each) of requests that are the same in both; None where they are not, or where which
    request it was says little of its time."""
    one, other = (side.requests for side in (pair.a, pair.b))
    if one is None or other is None or metric == "throughput_tps":
        return None
    both = one.assign(a=pair.a.values[metric]).merge(other.assign(b=pair.b.values[metric]), on=["index", "turn", "prompt_tokens"])
    both = both[(both["a"] > 0) & (both["b"] > 0)]
    if len(both) < 0.8 * max(len(one), len(other)) or len(both) < 2 * LEAST_IN_BLOCK or min(both["a"].nunique(), both["b"].nunique()) < 2:
        return None
    if np.corrcoef(np.log(both["a"]), np.log(both["b"]))[0, 1] < ALIKE:
        return None
    labels = np.arange(len(both)) * min(BLOCKS, len(both) // LEAST_IN_BLOCK) // len(both)
    return both["a"], both["b"], (labels, labels)


def sides(runs: list[Run]) -> pd.DataFrame:
    """What was measured on what, a row a run."""
    def told(run, *names):
        return next((run.settings[name] for name in names if run.settings.get(name)), "not told")
    return pd.DataFrame([{
        "run": run.name, "tool": run.tool, "model": run.model, "server": told(run, "server"), "GPU": told(run, "GPU", "client's GPU"),
        "measured": told(run, "measured", "date"), "series": len(run.series),
        "requests": sum(s.counts.get("sent", 0) for s in run.series.values()),
        "failed": sum(s.counts.get("failed", 0) for s in run.series.values())} for run in runs])


def left_out(runs: list[Run]) -> pd.DataFrame:
    """The series of the runs that were not compared, and why."""
    rows = []
    for run in runs[1:]:
        pairs, other_work = matched(runs[0], run)
        rows += [{"run": run.name, "left out": line} for line in other_work]
        used = [{id(p.a) for p in pairs}, {id(p.b) for p in pairs}]
        for side, there, ids in ((runs[0], run, used[0]), (run, runs[0], used[1])):
            alone = [name for name, s in side.series.items() if id(s) not in ids and not any(w.startswith(f"{name}: ") for w in other_work)]
            if alone:
                rows.append({"run": run.name, "left out": f"only in {side.name}: {', '.join(alone)}"})
    return pd.DataFrame(rows or [{"run": "all", "left out": "nothing"}])


def settings(runs: list[Run]) -> pd.DataFrame:
    """What differs between the runs: a row a setting, a column a run, "not told" where a run does not say."""
    told = {run.name: {"tool": run.tool, "model": run.model} | run.settings for run in runs}
    names = list(dict.fromkeys(name for of_run in told.values() for name in of_run))
    names = [name for name in names if not name.startswith("parameter") or all(name in of_run for of_run in told.values())]
    rows = [{"setting": name} | {run: of_run.get(name) or "not told" for run, of_run in told.items()} for name in names]
    return pd.DataFrame([row for row in rows if len(set(list(row.values())[1:])) > 1], columns=["setting", *told])


def counted(runs: list[Run]) -> pd.DataFrame:
    """How each tool that is among them counts."""
    return pd.DataFrame([{"tool": tool, "counts": COUNTS[tool]} for tool in dict.fromkeys(run.tool for run in runs)])


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """`ratios` for readers."""
    ratio = [tables.with_interval(stats.Estimate(r.ratio, r.low, r.high, min(r.n_a, r.n_b))) for r in rows.itertuples()]
    shown = pd.DataFrame({
        "run": rows["run"], "series": rows["series"], "metric": rows["metric"] + ", " + rows["unit"], "against": rows["a"],
        "here": rows["b"], "ratio": ratio, "of medians": rows["median_ratio"],
        "n": [f"{a} / {b}" if a and b else "–" for a, b in zip(rows["n_a"], rows["n_b"])], "verdict": rows["verdict"], "doubt": rows["doubt"]})
    return shown.drop(columns=[c for c, idle in (("run", rows["run"].nunique() == 1), ("doubt", rows["doubt"].eq("").all())) if idle])


def said(rows: pd.DataFrame) -> list[str]:
    """What a comparison found, a sentence a run; and how many of the differences may be chance."""
    out = []
    for (run, against), of_run in rows.groupby(["run", "against"], sort=False):
        bare = of_run["verdict"].str.startswith("no interval")
        judged = of_run[~bare]
        count = {v: int(judged["verdict"].eq(v).sum()) for v in ("faster", "slower", "no difference shown")}
        same = int(judged["verdict"].str.startswith("equivalent").sum())
        few = int(judged["verdict"].str.startswith("undecided").sum())
        out.append(
            f"**{run}** against {against}: of {len(judged)} ratios {count['faster']} show it faster, {count['slower']} "
            f"slower, {same} equivalent, {count['no difference shown']} no difference, {few} rest on too little"
            + (f"; {bare.sum()} more have no interval, because only means were kept" if bare.any() else "") + ".")
    trials = int(rows["low"].notna().sum())
    if trials:
        out.append(f"Of {trials} intervals at 95 %, about {trials / 20:.0f} would leave out 1 by chance alone, and neighbouring "
                   "series share what changed between the runs.")
    return out


def largest(rows: pd.DataFrame) -> str:
    """The clearest difference either way, in words."""
    out = []
    for verdict in ("faster", "slower"):
        shown = rows[rows["verdict"] == verdict]
        if len(shown):
            clear = shown.loc[np.fmin(np.abs(np.log(shown["low"])), np.abs(np.log(shown["high"]))).idxmax()]
            ratio = tables.with_interval(stats.Estimate(clear["ratio"], clear["low"], clear["high"], 0))
            out.append(f"{clear['run']} is most clearly {verdict} in {clear['series']}: its {clear['metric']} is {ratio} times that of "
                       f"{clear['against']}" + (f", but {clear['doubt']}" if clear["doubt"] else ""))
    return ". ".join(out or ["No difference was shown in any series"]) + "."


def publish(run: rundir.RunDir, rows: pd.DataFrame, notebook: str) -> None:
    """Enter every ratio as a figure of `run`; both sides of each are its records."""
    run.write_rows("ratios", rows.astype(object).where(rows.notna(), None).to_dict("records"))
    for r in rows.itertuples():
        estimate = stats.Estimate(r.ratio, r.low, r.high, min(r.n_a, r.n_b))
        verdict = r.doubt or ("valid" if math.isfinite(r.low) and not r.verdict.startswith("undecided") else r.verdict)
        run.publish(f"{r.run}.{r.series}.{r.metric.replace(' ', '_')}", f"{r.run} / {r.against}, {r.series}: {r.metric}, ratio", estimate,
                    "", verdict, notebook, "ratios", formula="mean / mean; order of measuring allowed for", table=f"{r.run} against {r.against}")


def as_text(runs: list[Run]) -> str:
    """A comparison for a terminal: a line a ratio, then what it comes to."""
    rows = ratios(runs)
    if rows.empty:
        raise UserError(f"{' and '.join(run.name for run in runs)} have no figure in common that can be compared")
    shown = table(rows).drop(columns=["of medians", "doubt"], errors="ignore")
    shown[["against", "here"]] = shown[["against", "here"]].map(tables.number)
    lines = [shown.to_string(index=False, justify="left")]
    return "\n".join([*lines, "", *(line.replace("**", "") for line in said(rows)), *left_out(runs)["run"].str.cat(left_out(runs)["left out"], ": left out, ")])
