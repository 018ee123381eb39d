"""Holds many streams for minutes on the metronome, and says what was lost and what it cost this machine.

    python scripts/load_held.py --streams 2048 --seconds 300

Every stream asks for one answer after another. The metronome knows what it sent: requests and tokens are held against that.
Memory is that of the load worker, the process that drives the streams: sampled while it runs, after the start and at the end.
"""
import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from lib import calibration, descriptors, load, workloads
from lib.shapes import Closed


async def watched(task: asyncio.Task, metronome_pid: int) -> list[dict]:
    """What the load worker and the metronome use, once a second, until the task has ended."""
    worker, metronome, rows = psutil.Process(load.workers(1)[0].process.pid), psutil.Process(metronome_pid), []
    while not task.done():
        await asyncio.wait({task}, timeout=1.0)
        try:
            rows.append({"at": time.monotonic(), "rss_mib": worker.memory_info().rss / 2**20, "cpu_s": sum(worker.cpu_times()[:2]),
                         "files": worker.num_fds(), "metronome_mib": metronome.memory_info().rss / 2**20,
                         "metronome_cpu_s": sum(metronome.cpu_times()[:2])})
        except psutil.Error:
            pass
    return rows


def held(streams: int, seconds: float, tokens: int, step_ms: float, folder: Path) -> dict[str, str]:
    """The table: quantity -> what was found. Memory's start is when every stream has had two answers, or half of the time is over."""
    load.workers(1)
    with calibration.metronome(step_ms) as server:
        (pid,) = {c.pid for c in psutil.net_connections("tcp")
                  if c.status == psutil.CONN_LISTEN and c.laddr.port == int(server.url.rpartition(":")[2])}

        async def both():
            task = asyncio.create_task(load.run(server, folder / "rows.jsonl", "held", workloads.Brief(tokens, 0.0, 1, "held"),
                                                Closed(streams, stagger_s=2.0), seconds=seconds, processes=1, on=""))
            return await watched(task, pid), await task

        rows, frame = asyncio.run(both())
        true = server.truth()
    truth = [r for r in true["requests"] if r["first"]]
    good, health = frame[frame["error"].isna()], frame.attrs["client"][0]
    began = frame["sent"].min()
    settled_s = min(2 * tokens * step_ms / 1000, seconds / 2)  # every stream has had its first answers
    going = [r for r in rows if began + settled_s < r["at"] < began + seconds]
    first, last = going[0], going[-1]
    drift = np.polyfit([r["at"] for r in going], [r["rss_mib"] for r in going], 1)[0] * 60
    late = np.array(true["step_lateness_s"]) * 1000
    wall = last["at"] - first["at"]
    return {
        "streams, seconds": f"{streams:,}, {frame['sent'].max() - began:,.0f}",
        "requests": f"{len(frame):,} sent, {len(truth):,} answered by the metronome",
        "failed": f"{int(frame['error'].notna().sum()):,}",
        "tokens": f"{int(sum(r['tokens'] for r in truth)):,} sent by the metronome, {int(frame['output_tokens'].sum()):,} counted here",
        "tokens lost": f"{int(sum(r['tokens'] for r in truth) - frame['output_tokens'].sum()):,}",
        "answers of another length": f"{int((good['output_tokens'] != tokens).sum()):,}",
        "tokens/s": f"{frame['output_tokens'].sum() / (frame['done'].max() - began):,.0f}",
        "memory of the worker, MiB": f"{first['rss_mib']:.1f} at the start, {last['rss_mib']:.1f} at the end, "
                                     f"{min(r['rss_mib'] for r in going):.1f} to {max(r['rss_mib'] for r in going):.1f} between; "
                                     f"{drift:+.2f} a minute",
        "processor of the worker": f"{(last['cpu_s'] - first['cpu_s']) / wall:.0%} of one",
        "processor of the metronome": f"{(last['metronome_cpu_s'] - first['metronome_cpu_s']) / wall:.0%} of one",
        "open files of the worker": f"{max(r['files'] for r in going):,}",
        "timers late, ms": f"median {health['lag_p50_ms']:.1f}, p99 {health['lag_p99_ms']:.1f}, longest {health['lag_max_ms']:.0f}",
        "metronome's steps late, ms": f"median {np.median(late):.1f}, p99 {np.quantile(late, 0.99):.1f}, longest {late.max():.0f}",
        "records on disk": f"{(folder / 'rows.jsonl').stat().st_size / 2**20:,.0f} MiB",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--tokens", type=int, default=100, help="in each answer")
    parser.add_argument("--step-ms", type=float, default=200.0, help="between two tokens of a stream")
    asked = parser.parse_args()
    if done := descriptors.room_for(asked.streams, "streams"):
        print(done)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        for name, value in held(asked.streams, asked.seconds, asked.tokens, asked.step_ms, Path(folder)).items():
            print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
