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
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from lib.errors import UserError

KINDS = {
    "delay": "the reply begins `seconds` later",
    "hang": "the request is taken and never answered",
    "reset": "the connection is broken after `after` bytes of the reply's body",
    "truncate": "the connection is closed in good order after `after` bytes of the body, which is not whole",
    "garble": "after `after` bytes the body is no JSON any more, though its framing holds",
    "status": "the proxy itself answers with HTTP `status`, as 429, 500 or 503",
    "drip": "the body comes in small pieces, `seconds` apart",
    "wrong_picture": "a request that comes while another picture is in flight is asked about that picture instead",
}
REASONS = {429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable"}
PIECE = 64  # bytes that drip at once


@dataclass(frozen=True)
class Fault:
    """What goes wrong (a key of KINDS) with which `share` of the requests whose path holds `path`."""

    kind: str
    share: float = 1.0
    seconds: float = 0.5
    after: int = 0
    status: int = 503
    path: str = "completions"

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
        self.url = ""

    async def serve(self, started: threading.Event) -> None:
        """Until `stop` is called."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stop.wait()
        server.close()  # without waiting for connections that a fault keeps open

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection: the reply says that it is closed then."""
        me = object()
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
            self.requests += 1
            picture = _picture(body)
            fault, body = self._choose(head.split(b" ", 2)[1].decode("latin-1"), body, picture)
            if picture:
                self._pictures[me] = picture
            await self._forward(head, body, fault, writer)
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            writer.transport.abort()  # one of the two went away: so does the other
        finally:
            self._pictures.pop(me, None)
            writer.close()

    def _choose(self, path: str, body: bytes, picture: str | None) -> tuple[Fault, bytes]:
        for fault in self.faults:
            others = [other for other in self._pictures.values() if other != picture]
            if fault.path not in path or (fault.kind == "wrong_picture" and not (picture and others)):
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
            await asyncio.Event().wait()
        if fault.kind == "status":
            writer.write(_refusal(fault.status))
            return await writer.drain()
        reader, upstream = await asyncio.open_connection(self._host, self._port, ssl=self._secure or None)
        try:
            upstream.write(_closing(head, len(body)) + body)
            reply = await reader.readuntil(b"\r\n\r\n")
            if fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
            writer.write(reply)
            await self._pass_on(reader, writer, fault)
        finally:
            upstream.close()

    async def _pass_on(self, reader, writer, fault: Fault) -> None:
        """The reply's body, until the server closes the connection."""
        passed = 0
        while data := await reader.read(PIECE if fault.kind == "drip" else 65_536):
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
            writer.write(data)
            await writer.drain()


def _length(head: bytes) -> int:
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(lengths[0]) if lengths else 0


def _closing(head: bytes, length: int) -> bytes:
    """The head of a request whose connection is to be closed after the reply, with the length of its body."""
    ours = (b"connection:", b"content-length:")
    lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(ours)]
    return b"\r\n".join([*lines, b"Connection: close", f"Content-Length: {length}".encode(), b"", b""])


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
