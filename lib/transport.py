"""The lowest layer of httpx2 below `openai`: it notes when bytes really left and came, and costs little per read.

The layers above see a reply's body only in large pieces: their work per piece would otherwise be paid per token,
and that is what makes clients measure themselves.
"""
import asyncio
import time

import httpx2

from lib.connection import Connection
from lib.exchange import Exchange, Turns, current, more


class _Body(httpx2.AsyncByteStream):
    """A reply's body in the pieces in which it is ready."""

    def __init__(self, exchange: Exchange):
        self._exchange = exchange

    async def __aiter__(self):
        exchange = self._exchange
        while True:
            ended = exchange.ended is not None
            if exchange.parts:
                data = exchange.take()
                if exchange.on_body and exchange.status == 200:
                    exchange.on_body(data)
                else:
                    yield data
            if ended:
                if exchange.error:
                    raise exchange.error
                return
            await more(exchange)

    async def aclose(self) -> None:
        if self._exchange.ended is None:
            self._exchange.break_off()


class StampingTransport(httpx2.AsyncBaseTransport):
    """Keeps any number of connections, each used again when its reply has ended."""

    def __init__(self):
        self._idle: dict[tuple, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._ssl = None
        self.turns = Turns()  # the connections tell it of each read
        self._tasks: set = set()  # the loop keeps only weak references

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        exchange = current.get() or Exchange()
        exchange.data = _head(request) + await request.aread()
        limits = request.extensions.get("timeout", {})
        exchange.begin = lambda e: self._begin(e, request.url, limits)
        exchange.turns, exchange.ready = self.turns, True
        if not exchange.gated:
            exchange.release()
        try:
            await more(exchange)
        except asyncio.CancelledError:
            exchange.on_end = None
            exchange.break_off()
            raise
        if exchange.status is None or (exchange.error and not exchange.parts):
            raise exchange.error
        return httpx2.Response(exchange.status, headers=exchange.headers, stream=_Body(exchange),
                               extensions={"http_version": b"HTTP/1.1"})

    async def connect(self, url: httpx2.URL, count: int, timeout_s: float | None = None) -> None:
        """Have `count` idle connections to `url` at hand. Raises httpx2.ConnectError."""
        missing = count - len(self._idle.get(_origin(url), []))
        for _ in range(missing):
            self.idle(await self._connect(url, timeout_s))

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
                if exchange.ended is None:
                    exchange.fail(error)
                return
            if exchange.ended is not None:  # broken off meanwhile
                self.idle(connection)
                return
            connection.start(exchange, limits.get("read"))

        task = asyncio.get_running_loop().create_task(connect_first())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, url: httpx2.URL, timeout_s: float | None) -> Connection:
        scheme, host, port = origin = _origin(url)
        if scheme == "https" and self._ssl is None:
            self._ssl = httpx2.create_ssl_context()
        loop = asyncio.get_running_loop()
        try:
            _, connection = await asyncio.wait_for(loop.create_connection(
                lambda: Connection(self, origin), host, port, ssl=self._ssl if scheme == "https" else None), timeout_s)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise httpx2.ConnectTimeout("no connection within the time limit") from error
        except OSError as error:
            raise httpx2.ConnectError(str(error)) from error
        return connection

    # What a connection tells its pool.
    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def idle(self, connection: Connection) -> None:
        connection.idle_since = time.monotonic()
        self._idle.setdefault(connection.origin, []).append(connection)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)

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
