"""Drives requests through a client and writes each record to disk as it ends."""
import asyncio

import pandas as pd

from lib import records
from lib.client import Request
from lib.progress import progress
from lib.rundir import RunDir
from lib.server import Server


async def closed_loop(
    server: Server, run: RunDir, series: str, requests: list[Request], concurrency: int = 1, warmup: int = 0
) -> pd.DataFrame:
    """Keep `concurrency` requests in flight until all are answered; the first `warmup` are marked as such.

    Returns the records of this series as a DataFrame, failures included. They are also in
    `run.requests_file(series)`, one line per request, from the moment each one ended.
    """
    waiting = list(enumerate(requests))[::-1]
    done = []
    with records.Sink(run.new_requests_file(series)) as sink, progress(len(requests), series, "requests") as bar:
        async with server.client() as client:

            async def worker():
                while waiting:
                    index, request = waiting.pop()
                    phase = "warmup" if index < warmup else "measure"
                    record = await client.chat(request, series, index, phase)
                    sink.write(record)
                    done.append(record)
                    failed = sum(r.error is not None for r in done)
                    bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
                    bar.update()

            await asyncio.gather(*(worker() for _ in range(concurrency)))
    return records.to_frame(done)
