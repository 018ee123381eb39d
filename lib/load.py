"""Drives requests at a server from worker processes, and gathers their records.

Every worker appends its rows to one file as they end; here only short reports of them pass by, so that memory
does not grow with the length of a series. The workers share one clock (monotonic is the machine's) and start
at one instant.
"""
import asyncio
import atexit
import os
import subprocess
import sys
import time
from multiprocessing import Pipe

import pandas as pd

from lib import ROOT, calibration, cluster, descriptors, hold, patience, records, stats, time_limit
from lib.driver import Plan
from lib.errors import UserError
from lib.patience import Patience
from lib.progress import progress
from lib.shapes import Closed, Shape

START_IN_S = 0.1  # from "go" to the first request: time for the message to reach every worker
GONE_S = patience.GONE_S


class _Worker:
    """One worker process and this end of its pipe."""

    def __init__(self):
        self.pipe, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lib.worker", str(theirs.fileno())], pass_fds=[theirs.fileno(), *hold.inherited()],
            cwd=ROOT, start_new_session=True, stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})  # to know what is known here
        theirs.close()

    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self.pipe.close()


_workers: list[_Worker] = []  # kept from one series to the next: a start takes a second


def workers(count: int) -> list[_Worker]:
    """`count` worker processes, those of earlier series first."""
    _workers[:] = [w for w in _workers if w.alive()]
    while len(_workers) < count:
        _workers.append(_Worker())
    return _workers[:count]


@atexit.register
def close_workers() -> None:
    for worker in _workers:
        worker.close()
    _workers.clear()


async def run(
    server, path, series: str, workload, shape: Shape | int, *, count: int | None = None,
    seconds: float | None = None, narrow: float | None = None, warmup: int = 0, seed: int = 1,
    processes: int | None = None, timeout_s: float | None = None, quiet: bool = False, on: str | None = None,
) -> pd.DataFrame:
    """Send a workload's requests in a shape -> the records, failures included; also in `path`, line by line.

    workload: workload[i] gives the i-th lib.client.Request; a list will do. shape: lib.shapes, or a number for
    a closed loop of so many streams. It ends after `count` requests (a list's length unless told), after
    `seconds`, when the interval of the mean TPOT and of the mean TTFT is within ± `narrow` (0.02: 2 %), when the server
    is given up on (see lib.patience), or when the notebook's time is over (lib.time_limit), whichever comes first. The first
    `warmup` requests are marked as such. timeout_s: the longest silence that is waited out. processes: None chooses from
    this machine's calibration. on: the Ray cluster that sends them (see lib.cluster), "" for processes here, None for
    what WORKBOOK_LOAD says. `attrs` of the frame: "client", how each worker fared (see lib.driver); "ending", of Patience.
    """
    shape = Closed(shape) if isinstance(shape, int) else shape
    if count is None and hasattr(workload, "__len__"):
        count = len(workload)
    if count is None and seconds is None and narrow is None:
        raise UserError(f"series {series!r} would never end: give count, seconds or narrow")
    on = os.environ.get("WORKBOOK_LOAD", "") if on is None else on
    if isinstance(shape, Closed) and not on and (done := descriptors.room_for(shape.concurrency, f"series {series}, streams")):
        print(done)
    if processes is None:
        processes = await cluster.processes_for(on, shape) if on else calibration.processes_for(shape)
    if isinstance(shape, Closed):
        processes = min(processes, shape.concurrency)
    timeout_s, left_s = timeout_s or time_limit.silence_s(), time_limit.left_s()
    plans = [Plan(server.url, server.api_key, server.model, timeout_s, series, path, workload, shape, count, seconds,
                  warmup, seed, part, processes) for part in range(processes)]
    start = path.stat().st_size if path.exists() else 0
    turns = getattr(workload, "turns", 1)  # of a conversation
    with progress(count and count * turns, series, "requests", quiet, seconds) as bar:
        watch = _Watch(bar, narrow, Patience(getattr(shape, "concurrency", None), GONE_S), left_s)
        health = await (cluster.carry_out(plans, watch, on) if on else _carry_out(plans, workers(processes), watch))
    frame = records.read(path, start)
    frame.attrs |= {"client": health, "shape": str(shape), "concurrency": getattr(shape, "concurrency", None), "ending": watch.patience.ending}
    return frame


class _Watch:
    """Looks at the reports as they come: draws the bar, and says when it is enough. left_s: until the notebook's time is over."""

    def __init__(self, bar, narrow: float | None, patience: Patience, left_s: float | None):
        self._bar, self._narrow, self.patience = bar, narrow, patience
        self._failed, self._next_look = 0, stats.FIRST_LOOK
        self.until = None if left_s is None else time.monotonic() + left_s
        self._ttft: list[float] = []
        self._tpot: list[float] = []

    def rows(self, rows: list[tuple]) -> None:
        for _, phase, ttft, tpot, _, error in rows:
            self._failed += error is not None
            self.patience.heard(error, time.monotonic())
            if self._narrow and phase == "measure" and ttft is not None and tpot is not None:
                self._ttft.append(ttft)
                self._tpot.append(tpot)
        self._bar.set_postfix_str(f"{self._failed} failed" if self._failed else "", refresh=False)
        self._bar.update(len(rows))

    def enough(self) -> str:
        """The word for the workers: "stop", "abort" where what is in flight may never end, "" to go on."""
        now = time.monotonic()
        if self.until is not None and now >= self.until:
            self.patience.ending = self.patience.ending or "time"
        if ending := self.patience.over(now):
            return "stop" if ending == "gone" else "abort"
        if self._narrow is None or len(self._tpot) < self._next_look:
            return ""
        self._next_look = int(len(self._tpot) * stats.LOOK_GROWTH)
        return "stop" if all(stats.narrow_enough(values, self._narrow) for values in (self._ttft, self._tpot)) else ""


async def _carry_out(plans: list[Plan], team: list[_Worker], watch: _Watch) -> list[dict]:
    inbox: asyncio.Queue = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read(worker: _Worker):
        try:
            inbox.put_nowait((worker, worker.pipe.recv()))
        except (EOFError, OSError):
            loop.remove_reader(worker.pipe.fileno())
            inbox.put_nowait((worker, ("fault", "it ended in the middle of its work")))

    def tell(word):
        for worker in team:
            worker.pipe.send(word)

    for worker, plan in zip(team, plans):
        worker.pipe.send(plan)
        loop.add_reader(worker.pipe.fileno(), read, worker)
    ready, health, told = 0, [], ""
    alarm = loop.call_at(loop.time() + watch.until - time.monotonic(), inbox.put_nowait, (None, ("rows", []))) if watch.until else None
    try:
        while len(health) < len(team):
            worker, word = await inbox.get()
            if word == "ready":
                ready += 1
                if ready == len(team):
                    tell(("go", time.monotonic() + START_IN_S))
            elif word[0] == "rows":
                watch.rows(word[1])
                if (enough := watch.enough()) and enough != told and told != "abort":
                    told = enough
                    tell(enough)
            elif word[0] == "health":
                health.append(word[1])
            else:
                raise UserError(f"a load worker failed: {word[1].strip().splitlines()[-1]}")
    except BaseException:  # Ctrl-C too: what is in flight becomes rows before the cell ends
        await asyncio.shield(_break_off(team, inbox, len(health)))
        raise
    finally:
        if alarm:
            alarm.cancel()
        for worker in team:
            if not worker.pipe.closed:
                loop.remove_reader(worker.pipe.fileno())
    if not all(health):
        raise UserError(patience.sentence(plans[0].series, records.to_frame([]), "time"))
    return sorted(health, key=lambda h: h["part"])


async def _break_off(team: list[_Worker], inbox: asyncio.Queue, ended: int) -> None:
    for worker in team:
        try:
            worker.pipe.send("abort")
        except OSError:
            ended += 1
    try:
        async with asyncio.timeout(3):
            while ended < len(team):
                _, word = await inbox.get()
                ended += word[0] in ("health", "fault")
    except TimeoutError:
        pass
    for worker in team:  # their pipes may hold half a conversation
        worker.close()
        _workers.remove(worker)
