"""An httpx2 transport that notes when bytes really left and came, and costs little per read.

`openai` hands a request to httpx2, and httpx2 hands it to a transport: this one. It writes the request to the
socket itself, so that `sent` is the instant of that write, and stamps each read in the event loop's own read
callback. Nothing is parsed there but HTTP's framing, and the layers above see a body only in large pieces:
their work per piece would otherwise be paid per token, and it is what makes clients measure themselves.

A request may wait at a *gate*: openai has built it, a load driver lets it go at the right instant.
"""
import asyncio
import collections
import os
import select
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Callable

import httptools
import httpx2

SMALL = 64 * 1024  # bytes; less than any usual socket buffer
PIECE = 256 * 1024  # bytes of a body that are kept before the layers above are woken to take them
IDLE_LIMIT_S = 4.0  # a connection is not used again after this; vLLM's server closes idle ones after 5 s


class Aborted(httpx2.TransportError):
    """The client itself broke the exchange off."""


class _Turns:
    """Wakes tasks one an iteration of the event loop, so that between two of them the loop reads its sockets.

    The streams of a batching engine end in the same step; all of them dealt with at once would make every
    other stream's next read late by the sum of it.
    """

    def __init__(self):
        self._waiting: collections.deque = collections.deque()

    def wake(self, future: asyncio.Future) -> None:
        self._waiting.append(future)
        if len(self._waiting) == 1:
            future.get_loop().call_soon(self._next)

    def _next(self) -> None:
        future = self._waiting.popleft()
        if not future.done():
            future.set_result(None)
        if self._waiting:
            future.get_loop().call_soon(self._next)


_turns = _Turns()


@dataclass(eq=False)
class Exchange:
    """One request and its reply, as seen at the socket. Instants: s, monotonic.

    `reads` holds one pair per read that brought body: its instant, and the length of the body so far.
    """

    gated: bool = False  # wait for release() before the request is written
    on_sent: Callable | None = None  # called when the request has been written
    on_body: Callable | None = None  # takes a good reply's body, in pieces, in place of the layers above
    on_end: Callable | None = None  # called in the read that ended the reply, before anything above sees it
    sent: float | None = None  # the write of the request's last byte
    ended: float | None = None  # the read that ended the reply, or the fault
    reads: list = field(default_factory=list)
    status: int | None = None
    headers: list = field(default_factory=list)
    error: Exception | None = None
    ready: bool = False  # built by the layers above, waiting at the gate
    _data: bytes = b""
    _parts: list = field(default_factory=list)
    _size: int = 0
    _handed: int = 0
    _begin: Callable | None = None
    _connection: "_Connection | None" = None
    _waiter: asyncio.Future | None = None

    def release(self) -> None:
        """Open the gate. The request is written before this returns, if a connection is at hand."""
        self.gated = False
        if self.ready and self._begin:
            begin, self._begin = self._begin, None
            begin(self)

    def break_off(self) -> None:
        """End it from this side: the layers above get Aborted after what has come so far."""
        self.gated = False
        if self._connection is not None:
            self._connection._end(Aborted("broken off by the client"))
        elif self.ended is None:
            self._fail(Aborted("broken off by the client"))

    def _fail(self, error: Exception) -> None:
        self.error, self.ended, self._begin = error, time.monotonic(), None
        if self.on_end:
            self.on_end(self)
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            _turns.wake(waiter)

    def _take(self) -> bytes:
        data, self._parts, self._handed = b"".join(self._parts), [], self._size
        return data


current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


class _Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time. Also httptools' callbacks."""

    def __init__(self, pool: "StampingTransport", origin: tuple):
        self._pool, self._origin = pool, origin
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.idle_since = 0.0
        self.closed = False
        self._parser: httptools.HttpResponseParser | None = None
        self._framed = self._complete = self._keep = False
        self._silence_s: float | None = None
        self._active_at = 0.0  # the newest write or read
        self._timer: asyncio.TimerHandle | None = None
        self._fd = -1

    # ---------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport) -> None:
        self.transport = transport
        if transport.get_extra_info("ssl_object") is None:
            self._fd = transport.get_extra_info("socket").fileno()
        self._pool._open.add(self)
        transport.set_write_buffer_limits(0)  # resume_writing then means: all of it has gone

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        exchange = self.exchange
        if exchange is None:  # nobody asked
            self.transport.abort()
            return
        self._active_at = now
        before = exchange._size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(httpx2.RemoteProtocolError(f"the reply is no HTTP: {error}"), now)
            return
        if exchange._size != before:
            exchange.reads.append((now, exchange._size))
        if self._complete:
            self._end(None, now)
        elif exchange._size - exchange._handed > PIECE:
            exchange._wake()

    def resume_writing(self) -> None:
        if self.exchange is not None and self.exchange.sent is None:
            self._has_sent(time.monotonic())

    def connection_lost(self, error) -> None:
        self.closed = True
        self._pool._open.discard(self)
        if self.exchange is None:
            return
        if error is None and self.exchange.status and not self._framed:
            self._end(None, time.monotonic())  # a body without a length ends with its connection
        elif error is None:
            self._end(httpx2.RemoteProtocolError("the server closed the connection before the reply was complete"))
        else:
            self._end(httpx2.ReadError(str(error) or repr(error)))

    # ---------------------------------------------------------------- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self.exchange.headers.append((name, value))
        self._framed |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self.exchange.status = self._parser.get_status_code()
        self._keep = self._parser.should_keep_alive()  # not known any more when the message is complete

    def on_body(self, data: bytes) -> None:
        self.exchange._parts.append(data)
        self.exchange._size += len(data)

    def on_message_complete(self) -> None:
        if self.exchange.status >= 200:
            self._complete = True
        else:  # 100 Continue and its like go before the answer
            self.exchange.headers, self._framed = [], False

    # ---------------------------------------------------------------- one exchange

    def usable(self) -> bool:
        """Nothing has happened to it since its last reply. What the kernel knows and the loop does not yet (that
        the server has closed it) is asked for too: else a request would be sent into the void, and fail."""
        if self.closed or time.monotonic() - self.idle_since > IDLE_LIMIT_S:
            return False
        if self._fd < 0:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return not poll.poll(0)

    def start(self, exchange: Exchange, silence_s: float | None) -> None:
        """Write the request now."""
        self.exchange, self._silence_s, exchange._connection = exchange, silence_s, self
        self._parser = httptools.HttpResponseParser(self)
        self._framed = self._complete = self._keep = False
        data = memoryview(exchange._data)
        # A small write cannot block: it has gone when it is called, and a process that is put to sleep just
        # after it must not start the clock on waking. A large one has gone when its last part has.
        self._active_at = before = time.monotonic()
        if self._fd < 0:  # TLS
            self.transport.write(data)
            self._has_sent(time.monotonic())
        else:
            # Not transport.write: uvloop's would wait for the end of the loop's iteration.
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                written = 0
            except OSError as error:
                self._end(httpx2.WriteError(str(error)))
                return
            if written < len(data):
                self.transport.write(data[written:])
            else:
                self._has_sent(before if len(data) <= SMALL else time.monotonic())
        exchange._data = b""
        if silence_s is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(silence_s, self._check_silence)

    def _has_sent(self, at: float) -> None:
        exchange = self.exchange
        exchange.sent = self._active_at = at
        if exchange.on_sent:
            exchange.on_sent(exchange)

    def _check_silence(self) -> None:
        self._timer = None
        if self.exchange is None or self._silence_s is None:
            return
        left = self._active_at + self._silence_s - time.monotonic()
        if left <= 0:
            self._end(httpx2.ReadTimeout("silence for longer than the time limit"))
        else:
            self._timer = asyncio.get_running_loop().call_later(left, self._check_silence)

    def _end(self, error: Exception | None, at: float | None = None) -> None:
        exchange, self.exchange = self.exchange, None
        exchange.ended, exchange.error, exchange._connection = at or time.monotonic(), error, None
        if error is None and self._framed and self._keep:
            self._pool._release(self._origin, self)
        else:
            self.abort()
        if exchange.on_end:
            exchange.on_end(exchange)
        exchange._wake()

    def abort(self) -> None:
        self.exchange, self.closed = None, True
        if self._timer:
            self._timer.cancel()
        self.transport.abort()


class _Body(httpx2.AsyncByteStream):
    """A reply's body in the pieces in which it is ready."""

    def __init__(self, exchange: Exchange):
        self._exchange = exchange

    async def __aiter__(self):
        exchange = self._exchange
        while True:
            ended = exchange.ended is not None
            if exchange._parts:
                data = exchange._take()
                if exchange.on_body and exchange.status == 200:
                    exchange.on_body(data)
                else:
                    yield data
            if ended:
                if exchange.error:
                    raise exchange.error
                return
            await _more(exchange)

    async def aclose(self) -> None:
        if self._exchange.ended is None:
            self._exchange.break_off()


async def _more(exchange: Exchange) -> None:
    if exchange.ended is None:
        exchange._waiter = asyncio.get_running_loop().create_future()
        await exchange._waiter


class StampingTransport(httpx2.AsyncBaseTransport):
    """Keeps any number of connections, each used again when its reply has ended."""

    def __init__(self):
        self._idle: dict[tuple, list[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._ssl = None
        self._tasks: set = set()  # the loop keeps only weak references

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = current.get() or Exchange()
        exchange._data = _head(request) + await request.aread()
        limits = request.extensions.get("timeout", {})
        exchange._begin = lambda e: self._begin(e, request.url, limits)
        exchange.ready = True
        if not exchange.gated:
            exchange.release()
        try:
            await _more(exchange)
        except asyncio.CancelledError:
            exchange.on_end = None
            exchange.break_off()
            raise
        if exchange.status is None or (exchange.error and not exchange._parts):
            raise exchange.error
        return httpx2.Response(exchange.status, headers=exchange.headers, stream=_Body(exchange),
                               extensions={"http_version": b"HTTP/1.1"})

    async def connect(self, url: httpx2.URL, count: int, timeout_s: float | None = None) -> None:
        """Have `count` idle connections to `url` at hand. Raises httpx2.ConnectError."""
        missing = count - len(self._idle.get(_origin(url), []))
        for _ in range(missing):
            self._release(_origin(url), await self._connect(url, timeout_s))

    def _begin(self, exchange: Exchange, url: httpx2.URL, limits: dict) -> None:
        idle = self._idle.get(_origin(url), [])
        while idle:
            connection = idle.pop()
            if connection.usable():
                connection.start(exchange, limits.get("read"))
                return
            connection.abort()

        async def connect_first():
            try:
                connection = await self._connect(url, limits.get("connect"))
            except httpx2.TransportError as error:
                exchange._fail(error)
                return
            connection.start(exchange, limits.get("read"))

        task = asyncio.get_running_loop().create_task(connect_first())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, url: httpx2.URL, timeout_s: float | None) -> _Connection:
        scheme, host, port = origin = _origin(url)
        if scheme == "https" and self._ssl is None:
            self._ssl = httpx2.create_ssl_context()
        loop = asyncio.get_running_loop()
        try:
            _, connection = await asyncio.wait_for(loop.create_connection(
                lambda: _Connection(self, origin), host, port, ssl=self._ssl if scheme == "https" else None), timeout_s)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise httpx2.ConnectTimeout("no connection within the time limit") from error
        except OSError as error:
            raise httpx2.ConnectError(str(error)) from error
        return connection

    def _release(self, origin: tuple, connection: _Connection) -> None:
        connection.idle_since = time.monotonic()
        self._idle.setdefault(origin, []).append(connection)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        for connection in list(self._open):
            connection.abort()
        self._idle, self._open = {}, set()


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _head(request: httpx2.Request) -> bytes:
    lines = [f"{request.method} {request.url.raw_path.decode('ascii')} HTTP/1.1".encode("ascii")]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join(lines) + b"\r\n\r\n"
