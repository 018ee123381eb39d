"""A long series, moment by moment: what changed, what was worst, and what telemetry says of it. Pure.

A moment is a slice of time, about a second or a sixtieth of the series long, whichever is more.
"""
import math

import numpy as np
import pandas as pd

from lib import stats
from lib.series import Series

DRIFT = 0.3, 0.001  # rank correlation and p from which on a drift is called one, as in lib.verdicts

SAMPLED = {  # column of a moment -> (column of the samples, factor)
    "running": ("running", 1), "waiting": ("waiting", 1), "kv_pct": ("kv_usage", 100), "cpu_pct": ("cpu_pct", 1),
    "memory_gib": ("memory_gib", 1), "scrape_ms": ("scrape_ms", 1),
}
GPU = {"gpu_memory_gib": "memory_gib", "gpu_temperature_c": "temperature_c", "gpu_sm_mhz": "sm_mhz", "gpu_power_w": "power_w"}
NAMES = {  # column -> (name, unit)
    "throughput_tps": ("throughput", "tokens/s"), "ttft_ms": ("TTFT, median", "ms"), "tpot_ms": ("TPOT, median", "ms"),
    "running": ("running requests", ""), "waiting": ("waiting requests", ""), "kv_pct": ("KV cache used", "%"),
    "cpu_pct": ("processor busy", "%"), "memory_gib": ("memory used on this machine", "GiB"),
    "gpu_memory_gib": ("GPU memory used", "GiB"), "gpu_temperature_c": ("GPU temperature, the hottest", "°C"),
    "gpu_sm_mhz": ("GPU clock, the slowest", "MHz"), "gpu_power_w": ("GPU power", "W"),
}


def moments(series: Series, slices: int = 60) -> pd.DataFrame:
    """One row a moment, from the first request to the last: `at_s` its begin, seconds since the first request;
    `steady`: it lies wholly in the steady window, and the server was there. Latencies stand where a request ended."""
    frame, samples = series.frame, _gathered(series.samples)
    began, died = frame[["sent", "done"]].min().min(), gone_at(frame)
    steady_to = series.window[1] if died is None else min(series.window[1], died)
    span = frame["done"].max() - began
    count = max(1, min(slices, round(span)))
    length = span / count
    # What the server had counted between this sample and the last one.
    for column in ("prompt_tokens", "preemptions"):
        samples[f"{column}_new"] = samples[column].diff() if column in samples else math.nan
    rows = []
    for number in range(count):
        low = began + number * length
        ended = frame[(frame["done"] >= low) & ((frame["done"] < low + length) | (number == count - 1))]
        then = samples[(samples["time"] >= low) & (samples["time"] < low + length)]
        rows.append({
            "at_s": number * length, "length_s": length, "answered": int(ended["error"].isna().sum()),
            "failed": int(ended["error"].notna().sum()), "ttft_ms": ended["ttft_s"].median() * 1000,
            "tpot_ms": ended["tpot_s"].median() * 1000,
            "steady": series.window[0] <= low and low + length <= steady_to,
            "prompt_tokens": then["prompt_tokens_new"].sum(min_count=1), "preemptions": then["preemptions_new"].sum(min_count=1),
            "throttle": "; ".join(sorted({word for cell in then["throttle"] for word in cell.split("; ") if word})),
        } | {column: then[column].mean() for column in (*SAMPLED, *GPU)})
    found = pd.DataFrame(rows)
    sampled = [*SAMPLED, *GPU]
    found[sampled] = found[sampled].astype(float).ffill(limit=1)  # samples come once a second and may miss a moment
    reads = [(r[:, 0] + sent, r[:, 1]) for sent, r in zip(frame["sent"], frame["reads"]) if len(r)]
    edges = began + np.append(found["at_s"], found["at_s"].iloc[-1] + length)
    tokens = np.histogram(np.concatenate([t for t, _ in reads]), edges, weights=np.concatenate([n for _, n in reads]))[0] \
        if reads else np.zeros(len(found))
    return found.assign(throughput_tps=tokens / length)


def _gathered(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples with all GPUs in one column each: memory and power together, the hottest, the slowest."""
    out = samples.copy() if "time" in samples else pd.DataFrame({"time": []})
    for column, (source, factor) in SAMPLED.items():
        out[column] = out[source] * factor if source in out else math.nan
    for column, name in GPU.items():
        of = out[[c for c in samples if c.startswith("gpu") and c.endswith(f".{name}")]]
        many = {"memory_gib": of.sum, "power_w": of.sum, "temperature_c": of.max, "sm_mhz": of.min}[name]
        out[column] = many(axis=1) if len(of.columns) else math.nan
    held = out[[c for c in samples if c.endswith(".throttle")]]
    return out.assign(throttle=["; ".join(w for w in cells if isinstance(w, str)) for cells in held.itertuples(index=False)]
                      if len(held.columns) else "")


def drift(found: pd.DataFrame) -> pd.DataFrame:
    """What went up or down over the steady moments: first third, last third, and Spearman's rank correlation with time
    (p corrected for neighbours that resemble each other, lib.stats.trend)."""
    steady, rows = found[found["steady"]], []
    for column, (name, unit) in NAMES.items():
        x = stats.finite(steady[column])
        if len(x) < 6:
            continue
        third = len(x) // 3
        first, last = x[:third].mean(), x[-third:].mean()
        rho, p = stats.trend(x)
        drifts = abs(rho) > DRIFT[0] and p < DRIFT[1]
        rows.append({"quantity": f"{name}, {unit}".rstrip(", "), "first third": first, "last third": last,
                     "change, %": (last / first - 1) * 100 if first else math.nan, "rank correlation": rho, "p": p,
                     "drift": ("up" if rho > 0 else "down") if drifts else "none shown"})
    return pd.DataFrame(rows, columns=["quantity", "first third", "last third", "change, %", "rank correlation", "p", "drift"])


def worst(found: pd.DataFrame, most: int = 3) -> pd.DataFrame:
    """The steady moments of least throughput, with what telemetry says of each."""
    steady = found[found["steady"]]
    if steady.empty:
        return pd.DataFrame(columns=["at, s", "throughput, tokens/s", "of the usual, %", "TPOT, ms", "what else was seen"])
    usual = steady.median(numeric_only=True)
    low = steady.nsmallest(most, "throughput_tps").sort_values("at_s")
    return pd.DataFrame({
        "at, s": low["at_s"].round(1), "throughput, tokens/s": low["throughput_tps"],
        "of the usual, %": low["throughput_tps"] / usual["throughput_tps"] * 100, "TPOT, ms": low["tpot_ms"],
        "what else was seen": [explain(row, usual) for _, row in low.iterrows()]})


def explain(moment: pd.Series, usual: pd.Series) -> str:
    """What the samples of a moment show that is not usual, in words."""
    seen = []
    if moment["failed"]:
        seen.append(f"{moment['failed']} requests failed")
    if moment["preemptions"] > 0:
        seen.append(f"the server put off {moment['preemptions']:.0f} requests for want of KV cache")
    if moment["waiting"] >= 0.5 and moment["waiting"] > usual["waiting"]:
        seen.append(f"{moment['waiting']:.0f} requests waited in the server's queue")
    if moment["kv_pct"] > 95:
        seen.append(f"the KV cache was {moment['kv_pct']:.0f} % full")
    if moment["throttle"]:
        seen.append(f"the GPU lowered its clocks ({moment['throttle']})")
    if moment["gpu_sm_mhz"] < 0.95 * usual["gpu_sm_mhz"]:
        seen.append(f"the GPU ran at {moment['gpu_sm_mhz']:.0f} MHz instead of {usual['gpu_sm_mhz']:.0f}")
    if moment["prompt_tokens"] > 1.5 * usual["prompt_tokens"]:
        seen.append(f"{moment['prompt_tokens']:.0f} prompt tokens to prefill instead of {usual['prompt_tokens']:.0f}")
    if moment["running"] < usual["running"] - 0.5:
        seen.append(f"{moment['running']:.0f} requests were running, usually {usual['running']:.0f}")
    if moment["cpu_pct"] > usual["cpu_pct"] + 5:
        seen.append(f"the processor was {moment['cpu_pct']:.0f} % busy, usually {usual['cpu_pct']:.0f} %")
    if moment["scrape_ms"] > max(4 * usual["scrape_ms"], 20):
        seen.append(f"the server took {moment['scrape_ms']:.0f} ms to tell its metrics, usually {usual['scrape_ms']:.0f}")
    return "; ".join(seen) or "nothing unusual in the samples"


def gone_at(frame: pd.DataFrame) -> float | None:
    """When the server stopped answering for good, monotonic s: the end of its last answer, if connections were refused
    after it. None if it answered to the end."""
    answered = frame.loc[frame["error"].isna(), "done"]
    after = frame[frame["done"] > answered.max()] if len(answered) else frame
    if "refused" not in set(after["error"]):
        return None
    return float(answered.max() if len(answered) else frame["done"].min())


def died_after(frame: pd.DataFrame) -> float | None:
    """Seconds from the first request to `gone_at`; None if the server answered to the end."""
    died = gone_at(frame)
    return None if died is None else died - frame[["sent", "done"]].min().min()


def ending(series: Series, planned_s: float) -> str:
    """How the series ended, in words."""
    frame = series.frame
    began, died = frame[["sent", "done"]].min().min(), died_after(frame)
    answered, failed = int(frame["error"].isna().sum()), int(frame["error"].notna().sum())
    if died is None and series.mishap:
        return f"The series did not come to its end. {series.mishap[0].upper()}{series.mishap[1:]}."
    if died is None:
        return (f"The server held out: {answered:,} requests answered in {frame['done'].max() - began:,.0f} s, "
                f"{f'{failed:,}' if failed else 'none'} failed.")
    return (f"The server died: its last answer came {died:,.1f} s into the series, of {planned_s:,.0f} s that were planned. The "
            f"series ended by itself. The {answered:,} requests answered before that are kept and shown; {failed:,} failed.")


def reading(found: pd.DataFrame, drifts: pd.DataFrame) -> str:
    """Was it steady, and how deep were its worst moments, in words."""
    steady = found[found["steady"]]
    if len(steady) < 6:
        return "The steady part of the series is too short to say whether anything drifts."
    moved = drifts[drifts["drift"] != "none shown"]
    low = steady["throughput_tps"].min() / steady["throughput_tps"].median()
    told = "; ".join(f"{row['quantity']} went {row['drift']} by {abs(row['change, %']):.1f} %" for _, row in moved.iterrows())
    return (f"Drift over {len(steady)} moments of {steady['length_s'].iloc[0]:.3g} s: {told or 'none shown'}. In its worst moment the "
            f"server gave {low:.0%} of its usual throughput.")


def worst_in_words(rows: pd.DataFrame) -> str:
    """The lines of `worst` as a sentence."""
    if rows.empty:
        return "There was no steady part in which a worst moment could be told."
    return "Its worst moments: " + "; ".join(
        f"at {row['at, s']:.0f} s {row['of the usual, %']:.0f} % of the usual throughput ({row['what else was seen']})"
        for _, row in rows.iterrows()) + "."
