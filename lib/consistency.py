"""Are two answers to one question the same, and if not, where do they part and does it matter? Pure: rows of lib.asking in,
tables and verdicts out.

A greedy answer takes the likeliest token at each step. Two runs of one model compute the same up to rounding, and the order
of additions in a batch is another than alone: where the two likeliest tokens are closer to each other than that rounding,
the answers part, and all that follows may differ. So every pair of answers is reported with the *gap* at its split (logprob
of the token taken less that of the other one, in the first run) and every condition with its *noise* (how far the logprobs of
equal tokens lie apart). A split whose gap is far beyond the noise is none of rounding: something else was computed.
"""
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from lib import judging, stats, tables
from lib.stats import Estimate

ALARM = 0.01  # p below which answers are said to be less often right in batches
SHOWN = 0.05  # p below which answers are said to differ more in batches than when asked alone again
ROUNDING = 10  # times the usual noise: as far as rounding is believed to reach
POWER = 0.9
FLAT = 1e-3  # nats: a model that prefers its usual token by less prefers none
HOLDS, UNTOLD = "it holds here", "not told here"


def compare(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Pairs of answers, a row a question that both answered.

    kind, prompt, text, other_text; identical: token by token; split: number (from 1) of the first token that differs, NaN if
    none; tokens: of the shorter answer; gap: at the split, nats, a lower bound where `gap_known` is False (the other
    token was not among the two likeliest); noise: largest difference of the logprobs of the tokens before the split, nats;
    right, other_right; meaning: "same", "changed", or None where answers cannot be judged.
    `attrs["failed"]`: questions that one of them did not answer; `attrs["why"]`: what was said to the first of them.
    """
    both = first.join(second.add_suffix("_2"), how="inner")
    good = both[both["error"].isna() & both["error_2"].isna()]
    pairs = pd.DataFrame([_pair(row) for _, row in good.iterrows()], index=good.index,
                         columns=["kind", "prompt", "text", "other_text", "identical", "split", "tokens", "gap", "gap_known", "noise",
                                  "right", "other_right", "meaning"])
    pairs["identical"] = pairs["identical"].astype(bool)
    pairs.attrs |= {"failed": len(first) - len(pairs), "why": next(iter(pd.concat([first, second])["message"].dropna()), "")}
    return pairs


def _pair(row: pd.Series) -> dict:
    one, two = row["tokens"], row["tokens_2"]
    shorter = min(len(one), len(two))
    apart = next((k for k in range(shorter) if one[k] != two[k]), shorter)
    identical = apart == len(one) == len(two)
    differences = np.abs(np.subtract(row["logprobs"][:apart], row["logprobs_2"][:apart]))
    gap, known = (math.nan, False) if identical else _gap(row, apart)
    return {"kind": row["kind"], "prompt": row["prompt"], "text": row["text"], "other_text": row["text_2"], "identical": identical,
            "split": math.nan if identical else apart + 1, "tokens": shorter, "gap": gap, "gap_known": known,
            "noise": float(differences.max()) if apart else math.nan, "right": row["right"], "other_right": row["right_2"],
            "meaning": _meaning(row)}


def _gap(row: pd.Series, at: int) -> tuple[float, bool]:
    """By how much the first run preferred its token to the other run's, and whether that is known exactly."""
    if at >= len(row["logprobs"]) or row["runners_up"][at] is None:
        return math.nan, False
    token, logprob = row["runners_up"][at]
    return row["logprobs"][at] - logprob, at < len(row["tokens_2"]) and row["tokens_2"][at] == token


def _meaning(row: pd.Series) -> str | None:
    """Right and wrong are two meanings; two wrong answers mean the same only when they say the same."""
    if row["right"] is None or row["right_2"] is None:
        return None
    same = row["right"] == row["right_2"] and (row["right"] or judging.normal(row["text"]) == judging.normal(row["text_2"]))
    return "same" if same else "changed"


def noise(pairs: dict[str, pd.DataFrame]) -> float:
    """How far apart the logprobs of equal tokens lie, nats: what 95 % of the answers that stayed the same keep within."""
    values = pd.concat([p.loc[p["identical"], "noise"] for p in pairs.values()]).dropna()
    return float(values.quantile(0.95)) if len(values) else math.nan


def beyond_rounding(pairs: pd.DataFrame, usual: float) -> pd.Series:
    """Which pairs part at a token that was not nearly a tie."""
    return ~pairs["identical"] & (pairs["gap"] > ROUNDING * usual)


# -- tables -------------------------------------------------------------------------------------------
def table(pairs: dict[str, pd.DataFrame], cached: dict[str, float | None]) -> pd.DataFrame:
    """A row a condition: what became of the answers there, against those to the same questions alone.

    cached: the share of the prompt tokens that came from the prefix cache.
    """
    usual, rows = noise(pairs), []
    for name, p in pairs.items():
        judged, apart = p[p["meaning"].notna()], p[~p["identical"]]
        rows.append({
            "condition": name, "answers": len(p), "failed": p.attrs["failed"],
            "the same as alone, %": tables.with_interval(same(p).scaled(100)),
            "first token that differs": _range(apart["split"]) if len(apart) else "none differs",
            "meaning changed": f"{(judged['meaning'] == 'changed').sum()} of {len(judged)}",
            "right": f"{int(judged['other_right'].sum())} of {len(judged)}",
            "gap at the split": _range(apart["gap"]), "noise": tables.number(p["noise"].max()),
            "beyond rounding": int(beyond_rounding(p, usual).sum()),
            "from the prefix cache": "not told" if cached.get(name) is None else f"{cached[name]:.0%}"})
    return pd.DataFrame(rows)


def same(pairs: pd.DataFrame) -> Estimate:
    """The share of answers that are the same token by token, Wilson's interval."""
    return stats.share(int(pairs["identical"].sum()), len(pairs))


def kept(pairs: pd.DataFrame) -> Estimate:
    """The share of judged answers whose meaning is the same, Wilson's interval."""
    judged = pairs["meaning"].dropna()
    return stats.share(int((judged == "same").sum()), len(judged))


def _range(values: pd.Series) -> str:
    values = values.dropna()
    return f"{tables.number(values.min())} to {tables.number(values.max())}" if len(values) else "–"


def splits(pairs: dict[str, pd.DataFrame], most: int = 10) -> pd.DataFrame:
    """The answers that part, the widest gap first: what was said alone and there, from where they part."""
    usual, found = noise(pairs), []
    for name, p in pairs.items():
        for number, row in p[~p["identical"]].iterrows():
            at = next((k for k, (a, b) in enumerate(zip(row["text"], row["other_text"])) if a != b), 0)
            found.append({"condition": name, "question": f"{number}, {row['kind']}", "token": row["split"], "gap": row["gap"],
                          "alone": _around(row["text"], at), "there": _around(row["other_text"], at),
                          "meaning": row["meaning"] or "not judged",
                          "by rounding": "no" if row["gap"] > ROUNDING * usual else "yes"})
    columns = ["condition", "question", "token", "gap", "alone", "there", "meaning", "by rounding"]
    return pd.DataFrame(found, columns=columns).sort_values("gap", ascending=False).head(most)


def _around(text: str, at: int) -> str:
    begin = max(0, at - 20)
    return ("… " if begin else "") + text[begin:at + 30].replace("\n", " ") + (" …" if len(text) > at + 30 else "")


# -- verdicts -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tilt:
    """Question by question, alone against batches: in how many of `n` a quantity is lower in batches, in how many higher, and
    the two-sided p of the sign test. A question counts once, however often it was asked: its answers are no independent ones."""

    lower: int
    higher: int
    n: int
    p: float


def tilt(alone: list[pd.Series], batched: list[pd.Series]) -> Tilt:
    """alone, batched: for every repeat, a value a question (NaN or None where there is none)."""
    one, two = (pd.concat([s.astype(float) for s in values], axis=1).mean(axis=1) for values in (alone, batched))
    difference = (two - one).dropna()
    lower, higher = int((difference < 0).sum()), int((difference > 0).sum())
    p = float(scipy_stats.binomtest(lower, lower + higher).pvalue) if lower + higher else 1.0
    return Tilt(lower, higher, len(difference), p)


@dataclass(frozen=True)
class Quality:
    tilt: Tilt
    verdict: str


def quality(alone: list[pd.DataFrame], batched: list[pd.DataFrame]) -> Quality:
    """Are answers less often right in batches? Rows of lib.asking -> the test, and its verdict in words."""
    found = tilt(*([rows.loc[rows["error"].isna() & rows["right"].notna(), "right"] for rows in frames] for frames in (alone, batched)))
    if found.p >= ALARM:
        return Quality(found, "no difference shown")
    return Quality(found, "less often right in batches" if found.lower > found.higher else "more often right in batches")


def power(questions: int, repeats: int, share: float) -> float:
    """The chance that `quality` finds a fault which makes that share of all right answers in batches wrong.

    questions: judged ones, each asked `repeats` times in batches. All differences then point one way, and the sign test
    needs `needed()` of them.
    """
    struck = 1 - (1 - share) ** repeats
    return float(scipy_stats.binom.sf(needed() - 1, questions, struck))


def needed() -> int:
    """How many questions must differ, all in one direction, for p < ALARM."""
    return math.ceil(math.log2(2 / ALARM) + 1e-9)


def smallest_fault(questions: int, repeats: int) -> float:
    """The smallest share of wrong answers in batches that would be found with POWER; 1 where even all would not."""
    shares = np.linspace(0, 1, 1001)
    return float(next((share for share in shares if power(questions, repeats, share) >= POWER), 1.0))


@dataclass(frozen=True)
class Claim:
    """differ: the share of questions whose answer in any batch is another than alone."""

    verdict: str
    evidence: str
    differ: Estimate


def flat(alone: pd.DataFrame) -> bool:
    """Were most tokens no choice at all? Weights of which all logits are equal (dummy ones) take the same token whatever is asked and
    however it is computed: answers that stay the same then say nothing."""
    found = gaps(alone)
    return len(found) > 0 and float(np.median(found)) < FLAT


def gaps(alone: pd.DataFrame) -> np.ndarray:
    """By how much each token of the answers was preferred to its runner-up, nats."""
    good = alone[alone["error"].isna()]
    return np.array([own - other[1] for row in zip(good["logprobs"], good["runners_up"]) for own, other in zip(*row) if other])


def batch_claim(alone_again: list[pd.DataFrame], batched: list[pd.DataFrame], no_choice: bool = False) -> Claim:
    """The claim that batched answers can differ from single ones, judged.

    alone_again: pairs of an answer alone and the same asked alone once more; batched: pairs of it and one in a batch. no_choice: `flat`.
    """
    floor, seen = (pd.concat(frames) for frames in (alone_again, batched))
    found = tilt(*([~pairs["identical"] for pairs in frames] for frames in (alone_again, batched)))
    differ = stats.share(int((~seen["identical"].groupby(level=0).all()).sum()), seen.index.nunique())
    counted = (f"{int((~seen['identical']).sum())} of {len(seen)} answers in batches differ from the one alone, and "
               f"{int((~floor['identical']).sum())} of {len(floor)} that were asked alone again")
    if found.p < SHOWN and found.higher > found.lower:
        return Claim(HOLDS, counted, differ)
    if no_choice:
        return Claim(UNTOLD, f"{counted}, but the model prefers no token to another (half of all gaps between its two likeliest are below {FLAT:g} "
                             "nats), so that answers that stay the same show nothing", differ)
    if seen["identical"].all():
        return Claim("not seen here", f"{counted}. With {differ.n} questions that means less than {differ.high:.1%} of them (95 %)", differ)
    return Claim("not shown here", f"{counted}, no more than chance can explain (p = {found.p:.2f})", differ)
