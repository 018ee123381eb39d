"""This workbook's client, as a notebook uses it, in a process that can be watched like any other's.

    python -m benchmarks.ours URL STREAMS COUNT TOKENS RESULT --processes 1

RESULT takes how the client fared; the records go beside it, to rows.jsonl.
"""
import argparse
import asyncio
import json
from pathlib import Path

from lib import load, metrics
from lib.calibration import Metronome
from lib.client import Request
from lib.series import Series
from lib.shapes import Closed


class Prompts:
    """As many requests as are asked for, each of about 100 tokens and unlike the others."""

    def __init__(self, tokens: int):
        self.tokens = tokens

    def __getitem__(self, index: int) -> Request:
        return Request([{"role": "user", "content": f"{index} " + "word " * 99}], self.tokens)


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ours")
    parser.add_argument("url")
    for name in ("streams", "count", "tokens"):
        parser.add_argument(name, type=int)
    parser.add_argument("result", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="stop after these in place of COUNT requests")
    asked = parser.parse_args()
    frame = await load.run(
        Metronome(asked.url), asked.result.with_name("rows.jsonl"), f"{asked.streams} streams", Prompts(asked.tokens),
        Closed(asked.streams), count=None if asked.seconds else asked.count, seconds=asked.seconds,
        processes=asked.processes, quiet=True)
    client, window = frame.attrs["client"], metrics.steady_window(frame, asked.streams)
    frame = metrics.mark_steady(metrics.per_request(frame), window)
    series = Series("benchmark", frame, "closed loop", window, client, streams=asked.streams)
    asked.result.write_text(json.dumps({
        "tokens_per_s": float(metrics.throughput(frame, window).mean()), "verdict": series.verdicts()["tpot_s"],
        "client": client}, default=float))


if __name__ == "__main__":
    from benchmarks import ours  # under its own name, or the workers would not find Prompts

    asyncio.run(ours.main())
