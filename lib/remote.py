"""The far end of a load from a Ray cluster, and how its clock stands to that of the driver.

Clocks. Every host has a monotonic clock of its own. It is related to ours by exchanges of messages: ours when the
question left and the answer came, theirs when the question came and the answer left, as in NTP (RFC 5905, section
8). Half of the time that an exchange spent under way bounds the error of the offset; each record holds that bound in
`clock_error_s`. What lies within one request (TTFT from sent, TPOT, ITL) has both ends on one clock and does not
depend on the offset. What sets requests of several hosts beside each other does: the steady window and throughput
(by as much as the offset is wrong), and in an open loop the common schedule: each host's requests are early or late
by its error, and the TTFT from `scheduled` is counted on that host's clock, from that shifted instant.
"""
import asyncio
import collections
import gc
import hashlib
import os
import platform
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from lib.driver import Drive, Plan
from lib.records import Record, encoded
from lib.worker import brief

CODE = ("client", "driver", "records", "remote", "shapes", "transport", "worker")  # what a far worker runs
PACKAGES = ("httptools", "httpx2", "msgspec", "openai", "uvloop")
FREQUENCY_ERROR = 50e-6  # s a second: how fast two quartz clocks may part; what is known of an offset ages by it


# -- clocks ------------------------------------------------------------------------------------------
class Clock:
    """How a far monotonic clock stands to ours, from exchanges of messages."""

    def __init__(self):
        self._seen: collections.deque = collections.deque(maxlen=256)

    def exchange(self, sent: float, came: float, left: float, back: float) -> None:
        """sent, back: ours, s; came, left: theirs, s."""
        self._seen.append((back, (came - sent + left - back) / 2, (back - sent - (left - came)) / 2))

    def now(self, at: float | None = None) -> tuple[float, float]:
        """(theirs − ours, the bound of its error), both s: of the exchanges seen the one that is now worth most."""
        at = time.monotonic() if at is None else at
        return min(((offset, error + FREQUENCY_ERROR * (at - when)) for when, offset, error in self._seen),
                   key=lambda known: known[1])


def in_our_clock(record: Record, offset: float, error: float) -> Record:
    """A far record with its instants on our clock. `sent_at` counts from `sent` on the clock of a server beside us."""
    moved = {name: at - offset for name in ("sent", "first", "last", "done", "scheduled")
             if (at := getattr(record, name)) is not None}
    return replace(record, **moved, clock_error_s=error, sent_at=[round(at + offset, 6) for at in record.sent_at])


# -- the far end -------------------------------------------------------------------------------------
class RemoteWorker:
    """Carries out one plan at a time in the event loop of a Ray actor, which is uvloop's. Raises what Drive does."""

    async def about(self) -> dict:
        return here() | {"versions": versions() | {"event loop": type(asyncio.get_running_loop()).__module__}}

    async def ping(self) -> float:
        return time.monotonic()

    async def prepare(self, plan: Plan, clock: tuple[float, float]) -> None:
        self._clock, self._lines, self._briefs = clock, [], []
        self._drive = Drive(plan, self._keep)
        await self._drive.prepare()

    def _keep(self, record: Record) -> None:
        self._briefs.append(brief(record))
        self._lines.append(encoded(in_our_clock(record, *self._clock)))

    async def go(self, start_at: float) -> None:
        """start_at: s, on this host's clock."""
        self._late_s = max(0.0, time.monotonic() - start_at)
        self._running = asyncio.create_task(self._drive.run(start_at))

    async def take(self, clock: tuple[float, float]) -> tuple:
        """(instant, instant, rows, what is to be known of them, outcome): an exchange of clocks too. Rows are handed
        over once. outcome: None while it runs, then its health, or the words of a fault of ours. clock: how this
        host's clock is known to stand to the driver's."""
        came, self._clock = time.monotonic(), clock
        outcome = None
        if self._running.done():  # asked before the rows are taken: what is over adds none
            gc.unfreeze()
            fault = self._running.exception()
            outcome = self._running.result() | {"start_late_s": self._late_s} if fault is None else repr(fault)
        lines, briefs = b"".join(self._lines), self._briefs
        self._lines, self._briefs = [], []
        return came, time.monotonic(), lines, briefs, outcome

    async def stop(self) -> None:
        self._drive.stop()

    async def abort(self) -> None:
        self._drive.abort()


def here() -> dict:
    """Which host this is, which kernel it runs, and which clock: containers may share both."""
    def read(of):
        try:
            return of()
        except OSError:
            return platform.node()

    machine = read(lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    return {"host": platform.node(), "machine": machine, "clock": machine + read(lambda: os.readlink("/proc/self/ns/time"))}


def versions() -> dict[str, str]:
    """What must be the same on all hosts for figures to be of one client."""
    code = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in CODE)
    return {"lib": hashlib.sha256(code).hexdigest()[:12], "event loop": "uvloop"} | {
        name: metadata.version(name) for name in PACKAGES}
