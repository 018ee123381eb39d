"""A proxy between a client and a server that fails on purpose, so that what is done about failures can be tried.

    with fault_proxy.between(server.url, Fault("reset", share=0.1, after=400)) as proxy:
        broken = connect(proxy.url, server.api_key)

It stands on this machine, forwards every request over a connection of its own, and adds time of its own: what is
measured through it says nothing about the server. `proxy.faults` may be replaced while it runs.
"""
import asyncio
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from lib.errors import UserError

KINDS = {
    "delay": "the reply begins `seconds` later",
    "hang": "the request is taken and never answered",
    "die": "all connections are broken and none is taken any more, for `seconds` (0: for good)",
    "oom": "the request is answered with 500, as vLLM does when its engine has died, and then it dies",
    "slow": "the body comes `times` as slowly as the server sends it",
    "limit": "a request that comes while `most` are in flight is answered with HTTP `status`",
    "reset": "the connection is broken after `after` bytes of the reply's body",
    "truncate": "the connection is closed in good order after `after` bytes of the body, which is not whole",
    "garble": "after `after` bytes the body is no JSON any more, though its framing holds",
    "status": "the proxy itself answers with HTTP `status`, as 429, 500 or 503",
    "drip": "the body comes in small pieces, `seconds` apart",
    "wrong_picture": "a request that comes while another picture is in flight is asked about that picture instead",
}
REASONS = {429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable"}
PIECE = 64  # bytes that drip at once
LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Fault:
    """What goes wrong (a key of KINDS) with which `share` of the requests whose path holds `path`, once `begin` requests whose
    path holds `counted` have come."""

    kind: str
    share: float = 1.0
    seconds: float = 0.5
    after: int = 0
    status: int = 503
    path: str = "completions"
    begin: int = 0
    counted: str = "completions"
    times: float = 10.0
    most: int = 4

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"no such fault: {self.kind!r}; known: {', '.join(KINDS)}")
        if not 0 <= self.share <= 1:
            raise UserError(f"share {self.share}: a part of all requests lies between 0 and 1")


NONE = Fault("delay", seconds=0.0)


class FaultProxy:
    """`requests`: how many came. `eligible` and `struck`, by kind: how many a fault could have met, and did."""

    def __init__(self, upstream: str, faults: tuple[Fault, ...], seed: int):
        parts = urlsplit(upstream)
        self._secure, self._host = parts.scheme == "https", parts.hostname
        self._port = parts.port or (443 if self._secure else 80)
        self.faults, self._random = faults, random.Random(seed)
        self.requests, self.eligible, self.struck = 0, Counter(), Counter()
        self._pictures: dict[object, str] = {}  # of the requests in flight
        self._in_flight: set[object] = set()
        self._paths: list[str] = []  # of the requests that came
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    async def serve(self, started: threading.Event) -> None:
        """Until `stop` is called."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self._listen(0)
        started.set()
        await self._stop.wait()
        self._server.close()  # without waiting for connections that a fault keeps open

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", port, backlog=4096)
        self._at = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._at}"

    def _die(self, seconds: float) -> None:
        """As a process that is killed: nothing listens, and the kernel breaks what was open."""
        self._server.close()
        for writer in list(self._writers):
            _reset(writer)
        if seconds:
            self._loop.call_later(seconds, lambda: self._loop.create_task(self._listen(self._at)))

    def came(self, path: str = "completions") -> int:
        """How many requests came whose path holds `path`."""
        return sum(path in one for one in self._paths)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection: the reply says that it is closed then."""
        me = object()
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
            self.requests += 1
            picture, path = _picture(body), head.split(b" ", 2)[1].decode("latin-1")
            fault, body = self._choose(path, body, picture)
            self._paths.append(path)
            if "completions" in path:
                self._in_flight.add(me)
            if picture:
                self._pictures[me] = picture
            await self._forward(head, body, fault, writer)
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            writer.transport.abort()  # one of the two went away: so does the other
        except asyncio.CancelledError:
            if not self._stop.is_set():  # else the proxy ends, and whatever still hangs in it
                raise
        finally:
            self._pictures.pop(me, None)
            self._in_flight.discard(me)
            self._writers.discard(writer)
            writer.close()

    def _choose(self, path: str, body: bytes, picture: str | None) -> tuple[Fault, bytes]:
        for fault in self.faults:
            others = [other for other in self._pictures.values() if other != picture]
            if fault.path not in path or (fault.kind == "wrong_picture" and not (picture and others)):
                continue
            if self.came(fault.counted) < fault.begin or (fault.kind == "limit" and len(self._in_flight) < fault.most):
                continue
            if fault.kind in ("die", "oom") and self.struck[fault.kind]:  # it has died, and come back
                continue
            self.eligible[fault.kind] += 1
            if self._random.random() < fault.share:
                self.struck[fault.kind] += 1
                if fault.kind == "wrong_picture":
                    body = body.replace(picture.encode(), self._random.choice(others).encode())
                return fault, body
        return NONE, body

    async def _forward(self, head: bytes, body: bytes, fault: Fault, writer: asyncio.StreamWriter) -> None:
        if fault.kind == "hang":
            await self._stop.wait()
        if fault.kind == "die":
            return self._die(fault.seconds)
        if fault.kind == "oom":
            self._loop.call_later(0.2, self._die, fault.seconds)
        if fault.kind in ("status", "limit", "oom"):
            writer.write(_refusal(500 if fault.kind == "oom" else fault.status))
            return await writer.drain()
        reader, upstream = await asyncio.open_connection(self._host, self._port, ssl=self._secure or None)
        try:
            upstream.write(_closing(head, len(body)) + body)
            asked = time.monotonic()
            reply = await reader.readuntil(b"\r\n\r\n")
            if fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
            writer.write(_closed(reply))
            await self._pass_on(reader, writer, fault, asked, _length(reply) if b"content-length:" in reply.lower() else None)
        finally:
            upstream.close()

    async def _pass_on(self, reader, writer, fault: Fault, asked: float, length: int | None) -> None:
        """The reply's body, until its end: of its `length`, of its last chunk, or of the connection, which not every server
        closes when it is asked to. asked: when the server was, s, monotonic."""
        passed, tail = 0, b""
        arrived = asyncio.Queue()  # what came while this waited keeps the time of its coming
        reading = asyncio.create_task(_read(reader, arrived, PIECE if fault.kind == "drip" else 65_536))
        reading.add_done_callback(lambda task: task.cancelled() or task.exception())  # looked at, or Python complains
        try:
            while length != passed and not (length is None and tail == LAST_CHUNK):
                at, data = await arrived.get()
                if not data:
                    return await reading
                tail = (tail + data)[-len(LAST_CHUNK):]
                intact = max(0, fault.after - passed)
                passed += len(data)
                if fault.kind in ("reset", "truncate") and passed > fault.after:
                    writer.write(data[:intact])
                    await writer.drain()
                    if fault.kind == "reset":
                        _reset(writer)
                    return
                if fault.kind == "garble":
                    data = data[:intact] + data[intact:].replace(b"{", b"<")
                if fault.kind == "drip":
                    await asyncio.sleep(fault.seconds)
                if fault.kind == "slow":
                    await asyncio.sleep(asked + fault.times * (at - asked) - time.monotonic())
                writer.write(data)
                await writer.drain()
        finally:
            reading.cancel()


async def _read(reader: asyncio.StreamReader, arrived: asyncio.Queue, most: int) -> None:
    """Put (when it came, the bytes) of each piece; no bytes at the end, which is an error of this task if the server broke off."""
    try:
        while data := await reader.read(most):
            arrived.put_nowait((time.monotonic(), data))
    finally:
        arrived.put_nowait((time.monotonic(), b""))


def _length(head: bytes) -> int:
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(lengths[0]) if lengths else 0


def _closing(head: bytes, length: int) -> bytes:
    """The head of a request whose connection is to be closed after the reply, with the length of its body."""
    ours = (b"connection:", b"content-length:")
    lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(ours)]
    return b"\r\n".join([*lines, b"Connection: close", f"Content-Length: {length}".encode(), b"", b""])


def _closed(head: bytes) -> bytes:
    """The head of a reply after which the connection is closed."""
    lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


def _picture(body: bytes) -> str | None:
    """The first picture's URL in a chat request; None where there is none."""
    try:
        parts = [part for message in json.loads(body)["messages"] if isinstance(message["content"], list) for part in message["content"]]
        return next((part["image_url"]["url"] for part in parts if part["type"] == "image_url"), None)
    except (ValueError, KeyError, TypeError):
        return None


def _refusal(status: int) -> bytes:
    body = json.dumps({"error": {"message": f"refused on purpose with {status}", "code": status}}).encode()
    return (f"HTTP/1.1 {status} {REASONS.get(status, 'Refused')}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n").encode() + body


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a crashed peer does, in place of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def between(upstream: str, *faults: Fault, seed: int = 1) -> Iterator[FaultProxy]:
    """A proxy in front of `upstream`, in a thread of its own, until the block ends. The same `seed` draws the same faults
    for the same order of requests."""
    proxy, started = FaultProxy(upstream, faults, seed), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve(started)), daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(10)
