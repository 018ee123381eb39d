"""Records -> metrics. Pure: DataFrames in, DataFrames and numbers out. The formulas are product terms:

    TTFT = first - sent                     time to the first token, s; open loop: first - scheduled, so that
                                            a client that is late cannot hide a queue
    TPOT = (last - first) / (n - 1)         mean time per output token after the first, s
    decode speed = 1 / TPOT                 tokens/s
    whole time = done - sent                s
    article's speed = n / (done - sent)     tokens/s, prefill and queue included
    ITL: the gap between two reads that brought tokens, shared over the tokens of the later read, s
    steady window: while the intended number of requests was in flight; start and drain lie outside
    throughput = tokens that arrived in the steady window / its length, tokens/s
"""
import numpy as np
import pandas as pd

METRICS = {  # column -> (name, unit in tables, factor from the column's unit, formula)
    "ttft_s": ("TTFT", "ms", 1000, "first − sent; open loop: first − scheduled"),
    "tpot_s": ("TPOT", "ms", 1000, "(last − first) / (n − 1)"),
    "decode_tps": ("decode speed", "tokens/s", 1, "1 / TPOT; its mean is 1 / mean TPOT"),
    "total_s": ("whole time", "ms", 1000, "done − sent"),
    "itl_s": ("ITL", "ms", 1000, "gap between two reads / tokens of the later one, over all tokens"),
    "article_tps": ("article's speed", "tokens/s", 1, "n / (done − sent); its mean is tokens / time of all"),
    "throughput_tps": ("throughput", "tokens/s", 1, "tokens that arrived in the steady window / its length"),
}
PER_REQUEST = [m for m in METRICS if m not in ("itl_s", "throughput_tps")]


def per_request(frame: pd.DataFrame) -> pd.DataFrame:
    """The records plus one column per metric; NaN where a request failed or is too short to have it."""
    out = frame.copy()
    n = out["output_tokens"].astype(float)
    good = out["error"].isna() & (n > 0)
    out["ttft_s"] = (out["first"] - out["scheduled"].fillna(out["sent"])).where(good)
    out["tpot_s"] = ((out["last"] - out["first"]) / (n - 1)).where(good & (n > 1))
    out["decode_tps"] = 1 / out["tpot_s"].where(out["tpot_s"] > 0)
    out["total_s"] = (out["done"] - out["sent"]).where(good)
    out["article_tps"] = (n / out["total_s"]).where(good)
    return out


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that count: sent after the warm-up, answered, and wholly inside the steady window where the
    frame has been marked with one (see `mark_steady`)."""
    rows = frame[(frame["phase"] == "measure") & frame["error"].isna()]
    return rows[rows["steady"]] if "steady" in rows else rows


def mark_steady(frame: pd.DataFrame, window: tuple[float, float]) -> pd.DataFrame:
    """The frame with a column `steady`: was the request sent and answered inside the window?"""
    return frame.assign(steady=(frame["sent"] >= window[0]) & (frame["done"] <= window[1]))


def steady_window(frame: pd.DataFrame, concurrency: int | None = None) -> tuple[float, float]:
    """(begin, end) of the time in which the intended load was in flight, s, monotonic; NaN if it never was.

    Closed loop: from the instant at which `concurrency` requests were first in flight to the last at which they
    were. Open loop (None): from the first reply's end, when requests overlap as they will, to the last request.
    """
    sent = frame["sent"].dropna()
    if sent.empty:
        return float("nan"), float("nan")
    if concurrency is None:
        return min(frame["done"].min(), sent.max()), sent.max()
    rows = frame[frame["sent"].notna()]
    if "turn" in rows and rows["turn"].notna().any():  # a conversation occupies its stream while its user thinks, too
        rows = rows.groupby("index").agg({"sent": "min", "done": "max"})
    instants = np.concatenate([rows["sent"], rows["done"]])
    change = np.repeat([1, -1], len(rows))
    order = np.lexsort((-change, instants))  # at one instant, a request that begins stands before one that ends
    in_flight = np.cumsum(change[order])
    full = np.flatnonzero(in_flight >= concurrency)
    if not len(full):
        return float("nan"), float("nan")
    return float(instants[order][full[0]]), float(instants[order][min(full[-1] + 1, len(order) - 1)])


def throughput(frame: pd.DataFrame, window: tuple[float, float]) -> np.ndarray:
    """Tokens/s in equal slices of a window, a tenth of a second to a second long; empty without a window. Its mean
    is the throughput. Tokens of failed requests count: they came."""
    began, ended = window
    if not ended > began or not len(frame):
        return np.array([])
    slices = max(1, round((ended - began) / np.clip((ended - began) / 60, 0.1, 1.0)))
    at = np.concatenate([reads[:, 0] + sent for sent, reads in zip(frame["sent"], frame["reads"])])
    tokens = np.concatenate([reads[:, 1] for reads in frame["reads"]])
    counts, _ = np.histogram(at, bins=slices, range=(began, ended), weights=tokens)
    return counts * slices / (ended - began)


def values(frame: pd.DataFrame, window: tuple[float, float]) -> dict[str, np.ndarray]:
    """metric -> its values in the order of measuring: a value a request, for ITL a token, for throughput a slice."""
    rows = measured(frame)
    found = {metric: rows[metric].to_numpy(dtype=float) for metric in PER_REQUEST}
    found |= {"itl_s": inter_token(frame)[0], "throughput_tps": throughput(frame, window)}
    return {metric: found[metric] for metric in METRICS}


def goodput(frame: pd.DataFrame, window: tuple[float, float], ttft_s: float, tpot_s: float) -> tuple[int, int, float]:
    """(requests that met both targets, all that were due an answer, good requests/s) among those sent inside the
    window. A failed request met nothing."""
    rows = frame[(frame["phase"] == "measure") & frame["sent"].between(*window)]
    good = (rows["ttft_s"] <= ttft_s) & ((rows["tpot_s"] <= tpot_s) | (rows["output_tokens"] == 1))
    length = window[1] - window[0]
    return int(good.sum()), len(rows), float(good.sum() / length) if length > 0 else float("nan")


def inter_token(frame: pd.DataFrame) -> tuple[np.ndarray, float]:
    """ITL of every token after a request's first read, s, and the share of reads that brought several
    tokens (their true gaps cannot be told apart). The first read has no gap before it."""
    gaps, several, reads_seen = [np.array([])], 0, 0
    for reads in measured(frame)["reads"]:
        times, counts = reads[:, 0], reads[:, 1].astype(int)
        reads_seen += len(counts)
        several += int((counts > 1).sum())
        gaps.append(np.repeat(np.diff(times) / counts[1:], counts[1:]))
    return np.concatenate(gaps), (several / reads_seen if reads_seen else float("nan"))


def denominators(frame: pd.DataFrame) -> dict:
    """How many requests stand behind the figures of a series."""
    measure = frame[frame["phase"] == "measure"]
    return {
        "sent": len(frame),
        "warm-up": int((frame["phase"] == "warmup").sum()),
        "outside the steady window": int((~measure["steady"] & measure["error"].isna()).sum()) if "steady" in frame else 0,
        "measured": len(measured(frame)),
        "failed": int(frame["error"].notna().sum()),
        "failed after the warm-up": int(measure["error"].notna().sum()),
    }
