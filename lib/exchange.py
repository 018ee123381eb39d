"""One request and its reply, as seen at the socket; shared by load driver, client and transport.

A request may wait at a *gate*: openai has built it, a load driver lets it go at the right instant.
"""
import asyncio
import collections
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

import httpx2


class Aborted(httpx2.TransportError):
    """The client itself broke the exchange off."""


QUIET_S = 0.0002  # without a read: the step of a batching engine has been read by all streams
PATIENCE_S = 0.01  # for a quiet moment; where reads never pause, there is none
LONG_PATIENCE_S = 0.5  # where no request waits for the reply to be taken in
ROOM_S = 0.001  # that a turn takes: none begins so shortly before the next step


class Turns:
    """Wakes tasks when no stream has a read coming, one an iteration of the event loop.

    What a reply's end brings with it (parsing, a row to write, a request to build) takes as long as reading a hundred
    tokens. Done between the reads of a batching engine's step, it would make those of the other streams late by as much.
    """

    def __init__(self):
        self.patience_s = PATIENCE_S
        self.read_at = 0.0  # the newest read of any connection; s, monotonic
        self._step_at = self._step_s = 0.0  # the newest step's first read, and how long after the one before
        self._waiting: collections.deque = collections.deque()  # (future, since when)

    def wake(self, future: asyncio.Future) -> None:
        now = time.monotonic()
        self._waiting.append((future, now))
        if len(self._waiting) > 1:
            return
        loop = future.get_loop()
        if now - self.read_at > QUIET_S:
            loop.call_soon(self._next)
        else:
            loop.call_later(0.001, self._next)  # the step will be over, or nearly

    def read(self, now: float) -> None:
        """A connection has been read."""
        if now - self.read_at > QUIET_S:
            self._step_at, self._step_s = now, now - self._step_at
        self.read_at = now

    async def turn(self) -> None:
        """Wait for a turn."""
        future = asyncio.get_running_loop().create_future()
        self.wake(future)
        await future

    def _next(self) -> None:
        future, since = self._waiting[0]
        now = time.monotonic()
        soon = 0 < self._step_at + self._step_s - now < ROOM_S
        if (now - self.read_at > QUIET_S and not soon) or now - since > self.patience_s:
            self._waiting.popleft()
            if not future.done():
                future.set_result(None)
        if self._waiting:
            future.get_loop().call_soon(self._next)  # not a timer again: those are good to a millisecond only


@dataclass(eq=False)
class Exchange:
    """One request and its reply, as seen at the socket. Instants: s, monotonic.

    Of every read that brought body: `read_at`, its instant, and `read_to`, the length of the body after it. Two flat
    lists, for pairs would be objects that the garbage collector walks in the middle of a measurement.
    """

    gated: bool = False  # wait for release() before the request is written
    on_body: Callable | None = None  # takes a good reply's body, in pieces, in place of the layers above
    on_end: Callable | None = None  # called in the read that ended the reply, before anything above sees it
    sent: float | None = None  # the write of the request's last byte
    ended: float | None = None  # the read that ended the reply, or the fault
    read_at: list = field(default_factory=list)
    read_to: list = field(default_factory=list)
    status: int | None = None
    headers: list = field(default_factory=list)
    error: Exception | None = None
    ready: bool = False  # built by the layers above, waiting at the gate
    data: bytes = b""  # the request, until it has been written
    parts: list = field(default_factory=list)  # of the body, not yet taken
    size: int = 0  # of the body so far, and of what has been taken
    taken: int = 0
    begin: Callable | None = None  # finds a connection and starts; set by the transport
    connection: object = None  # that carries it at present
    turns: Turns | None = None
    waiter: asyncio.Future | None = None  # of the layers above: a piece, or the end

    def release(self) -> None:
        """Open the gate. The request is written before this returns, if a connection is at hand."""
        self.gated = False
        if self.ready and self.begin:
            begin, self.begin = self.begin, None
            begin(self)

    def break_off(self) -> None:
        """End it from this side: the layers above get Aborted after what has come so far."""
        self.gated = False
        if self.connection is not None:
            self.connection.end(Aborted("broken off by the client"))
        elif self.ended is None:
            self.fail(Aborted("broken off by the client"))

    def fail(self, error: Exception) -> None:
        """It has ended without a connection."""
        self.error, self.ended, self.begin = error, time.monotonic(), None
        if self.on_end:
            self.on_end(self)
        self.wake()

    def wake(self) -> None:
        """Let the layers above take what is there, when their turn comes."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            self.turns.wake(waiter)

    def take(self) -> bytes:
        """The part of the body that has come since the last take."""
        data, self.parts, self.taken = b"".join(self.parts), [], self.size
        return data


current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


async def more(exchange: Exchange) -> None:
    """Wait until there is something to take, or the end."""
    if exchange.ended is None:
        exchange.waiter = asyncio.get_running_loop().create_future()
        await exchange.waiter
