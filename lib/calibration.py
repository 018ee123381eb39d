"""What this client on this machine can measure: the load driver put to the metronome, whose truth is known."""
import asyncio
import math
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import pandas as pd

from lib import ROOT, metrics
from lib.client import Request
from lib.shapes import Closed, Shape

# A level is believed when the client is within all of these of the truth.
TOLERANCE = {"tpot_error": 0.01, "ttft_error_ms": 2.0, "ttft_error_p99_ms": 15.0, "lost": 0.02}
LEVELS = (8, 32, 128, 256)
TOKENS, STEP_MS = 100, 5.0


@dataclass(frozen=True)
class Metronome:
    """A running metronome; serves where load.run takes a server."""

    url: str
    model: str = "metronome"
    api_key: str | None = None

    def truth(self) -> dict:
        """What it really did since it was last asked: see GET /truth of lib.metronome."""
        return httpx2.get(f"{self.url}/truth", timeout=30).json()


@contextmanager
def metronome(step_ms: float = STEP_MS, cpu: int | None = None, **options):
    """Start one for a while. options: tokens_per_chunk, prefill_steps, schedule."""
    words = [w for name, value in (options | {"step_ms": step_ms, "cpu": cpu}).items() if value is not None
             for w in (f"--{name.replace('_', '-')}", str(value))]
    process = subprocess.Popen([sys.executable, "-m", "lib.metronome", "--until-eof", *words], cwd=ROOT,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield Metronome(process.stdout.readline().strip())
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(5)


@dataclass
class Calibration:
    """`rows`: one a level (see `level`). streams, tokens_per_s: up to where one worker process is believed."""

    rows: list = field(default_factory=list)
    streams: int = 0
    tokens_per_s: float = 0.0

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)


_current: Calibration | None = None


def use(found: dict | Calibration | None) -> None:
    """Let `processes_for` choose by this calibration; a dict as it stands in a run folder."""
    global _current
    _current = Calibration(**found) if isinstance(found, dict) else found


def current() -> Calibration | None:
    return _current


def processes_for(shape: Shape) -> int:
    """How many workers a load needs: one, unless one has been seen to fail at so many streams."""
    if _current is None or not isinstance(shape, Closed) or not _current.streams:
        return 1
    return max(1, min(math.ceil(shape.concurrency / _current.streams), (os.cpu_count() or 2) - 1))


def level(frame: pd.DataFrame, truth: dict, health: list[dict], streams: int) -> dict:
    """One line of the calibration: what was measured, what was true, and whether that is near enough."""
    good = frame[frame["error"].isna()]
    window = metrics.steady_window(good, streams)
    steady = metrics.measured(metrics.mark_steady(good, window))
    true = pd.DataFrame(truth["requests"])
    reads = list(zip(steady["reads"], steady["sent_at"]))
    # Where all streams were never in flight together nothing was measured: NaN, which is not believed.
    ttft_error = np.array([r[0, 0] - s[0] for r, s in reads] or [np.nan]) * 1000
    measured = steady["tpot_s"].median()
    real = np.median([(s[-1] - s[0]) / (r[:, 1].sum() - r[0, 1]) for r, s in reads] or [np.nan])
    rate = metrics.throughput(good, window).mean()
    row = {
        "streams": streams, "requests": len(steady), "failed": int(frame["error"].notna().sum()),
        "tokens_per_s": rate, "offered_tokens_per_s": streams / real,
        "tpot_ms": measured * 1000, "true_tpot_ms": real * 1000, "tpot_error": measured / real - 1,
        "ttft_error_ms": float(np.median(ttft_error)), "ttft_error_p99_ms": float(np.quantile(ttft_error, 0.99)),
        "lost": 1 - good["output_tokens"].sum() / true["tokens"].sum(),
        "cpu_share": max(h["cpu_share"] for h in health), "wait_share": max(h["wait_share"] or 0.0 for h in health),
    }
    return row | {"believed": all(abs(row[name]) <= limit for name, limit in TOLERANCE.items()) and not row["failed"]}


async def calibrate(levels=LEVELS, seconds: float = 2.0, step_ms: float = STEP_MS, processes: int = 1) -> Calibration:
    """Put the client to the metronome at each number of streams, upwards until one is not believed."""
    from lib import load  # load asks this module how many processes to take

    found = Calibration()
    for streams in levels:
        with metronome(step_ms) as server, tempfile.TemporaryDirectory() as folder:
            rounds = max(2, round(seconds * 1000 / step_ms / TOKENS))
            todo = [Request([{"role": "user", "content": f"{i}"}], TOKENS) for i in range(streams * rounds)]
            frame = await load.run(server, Path(folder) / "rows.jsonl", f"{streams} streams", todo, Closed(streams, stagger_s=0.3),
                                   processes=processes, on="")
            frame = metrics.per_request(frame)
            found.rows.append(await asyncio.to_thread(level, frame, server.truth(), frame.attrs["client"], streams))
        if not found.rows[-1]["believed"]:
            break
        found.streams, found.tokens_per_s = streams, found.rows[-1]["tokens_per_s"]
    use(found)
    return found
