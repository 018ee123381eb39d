"""Which configuration is better, and how sure is that? Pure: a row for each start of a server in, numbers and words out.

A start is the sample. Two starts of the very same command differ by more than chance among their requests explains:
memory lies elsewhere, other caches are warm, the machine has other work. So an interval from the requests of one
start on each side is too narrow, however many requests it has. Here each start i of configuration c(i) gives one
number y for each metric, and

    log y_i = m_c(i) + g log p_i + b t_i + e_i    p_i: the machine's pace at that start, see lib.pace; t_i: its place in the order
    v_i = τ² + w_i²                    the variance of e_i, which are independent; w_i: relative standard error of the start's own throughput over time
    Σ r_i² / v_i = df                  fixes τ², the variance between starts; r_i: residuals, df = starts - coefficients

is fitted by least squares weighted with 1 / v_i: a meta-regression, in which each start is a study (Paule and Mandel, J. Res.
NBS 87, 1982, for τ²; Knapp and Hartung, Statistics in Medicine 22, 2003, for Student's t). The baseline is started again
and again between the others (A B A C A …), so that the line b t takes up what drifts, and the scatter of starts of one
configuration around the fit is the noise floor. A start that something disturbed scatters in itself, has a large w,
and counts for less.

    ratio of c to the baseline = exp(m_c - m_A),    interval: exp(m_c - m_A ± t(df) sqrt(Var(m_c - m_A)))

Configurations differ in how far their starts differ: on a GPU most without CUDA graphs (docs/gpu.md). So
this ratio is fitted on the starts of c and of the baseline alone where these leave four degrees of freedom. Where they do not,
all configurations lend their repeated starts to τ, and one that was started once has an interval, too.

The pace is fitted where it varied among starts of one configuration, by 2 % and by half of what it varied by among all (standard
deviations of its logarithm), and where it leaves four degrees of freedom: all known without looking at y, as is which starts a ratio
is fitted on. Then the drift is, where it leaves two; with none there is no interval and no verdict. A pace is measured with an error,
so that its effect is taken out in part.

A configuration's verdicts on throughput, TTFT and TPOT hold together in 95 of 100 cases: each interval is the
98.3 % one (Bonferroni). How often equal servers are called different is tested on recorded starts.
"""
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize
from scipy import stats as scipy_stats

from lib import compare, stats
from lib.configurations import Configuration
from lib.stats import Estimate

BASELINE, RATIO = "baseline", "times-the-baseline"  # RATIO: how ids of figures end that are a ratio to the baseline


@dataclass(frozen=True)
class Metric:
    """better: "higher", "lower", or None where it depends. within: the column with its standard error, relative."""

    name: str
    unit: str
    factor: float
    better: str | None
    formula: str


METRICS = {  # column of the starts -> what it is
    "throughput_tps": Metric("throughput", "tokens/s", 1, "higher", "tokens in the steady window / its length"),
    "ttft_s": Metric("TTFT", "ms", 1000, "lower", "median of first − sent"),
    "tpot_s": Metric("TPOT", "ms", 1000, "lower", "median of (last − first) / (n − 1)"),
    "long_ttft_s": Metric("TTFT, long prompts", "ms", 1000, "lower", "mean of first − sent; half of the prompts have one opening"),
    "alone_ttft_s": Metric("TTFT alone", "ms", 1000, "lower", "mean of first − sent, one request at a time"),
    "alone_tpot_s": Metric("TPOT alone", "ms", 1000, "lower", "mean of (last − first) / (n − 1), one request at a time"),
    "cold_ttft_s": Metric("TTFT cold", "ms", 1000, "lower", "the server's own, of the very first request: the token by which the start proved that it serves"),
    "start_s": Metric("start-up", "s", 1, "lower", "from the command to the first token"),
    "memory_gib": Metric("memory", "GiB", 1, None, "of the server's processes under load; with a GPU, the GPU's"),
    "of_limit": Metric("throughput of the limit", "%", 1, None, "throughput / the most that this machine allows as many streams"),
    "alone_of_limit": Metric("decode speed alone of the limit", "%", 1, None, "1 / TPOT alone / the most that this machine allows one stream"),
    "kv_tokens": Metric("KV cache", "tokens", 1, None, "as the server tells it"),
}
SPEED = ("throughput_tps", "ttft_s", "tpot_s")
TIMED = (*SPEED, "alone_ttft_s", "alone_tpot_s", "long_ttft_s")  # of a start's loads: what speaks against those speaks against these
LEVEL = 1 - (1 - stats.LEVEL) / len(SPEED)
TINY = 1e-14  # a variance: what does not vary at all is as sure as rounding lets it be
UNEVEN = 0.02  # a pace that varies less tells nothing
LEFT = 4  # degrees of freedom: with fewer, one more that is spent widens an interval by more than it is likely to explain
COMPARED = ["ratio", "low", "high", "verdict"]  # columns that a comparison with the baseline fills
MET = 0.95  # of the requests meet both targets, or a configuration does not keep them


# -- the plan ----------------------------------------------------------------------------------------
def order(others: list, apart: int = 1, again: bool = False) -> list:
    """A round: the baseline first, after every `apart` others, and last. `again`: it follows another round, which ended with
    the baseline; its others come in reverse, so that none is always early."""
    others = others[::-1] if again else others
    parts = [others[k:k + apart] for k in range(0, len(others), apart)]
    return ([] if again else [BASELINE]) + [name for part in parts for name in [*part, BASELINE]]


def halve(starts: pd.DataFrame, others: list, least: int = 3) -> tuple[list, dict]:
    """The better half of the others, at least `least` -> (those that stay, name -> why it was dropped).

    Successive halving (Jamieson and Talwalkar, AISTATS 2016): ranked by goodput, requests/s that met both targets, then by
    throughput. Who could not start or answers worse than the baseline goes first.
    """
    worse = {n: "its answers are worse than the baseline's" for n, q in quality(starts).items() if q["verdict"] == "worse"}
    dropped = {n: "it did not start" for n in others if starts.loc[starts["name"] == n, "error"].notna().any()} | worse
    left = [n for n in others if n not in dropped]
    mean = starts[starts["error"].isna()].groupby("name")[["goodput", "throughput_tps"]].mean()
    ranked = sorted(left, key=lambda n: tuple(mean.loc[n]), reverse=True)
    kept = ranked[:max(least, math.ceil(len(ranked) / 2))]
    dropped |= {n: f"place {ranked.index(n) + 1} of {len(ranked)} by goodput: {mean.loc[n, 'goodput']:.3g} requests/s within the "
                   f"targets, the last that stays has {mean.loc[kept[-1], 'goodput']:.3g}" for n in ranked if n not in kept}
    return [n for n in others if n in kept], {n: why for n, why in dropped.items() if n in others}


# -- the statistics ----------------------------------------------------------------------------------
def ratios(starts: pd.DataFrame, metric: str, level: float = LEVEL) -> pd.DataFrame:
    """One metric of every configuration against the baseline's; the formula is at the head of this module.

    starts: columns name, place, `metric`, and `metric` + "_error" (w_i) and pace_us if known. -> a row per configuration (index: name):
    value (at the middle of the plan and the mean pace, in the column's unit), starts, ratio, low, high, verdict. attrs, of all
    configurations together: spread (τ), df; drift (Estimate of the ratio of the last start to the first, None if not fitted); pace
    (the slowest start's to the fastest's); pace_effect (Estimate of the ratio that comes of it, likewise).
    """
    rows, about = _fitted(starts, metric, level)
    for name in rows.keys() - {BASELINE}:
        pair, its = _fitted(starts[starts["name"].isin([BASELINE, name])], metric, level)
        if its.get("df", 0) >= LEFT:
            rows[name] |= {column: pair[name][column] for column in COMPARED}
    out = pd.DataFrame(list(rows.values()), columns=["value", "starts", *COMPARED], index=pd.Index(rows, name="name"))
    out.attrs = about
    return out.astype({c: float for c in ("value", "ratio", "low", "high")})


def _fitted(starts: pd.DataFrame, metric: str, level: float) -> tuple[dict[str, dict], dict]:
    """Name -> row of `ratios`, each fitted on all of these starts, and its attrs; without a baseline the rows are empty."""
    rows = starts[np.isfinite(starts[metric].astype(float)) & (starts[metric].astype(float) > 0)]
    names = list(dict.fromkeys(rows["name"]))
    if BASELINE not in names:
        return {name: {} for name in names}, {}
    y = np.log(rows[metric].to_numpy(dtype=float))
    within = rows.get(f"{metric}_error", pd.Series(0.0, rows.index)).astype(float)
    within2 = within.fillna(within.max()).fillna(0.0).to_numpy() ** 2  # an error that could not be told is no small one
    design = (rows["name"].to_numpy()[:, None] == np.array(names)).astype(float)
    pace, place = _log_pace(rows), rows["place"].to_numpy(dtype=float)
    within_names = pace - design @ np.linalg.lstsq(design, pace)[0]  # what tells its effect from that of the configurations
    with_pace = within_names.std() > max(UNEVEN, pace.std() / 2) and len(y) - design.shape[1] - 1 >= LEFT
    design = np.column_stack([design, pace]) if with_pace else design
    drift = len(y) - design.shape[1] - 1 >= 2
    design = np.column_stack([design, place - starts["place"].mean()]) if drift else design
    df = len(y) - design.shape[1]
    between2 = _between(y, design, within2, df)
    variance = np.maximum(between2 + within2, TINY)
    operator = _operator(design, variance)
    fitted, reach = operator @ y, float(scipy_stats.t.ppf((1 + level) / 2, df)) if df > 0 else math.nan

    def estimate(row: np.ndarray, scale: float = 1.0) -> Estimate:
        centre, half = scale * float(row @ y), abs(scale) * reach * math.sqrt(float(row**2 @ variance))
        half = 0.0 if half < 1e-6 else half  # nothing but rounding
        return Estimate(math.exp(centre), math.exp(centre - half), math.exp(centre + half), len(y))

    found = {}
    for k, name in enumerate(names):
        e = estimate(operator[k] - operator[names.index(BASELINE)])
        found[name] = {"value": math.exp(fitted[k]), "starts": int((rows["name"] == name).sum()), "ratio": e.value, "low": e.low, "high": e.high,
                       "verdict": _verdict(e, METRICS[metric].better) if name != BASELINE else "–"}
    slowest = float(np.ptp(pace))
    return found, {"spread": math.sqrt(between2), "df": df, "pace": math.exp(slowest),
                   "pace_effect": estimate(operator[len(names)], slowest) if with_pace else None,
                   "drift": estimate(operator[-1], float(np.ptp(place))) if drift else None}


def _log_pace(rows: pd.DataFrame) -> np.ndarray:
    """The logarithm of the pace, about its mean; zeros where it is not known of every start, as in older records."""
    pace = rows.get("pace_us", pd.Series(math.nan, rows.index)).to_numpy(dtype=float)
    return np.log(pace) - np.log(pace).mean() if len(pace) and np.isfinite(pace).all() else np.zeros(len(pace))


def _operator(design: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The rows that make each coefficient of y, by least squares weighted with 1 / variance."""
    weight = 1 / np.sqrt(variance)
    return np.linalg.pinv(design * weight[:, None]) * weight


def _between(y: np.ndarray, design: np.ndarray, within2: np.ndarray, df: int) -> float:
    """τ², the variance between starts, so that the weighted squares of the residuals add to df; 0 where they are less without it."""
    def excess(between2: float) -> float:
        variance = np.maximum(between2 + within2, TINY)
        return float(((y - design @ (_operator(design, variance) @ y)) ** 2 / variance).sum()) - df

    high = float(np.var(y)) * len(y) + TINY
    return float(optimize.brentq(excess, 0.0, high)) if df > 0 and excess(0.0) > 0 > excess(high) else 0.0


def _verdict(e: Estimate, better: str | None) -> str:
    lower, higher = compare.WORDS[better]
    if e.low == e.high and abs(e.value - 1) < 1e-9:
        return "the same"
    return lower if e.high < 1 else higher if e.low > 1 else "no difference shown"


def quality(starts: pd.DataFrame) -> dict[str, dict]:
    """Name -> right, asked, and whether its answers are worse than the baseline's, question by question.

    answers: a string a start, "1" where a question was answered rightly; over several starts the majority counts. The
    exact McNemar test (Biometrika 12, 1947) of the questions on which the two differ, 5 %, two-sided.
    """
    found = {}
    for name, rows in starts[[isinstance(a, str) and a != "" for a in starts["answers"]]].groupby("name", sort=False):
        found[name] = np.mean([[c == "1" for c in answers] for answers in rows["answers"]], axis=0) > 0.5
    base, out = found.get(BASELINE), {}
    for name, right in found.items():
        lost, won = (int((base & ~right).sum()), int((right & ~base).sum())) if base is not None else (0, 0)
        p = scipy_stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
        out[name] = {"right": int(right.sum()), "asked": len(right), "lost": lost, "won": won, "p": float(p),
                     "verdict": ("worse" if lost > won else "better") if p < 1 - stats.LEVEL else "no difference shown"}
    return out


# -- all of it, and what follows ---------------------------------------------------------------------
def summary(configurations: list[Configuration], starts: pd.DataFrame, dropped: dict[str, str]) -> pd.DataFrame:
    """A row per configuration (index: name): letter, state, cause, share of requests that met the targets, answers, and
    for each metric of METRICS its value, ratio, low, high, verdict as `metric.value` and so on."""
    tables, answers = {m: ratios(starts, m) for m in METRICS}, quality(starts)
    rows = []
    for c in configurations:
        own = starts[starts["name"] == c.name]
        good, errors = own[own["error"].isna()], own["error"].dropna()
        why = dropped.get(c.name, "")
        row = {"name": c.name, "letter": c.letter, "starts": len(own),
               "cause": c.left_out or "; ".join(dict.fromkeys(errors)) or ("" if len(own) else why),
               "state": "left out" if c.left_out else "measured" if len(good) else "cannot start" if len(own) else "not started",
               "dropped": why if len(good) else "",
               "met": int(good["met"].sum()), "due": int(good["due"].sum())}
        row["share"] = row["met"] / row["due"] if row["due"] else math.nan
        row |= {f"answers.{k}": v for k, v in answers.get(c.name, {}).items()}
        for metric, table in tables.items():
            if c.name in table.index:
                row |= {f"{metric}.{k}": table.loc[c.name, k] for k in ("value", "ratio", "low", "high", "verdict")}
        rows.append(row)
    out = pd.DataFrame(rows).set_index("name")
    missing = [f"{m}.{k}" for m in SPEED for k in ("value", "ratio", "low", "high", "verdict") if f"{m}.{k}" not in out]
    out[missing] = math.nan  # no start measured it
    out.attrs = {m: t.attrs for m, t in tables.items()}
    return out


def front(found: pd.DataFrame, cost: str) -> pd.Series:
    """Which configurations no other beats in both throughput and `cost` (a time): the Pareto front, as booleans."""
    fast, slow = found["throughput_tps.value"], found[f"{cost}.value"]
    beaten = [((fast >= f) & (slow <= s) & ((fast > f) | (slow < s))).any() for f, s in zip(fast, slow)]
    return pd.Series([not b and math.isfinite(f) for b, f in zip(beaten, fast)], index=found.index)


def recommend(found: pd.DataFrame) -> tuple[str | None, str]:
    """(the configuration to take, why, in a sentence). `found`: `summary`.

    Of those that keep the targets (95 % of the requests met both) and do not answer worse, the one with the
    highest throughput, if that is shown to be higher than the baseline's; else the baseline, which needs no change.
    """
    measured = found[found["state"] == "measured"]
    sound = measured[measured.get("answers.verdict", pd.Series(index=measured.index, dtype=object)) != "worse"]
    keeps = sound[sound["share"] >= MET].sort_values("throughput_tps.value", ascending=False)
    if keeps.empty:
        best = sound["share"].idxmax() if sound["share"].notna().any() else None
        return None, (f"{'The server does not keep' if len(found) == 1 else 'No configuration keeps'} the targets" + (
            f"; **{best}** comes nearest: {sound.loc[best, 'share']:.0%} of its requests met both." if best else "."))
    if len(found) == 1:
        return BASELINE, f"Nothing was compared. The server keeps the targets: {keeps['share'].iloc[0]:.0%} of its requests met both."
    if BASELINE not in keeps.index:
        base = found.loc[BASELINE, "share"]
        return keeps.index[0], (f"Take **{keeps.index[0]}**: {keeps['share'].iloc[0]:.0%} of its requests met both targets, "
                                f"the baseline's {base:.0%} are too few.")
    better = keeps[keeps["throughput_tps.verdict"] == "faster"]
    if better.empty:
        return BASELINE, (f"Keep the **baseline**: it keeps the targets ({found.loc[BASELINE, 'share']:.0%} of its requests met both), and no "
                          "configuration that keeps them, too, was shown to give more tokens/s.")
    best = better.iloc[0]
    return better.index[0], (f"Take **{better.index[0]}**: {best['throughput_tps.ratio']:.2f} "
                             f"[{best['throughput_tps.low']:.2f}, {best['throughput_tps.high']:.2f}] times the baseline's throughput, and "
                             f"{best['share']:.0%} of its requests met both targets.")
