"""An httpx2 transport that notes when bytes really left and really came, below all parsing.

`openai` hands a request to httpx2, httpx2 to httpcore2, and httpcore2 to a network stream. Wrapping that
last one is what makes `sent` the write of the request's last byte, and the time of a read the return of
the socket's read: several events that one read brought then share one time stamp, as they should.
"""
import time
from contextvars import ContextVar
from dataclasses import dataclass

import httpcore2
import httpx2


SMALL = 64 * 1024  # bytes; less than any usual socket buffer


@dataclass
class Stamps:
    """Of the request that runs in the current task. Seconds, monotonic."""

    wrote: float | None = None  # the newest write to the socket
    read: float | None = None  # the newest read from the socket


stamps: ContextVar[Stamps | None] = ContextVar("stamps", default=None)


class _StampingStream(httpcore2.AsyncNetworkStream):
    def __init__(self, inner: httpcore2.AsyncNetworkStream):
        self._inner = inner

    async def read(self, max_bytes, timeout=None):
        data = await self._inner.read(max_bytes, timeout)
        if (current := stamps.get()) is not None:
            current.read = time.monotonic()
        return data

    async def write(self, buffer, timeout=None):
        # A small write cannot block: it has gone when it is called, and a process that is put to sleep just
        # after it must not start the clock on waking. A large one has gone when it returns.
        before = time.monotonic()
        await self._inner.write(buffer, timeout)
        # httpcore2 closes a request with an empty write, which sends nothing and must not move the clock.
        if buffer and (current := stamps.get()) is not None:
            current.wrote = before if len(buffer) <= SMALL else time.monotonic()

    async def aclose(self):
        await self._inner.aclose()

    async def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        return _StampingStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info):
        return self._inner.get_extra_info(info)


class _StampingBackend(httpcore2.AsyncNetworkBackend):
    def __init__(self):
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(self, *args, **kwargs):
        return _StampingStream(await self._inner.connect_tcp(*args, **kwargs))

    async def sleep(self, seconds):
        await self._inner.sleep(seconds)


class StampingTransport(httpx2.AsyncHTTPTransport):
    """httpx2's own transport over a connection pool of any size whose streams are stamped."""

    def __init__(self):
        super().__init__()
        # httpx2 offers no way to pass a network backend; the pool is httpcore2's public class.
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(), max_connections=None, network_backend=_StampingBackend()
        )
