"""Records -> metrics. Pure: DataFrames in, DataFrames and numbers out. The formulas are product terms:

    TTFT = first - sent                     time to the first token, s; open loop: first - scheduled, so that
                                            a client that is late cannot hide a queue
    TPOT = (last - first) / (n - 1)         mean time per output token after the first, s
    decode speed = 1 / TPOT                 tokens/s
    whole time = done - sent                s
    article's speed = n / (done - sent)     tokens/s, prefill and queue included
    ITL: the gap between two reads that brought tokens, shared over the tokens of the later read, s
"""
import numpy as np
import pandas as pd

METRICS = {  # column -> (name, unit in tables, factor from the column's unit, formula)
    "ttft_s": ("TTFT", "ms", 1000, "first − sent; open loop: first − scheduled"),
    "tpot_s": ("TPOT", "ms", 1000, "(last − first) / (n − 1)"),
    "decode_tps": ("decode speed", "tokens/s", 1, "1 / TPOT; its mean is 1 / mean TPOT"),
    "total_s": ("whole time", "ms", 1000, "done − sent"),
    "article_tps": ("article's speed", "tokens/s", 1, "n / (done − sent); its mean is tokens / time of all"),
}


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
    """The rows that count: sent after the warm-up, and answered."""
    return frame[(frame["phase"] == "measure") & frame["error"].isna()]


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
    instants = np.concatenate([rows["sent"], rows["done"]])
    change = np.repeat([1, -1], len(rows))
    order = np.lexsort((-change, instants))  # at one instant, a request that begins stands before one that ends
    in_flight = np.cumsum(change[order])
    full = np.flatnonzero(in_flight >= concurrency)
    if not len(full):
        return float("nan"), float("nan")
    return float(instants[order][full[0]]), float(instants[order][min(full[-1] + 1, len(order) - 1)])


def inside(frame: pd.DataFrame, window: tuple[float, float]) -> pd.DataFrame:
    """The requests that were sent and answered within a window."""
    return frame[(frame["sent"] >= window[0]) & (frame["done"] <= window[1])]


def throughput(frame: pd.DataFrame, window: tuple[float, float]) -> float:
    """Tokens that arrived within a window / its length, tokens/s, those of failed requests too: they came."""
    began, ended = window
    if not ended > began:
        return float("nan")
    tokens = 0.0
    for sent, reads in zip(frame["sent"], frame["reads"]):
        at = reads[:, 0] + sent
        tokens += reads[(at > began) & (at <= ended), 1].sum()
    return tokens / (ended - began)


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
        "measured": len(measured(frame)),
        "failed": int(frame["error"].notna().sum()),
        "failed after the warm-up": int(measure["error"].notna().sum()),
    }
