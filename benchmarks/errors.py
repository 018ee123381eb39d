"""A tool's figures against the truth of the same run -> the row of the table."""
import numpy as np
import pandas as pd

from lib.stats import samples_needed

WARNING_SHARE = 0.05  # of the client's processors or of the metronome's, taken by other programs


def compare(streams: int, truth: pd.DataFrame, found: pd.DataFrame, usage) -> dict:
    """truth: from benchmarks.metronome, in the order of arriving; found: from the client, in the order of its sending.

    The steady window runs from the instant at which every stream has sent to the last request's: all streams
    are busy in it. Errors: the quantile that the tool gives minus the true one (TTFT, ms), or over it minus one
    (TPOT and ITL, %). They are taken over all requests, as the tool's user sees them, and again (`steady_`) over
    those that lay in the window.
    """
    window = _window(streams, truth)
    sent_at = np.concatenate(list(truth["at"])) if len(truth) else np.array([])
    tokens = int(((sent_at > window[0]) & (sent_at <= window[1])).sum())
    length, cpu_s = window[1] - window[0], usage.within(*window, "cpu_s")
    ranks = np.flatnonzero((np.arange(len(truth)) >= streams) & (truth["last"] <= window[1]))
    row = {
        "tokens_per_s": tokens / length, "window_s": length, "cpu_s": usage.cpu_s,
        "cpu_us_per_token": cpu_s / tokens * 1e6 if tokens else float("nan"),
        "cpu_share": cpu_s / length, "peak_mib": usage.peak_mib, "wall_s": usage.wall_s,
        "others_share": max(usage.within(*window, f"others{where}_s") for where in ("", "_by_metronome")) / length,
        "true_ttft_ms": truth["ttft_ms"].median(), "true_tpot_ms": truth["tpot_ms"].median(),
        "most_in_flight": _most_in_flight(truth), "sent_tokens": int(truth["tokens"].sum()), "steady_requests": len(ranks),
    }
    steady = _errors(truth.iloc[ranks], found.iloc[ranks[ranks < len(found)]])
    return row | _errors(truth, found) | {f"steady_{name}": value for name, value in steady.items()}


def _window(streams: int, truth: pd.DataFrame) -> tuple[float, float]:
    if len(truth) <= streams:
        return float("nan"), float("nan")
    return float(truth["arrived"].iloc[streams - 1]), float(truth["arrived"].iloc[-1])


def _most_in_flight(truth: pd.DataFrame) -> int:
    instants = np.concatenate([truth["arrived"], truth["last"]])
    return int(np.cumsum(np.repeat([1, -1], len(truth))[np.argsort(instants)]).max(initial=0))


def _errors(truth: pd.DataFrame, found: pd.DataFrame) -> dict:
    true_gaps, gaps = (np.concatenate([np.array([]), *frame["itl_ms"]]) for frame in (truth, found))

    def ratio(ours, theirs, q):
        return (_quantile(ours, q) / _quantile(theirs, q) - 1) * 100

    return {
        "ttft_error_ms": _quantile(found["ttft_ms"], 0.5) - _quantile(truth["ttft_ms"], 0.5),
        "ttft_error_p99_ms": _quantile(found["ttft_ms"], 0.99) - _quantile(truth["ttft_ms"], 0.99),
        "tpot_error_pct": ratio(found["tpot_ms"], truth["tpot_ms"], 0.5),
        "itl_error_pct": ratio(gaps, true_gaps, 0.5),
        "itl_error_p99_pct": ratio(gaps, true_gaps, 0.99),
    }


def _quantile(values, q: float) -> float:
    """NaN where there are too few values for it, as everywhere in this workbook."""
    values = np.asarray(values, dtype=float)
    if len(values) == 0 or (q == 0.99 and len(values) < samples_needed(q)):
        return float("nan")
    return float(np.quantile(values, q))
