"""Carries out a plan of load in this process's event loop.

Requests are built ahead and wait at their gates; the next is written in the very read that ends the last one
of its stream. What takes time (building through openai, parsing, writing rows) waits for the moments between
the server's steps, one request at a time (see lib.exchange.Turns).

A workload with `follow(request, record) -> Request | None` is one of conversations: its items open them, and each
reply gives the next turn, sent by the same stream `think_s` later (an attribute of the workload, default 0). A stream
takes its next conversation when one has ended: at None, or at the first fault.
"""
import asyncio
import collections
import gc
import itertools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np

from lib import descriptors
from lib.client import Client
from lib.exchange import LONG_PATIENCE_S, Exchange
from lib.records import Record, Sink
from lib.shapes import Closed, Shape

AHEAD = 32  # open loop: how many requests are built before their time
PAUSE_S = 0.1  # a stream whose request failed waits so long, or a dead server would be hammered
LAG_EVERY_S = 0.02


@dataclass(frozen=True)
class Plan:
    """What one worker does: every `parts`-th request, from number `part` on, of a series. Can be pickled."""

    url: str
    api_key: str | None
    model: str
    timeout_s: float
    series: str
    path: Path | None  # where the rows go; None: only to `on_record`
    workload: object  # workload[i] -> Request; may have follow() and think_s, see above
    shape: Shape
    count: int | None  # requests in all; None: until `seconds` are over
    seconds: float | None
    warmup: int
    seed: int
    part: int = 0
    parts: int = 1


class Drive:
    """One worker's part of a series: `await prepare()`, `await run(start_at)`."""

    def __init__(self, plan: Plan, on_record: Callable[[Record], None] = lambda record: None):
        self.plan, self._on_record = plan, on_record
        self._client = Client(plan.url, plan.api_key, plan.model, plan.timeout_s)
        self._sink = Sink(plan.path) if plan.path else None
        self._indices = itertools.count(plan.part, plan.parts)
        self._ready: collections.deque[Exchange] = collections.deque()  # built, or being built
        self._scheduled: dict[Exchange, float] = {}
        self._building: set[asyncio.Task] = set()
        self._flying: set[Exchange] = set()  # let go, their rows not yet written
        self._owed = 0  # streams that wait for a request to be built
        self._follow = getattr(plan.workload, "follow", None)
        if not self._follow:  # the next requests are built already: streams that end in one step need not be hurried
            self._client.turns.patience_s = LONG_PATIENCE_S
        self._thinking: set[Exchange] = set()  # next turns that are not due yet
        self._exhausted = self._stopping = False
        self._build_more, self._over = asyncio.Event(), asyncio.Event()
        self._fault: BaseException | None = None
        self._lags: list[float] = []
        closed = isinstance(plan.shape, Closed)
        self._starts = plan.shape.starts()[plan.part::plan.parts] if closed else []
        self._depth = len(self._starts) if closed else AHEAD

    async def prepare(self) -> None:
        """Everything that can be done before the start: connections, the first requests."""
        descriptors.room_for(len(self._starts), f"series {self.plan.series}, streams")  # of this process, which may be an older one
        self._builder = asyncio.create_task(self._build())
        self._builder.add_done_callback(self._ended_task)
        try:
            await self._client.connect(self._depth)
        except httpx2.TransportError:
            pass  # the requests themselves will say so, a row each
        while not self._exhausted and not self._fault and (len(self._ready) < self._depth or not self._ready[-1].ready):
            await asyncio.sleep(0.001)

    async def run(self, start_at: float) -> dict:
        """Send everything; `start_at`: s, monotonic. Returns how this client fared (see `_health`)."""
        gc.collect()
        gc.freeze()  # what lives already is not walked again in the middle of a measurement
        try:
            await asyncio.sleep(start_at - time.monotonic())
            before, began = _usage(), time.monotonic()
            lag = asyncio.create_task(self._watch_lag())
            pace = asyncio.create_task(self._closed(start_at) if self._starts else self._open(start_at))
            if self.plan.seconds:
                asyncio.get_running_loop().call_later(start_at + self.plan.seconds - time.monotonic(), self.stop)
            await pace
            self._check_over()
            await self._over.wait()
            lag.cancel()
            if self._fault:
                raise self._fault
            return self._health(before, time.monotonic() - began)
        finally:
            await self.close()

    def stop(self) -> None:
        """Send no more; what is in flight is still read to its end."""
        self._stopping = True
        self._check_over()

    def abort(self) -> None:
        """Send no more and break off what is in flight; each is a row that says so."""
        self.stop()
        for exchange in list(self._flying):
            exchange.break_off()

    async def close(self) -> None:
        self._builder.cancel()
        for task in list(self._building):
            task.cancel()
        await asyncio.gather(*self._building, return_exceptions=True)
        await self._client.close()
        if self._sink:
            self._sink.close()

    # ---------------------------------------------------------------- building ahead

    async def _build(self) -> None:
        while not self._exhausted:
            while len(self._ready) < self._depth + self._owed and not self._exhausted:
                await (asyncio.sleep(0) if self._owed else self._client.turns.turn())
                self._build_one()
                if self._owed and self._ready:
                    self._owed -= 1
                    self._send(self._ready.popleft())
            self._build_more.clear()
            await self._build_more.wait()

    def _build_one(self) -> None:
        index = next(self._indices)
        try:
            if self.plan.count is not None and index >= self.plan.count:
                raise IndexError
            request = self.plan.workload[index]
        except IndexError:
            self._exhausted = True
            self._check_over()
            return
        exchange = Exchange(gated=True, on_end=self._ended)
        phase = "warmup" if index < self.plan.warmup else "measure"
        task = asyncio.create_task(self._one(exchange, request, index, phase))
        self._building.add(task)
        task.add_done_callback(self._ended_task)
        self._ready.append(exchange)

    def _ended_task(self, task: asyncio.Task) -> None:
        self._building.discard(task)
        if not task.cancelled() and task.exception() is not None:  # ours, not the server's: nothing would end the wait
            self._fault = self._fault or task.exception()
            self._over.set()

    async def _one(self, exchange: Exchange, request, index: int, phase: str) -> None:
        for turn in itertools.count(1):
            record = await self._client.chat(request, self.plan.series, index, phase, exchange)
            self._flying.discard(exchange)
            record.scheduled = self._scheduled.pop(exchange, None)
            record.turn = turn if self._follow else None
            if self._sink:
                self._sink.write(record)
            self._on_record(record)
            going_on = self._follow and record.error is None and not self._stopping
            request = self._follow(request, record) if going_on else None
            if request is None:
                break
            exchange = self._think()
        if self._follow:
            self._free(exchange)
        self._check_over()

    def _think(self) -> Exchange:
        """The gate at which a conversation's next turn waits for its time."""
        exchange = Exchange(gated=True)
        self._thinking.add(exchange)
        asyncio.get_running_loop().call_later(getattr(self.plan.workload, "think_s", 0.0), self._thought, exchange)
        return exchange

    def _thought(self, exchange: Exchange) -> None:
        self._thinking.discard(exchange)
        if not self._stopping:
            self._send(exchange)

    # ---------------------------------------------------------------- letting go

    def _send(self, exchange: Exchange) -> None:
        self._flying.add(exchange)
        exchange.release()

    def _ended(self, exchange: Exchange) -> None:
        """In the read that ended a reply: send the stream's next request before anything else. Whether a
        conversation goes on is only known when its reply has been read."""
        if not self._follow:
            self._free(exchange)

    def _free(self, exchange: Exchange) -> None:
        """A stream has ended what it was at and takes the next."""
        if not self._starts or self._stopping:
            return
        if exchange.error or exchange.status != 200:
            asyncio.get_running_loop().call_later(PAUSE_S, self._next_of_stream)
        else:
            self._next_of_stream()

    def _next_of_stream(self) -> None:
        if self._stopping:
            return
        if self._ready:
            self._send(self._ready.popleft())
        else:
            self._owed += 1
        self._build_more.set()

    def _check_over(self) -> None:
        if not self._flying and (self._stopping or (self._exhausted and not self._ready and not self._thinking)):
            self._over.set()

    async def _closed(self, start_at: float) -> None:
        for offset in self._starts:
            await asyncio.sleep(start_at + offset - time.monotonic())
            if self._stopping or (self._exhausted and not self._ready):
                return
            self._next_of_stream()

    async def _open(self, start_at: float) -> None:
        plan = self.plan
        for offset in itertools.islice(plan.shape.instants(plan.seed), plan.part, None, plan.parts):
            due = start_at + offset
            if plan.seconds and offset > plan.seconds:
                self._stopping = True
            await asyncio.sleep(due - time.monotonic() - 0.001)
            while time.monotonic() < due:  # uvloop's timers are good to a millisecond only
                await asyncio.sleep(0)
            while not self._ready and not self._exhausted and not self._stopping:
                await asyncio.sleep(0)
            if self._stopping or not self._ready:
                return
            exchange = self._ready.popleft()
            self._scheduled[exchange] = due
            self._send(exchange)
            self._build_more.set()

    # ---------------------------------------------------------------- how the client fared

    async def _watch_lag(self) -> None:
        while True:
            due = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lags.append(time.monotonic() - due)

    def _health(self, before: dict, wall_s: float) -> dict:
        """Evidence on this client: share of a processor that it used, share of the time in which it was ready to
        run and had none, lateness of its timers (ms), peak memory (MiB)."""
        now, lags = _usage(), np.maximum(self._lags or [0.0], 0.0) * 1000
        waited = None if now["waited_s"] is None else (now["waited_s"] - before["waited_s"]) / wall_s
        return {
            "part": self.plan.part, "wall_s": wall_s, "cpu_s": now["cpu_s"] - before["cpu_s"],
            "cpu_share": (now["cpu_s"] - before["cpu_s"]) / wall_s, "wait_share": waited,
            "lag_p50_ms": float(np.quantile(lags, 0.5)), "lag_p99_ms": float(np.quantile(lags, 0.99)),
            "lag_max_ms": float(lags.max()), "rss_mib": _peak_mib(),
        }


def _peak_mib() -> float | None:
    # Not getrusage's: that of a process which was forked begins with its parent's.
    try:
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    except (OSError, TypeError):
        return None


def _usage() -> dict:
    try:  # Linux: time on a processor, time runnable without one, both in ns
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        waited = None
    return {"cpu_s": time.process_time(), "waited_s": waited}
