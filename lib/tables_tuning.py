"""What 06_tuning shows and says: `tuning.summary` -> tables and sentences. Pure."""
import math

import pandas as pd

from lib import configurations, tuning
from lib.tuning import METRICS

COSTS = ("alone_ttft_s", "alone_tpot_s", "long_ttft_s", "cold_ttft_s", "start_s", "memory_gib", "kv_tokens")


def plan(todo: list[configurations.Configuration]) -> pd.DataFrame:
    """What will be started, with the flags that tell it from the baseline."""
    twins = configurations.twins(todo)
    told = [{"configuration": f"{c.letter} · {c.name}", "flags": " ".join(c.flags if c.letter == "A" else c.own) or "–", "model": c.model,
             "why": c.left_out or c.why, "started just as": twins.get(c.name, "")} for c in todo]
    return pd.DataFrame([{k: v for k, v in row.items() if k not in ("model", "started just as") or any(r[k] for r in told)} for row in told])


def values(found: pd.DataFrame) -> pd.DataFrame:
    """What each configuration gave, in the units of the tables."""
    rows = _measured(found)
    return pd.DataFrame({"configuration": _named(rows), "starts": rows["starts"]} | {
        f"{m.name}, {m.unit}": rows[f"{key}.value"] * m.factor for key, m in METRICS.items()
        if f"{key}.value" in rows and rows[f"{key}.value"].notna().any()})


def against(found: pd.DataFrame, metrics=tuning.SPEED) -> pd.DataFrame:
    """Ratios to the baseline with interval and verdict."""
    rows = _measured(found).drop(index=tuning.BASELINE, errors="ignore")
    return pd.DataFrame({"configuration": _named(rows)} | {
        METRICS[key].name: [_ratio(row, key) for _, row in rows.iterrows()] for key in metrics if f"{key}.ratio" in rows})


def answers(found: pd.DataFrame) -> pd.DataFrame:
    """Questions answered rightly, beside the baseline's, and requests that met the targets."""
    rows = _measured(found)
    told = []
    for name, row in rows.iterrows():
        asked = row.get("answers.asked", 0) > 0
        told.append({
            "configuration": f"{row['letter']} · {name}",
            "right answers": f"{row['answers.right']:.0f} of {row['answers.asked']:.0f}" if asked else "not asked",
            "lost, won": f"{row['answers.lost']:.0f}, {row['answers.won']:.0f}" if asked else "–",
            "beside the baseline": _answers_verdict(row) if asked else "–",
            "met both targets": f"{row['met']} of {row['due']} ({row['share']:.0%})" if row["due"] else "–"})
    return pd.DataFrame(told)


def not_measured(found: pd.DataFrame) -> pd.DataFrame:
    """What was not started, could not start, or was dropped early, and why."""
    rows = found[(found["state"] != "measured") | (found["dropped"] != "") | (found["cause"] != "")]
    return pd.DataFrame({"configuration": _named(rows),
                         "state": rows["state"].where(rows["dropped"] == "", "dropped early"),
                         "cause and remedy": rows["cause"].where(rows["dropped"] == "", rows["dropped"])})


def section(told: dict | None) -> dict | None:
    """For the report, from a run's tuning.json: the recommendation in words, its command line, tables of columns and rows."""
    if not told or not told.get("summary"):
        return None
    found = pd.DataFrame([{k: math.nan if v is None else v for k, v in row.items()} for row in told["summary"]]).set_index("name")
    shown = [t for t in (against(found), answers(found), not_measured(found)) if len(t)]
    return {"words": f"{tuning.recommend(found)[1]} {told.get('ended', '')}".replace("**", "").strip(), "command": told.get("command", ""),
            "tables": [{"columns": list(t.columns), "rows": t.astype(str).values.tolist()} for t in shown]}


def _measured(found: pd.DataFrame) -> pd.DataFrame:
    return found[found["state"] == "measured"]


def _named(found: pd.DataFrame) -> pd.Series:
    return found["letter"] + " · " + found.index


def _ratio(row: pd.Series, key: str) -> str:
    ratio, low, high = (row[f"{key}.{part}"] for part in ("ratio", "low", "high"))
    if not math.isfinite(ratio):
        return "–"
    digits = next((d for d in (2, 3) if all((round(end, d) > 1) == (end > 1) and (round(end, d) < 1) == (end < 1) for end in (low, high))), 4)
    interval = f" [{low:.{digits}f}, {high:.{digits}f}]" if math.isfinite(low) else ""
    return f"{ratio:.{digits}f}{interval if low != high else ''} {row[f'{key}.verdict']}"


def _answers_verdict(row: pd.Series) -> str:
    if row["letter"] == "A":
        return "–"
    return f"{row['answers.verdict'].upper() if row['answers.verdict'] == 'worse' else row['answers.verdict']} (p = {row['answers.p']:.2g})"


# -- in words ----------------------------------------------------------------------------------------
def noise(found: pd.DataFrame) -> str:
    """How far two starts of one command differ, what this plan can therefore show, and whether anything drifted; how even the
    machine's pace was."""
    out = []
    for key in tuning.SPEED:
        about = found.attrs[key]
        if not about.get("df"):
            continue
        widths = (found[f"{key}.high"] / found[f"{key}.low"]).drop(index=tuning.BASELINE) ** 0.5 - 1
        drift, effect, told = about["drift"], about["pace_effect"], ""
        if drift is not None:
            told = (f"; from the first start to the last it {'drifted' if drift.high < 1 or drift.low > 1 else 'shows no drift'} "
                    f"(×{drift.value:.2f} [{drift.low:.2f}, {drift.high:.2f}])")
        if effect is not None:
            told += f"; at the slowest pace it is ×{effect.value:.2f} [{effect.low:.2f}, {effect.high:.2f}] what it is at the fastest"
        differ = f"differ by {about['spread']:.1%} (standard deviation, {about['df']} degrees of freedom)" if about["spread"] > 1e-6 else "do not differ"
        out.append(f"- **{METRICS[key].name}**: beyond what their requests{' and the pace' * (effect is not None)} explain, starts of one command {differ}; "
                   f"a difference of less than about {widths.median():.0%} is not shown{told}.")
    if not out:
        return "With so few starts nothing is known of how starts of one command differ: no difference can be shown."
    pace = max(found.attrs[m].get("pace", 1.0) for m in tuning.SPEED)
    fitted = any(found.attrs[m].get("pace_effect") for m in tuning.SPEED)
    told = (f"The machine's pace: with the server idle, one and the same piece of work took up to {pace:.2f} times as long at one start as at "
            f"another{'' if fitted else '; it is too little, or starts of each configuration are too few, to take that out'}.\n\n")
    return (told if pace > 1 + tuning.UNEVEN else "") + "\n".join(out)


def same_twice(todo: list[configurations.Configuration], found: pd.DataFrame) -> str:
    """What became of configurations that are one and the same under two names: the check of everything else."""
    out = []
    for name, first in configurations.twins(todo).items():
        if first == tuning.BASELINE and found.loc[name, "state"] == "measured":
            told = {METRICS[k].name: found.loc[name, f"{k}.verdict"] for k in tuning.SPEED if isinstance(found.loc[name, f"{k}.verdict"], str)}
            wrong = {k: v for k, v in told.items() if v not in ("no difference shown", "the same")}
            out.append(f"**{name}** is started just as the baseline, and " + (
                "no difference is shown, as must be." if not wrong else
                "yet it is called " + ", ".join(f"{v} ({k})" for k, v in wrong.items()) + ": that happens in 5 of 100 cases. Start each more often."))
    return " ".join(out)


def stands_out(found: pd.DataFrame) -> str:
    """Each configuration whose speed was shown to differ, in a line; the rest in one."""
    lines, quiet = [], []
    for name, row in _measured(found).drop(index=tuning.BASELINE, errors="ignore").iterrows():
        shown = [f"{METRICS[k].name} {row[f'{k}.verdict']} (×{row[f'{k}.ratio']:.2f})" for k in (*tuning.TIMED, "start_s")
                 if row.get(f"{k}.verdict") not in ("no difference shown", "the same", None) and isinstance(row.get(f"{k}.verdict"), str)]
        worse = "**its answers are worse**" if row.get("answers.verdict") == "worse" else ""
        shown += [worse] if worse else []
        lines += [f"- **{name}**: {'; '.join(shown)}."] if shown else []
        quiet += [] if shown else [name]
    return "\n".join(lines + ([f"- No difference shown: {', '.join(quiet)}."] if quiet else []))


def doubts(starts: pd.DataFrame) -> str:
    """What speaks against single starts."""
    rows = starts[starts["doubt"].notna() & (starts["doubt"] != "valid")]
    if rows.empty:
        return "Nothing speaks against any of the starts."
    return "What speaks against some of the starts: " + "; ".join(f"{r['name']} (start {r['place'] + 1}): {r['doubt']}" for _, r in rows.iterrows()) + "."
