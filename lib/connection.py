"""One HTTP/1.1 connection that stamps its writes and reads, below everything that parses.

It writes a request to the socket itself, so that `sent` is the instant of that write, and stamps each read in the
event loop's own read callback. Nothing is parsed here but HTTP's framing, in C.
"""
import asyncio
import os
import select
import time

import httptools
import httpx2

from lib.exchange import Exchange

SMALL = 64 * 1024  # bytes; less than any usual socket buffer
PIECE = 16 * 1024  # bytes of a body, some 50 chunks, that are kept before the layers above are woken to take them
MOST_HEADERS, LONGEST_HEADER, LONGEST_HEAD = 500, 64 * 1024, 256 * 1024  # a server may send what it likes, and never end
LARGEST_ERROR = 1024 * 1024  # bytes of a reply that is no stream
WHOLE_S = 1800.0  # a reply that drips longer than this, without ever being silent, has no end either
IDLE_LIMIT_S = 4.0  # a connection is not used again after this; vLLM's server closes idle ones after 5 s


class Connection(asyncio.Protocol):
    """One connection; carries one exchange at a time. Also httptools' callbacks.

    `pool` is told when it has been opened, is idle, and is lost; its `turns`, of each read.
    """

    def __init__(self, pool, origin: tuple):
        self._pool, self._turns, self.origin = pool, pool.turns, origin
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.idle_since = 0.0
        self.closed = False
        self._parser: httptools.HttpResponseParser | None = None
        self._framed = self._complete = self._keep = False
        self._head = 0  # bytes read before the reply's head was complete
        self._silence_s: float | None = None
        self._active_at = 0.0  # the newest write or read
        self._began_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._fd = -1

    # ---------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport) -> None:
        self.transport = transport
        if transport.get_extra_info("ssl_object") is None:
            self._fd = transport.get_extra_info("socket").fileno()
        self._pool.opened(self)
        transport.set_write_buffer_limits(0)  # resume_writing then means: all of it has gone

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        exchange = self.exchange
        if exchange is None:  # nobody asked
            self.transport.abort()
            return
        self._active_at = now
        self._turns.read(now)
        before = exchange.size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.end(httpx2.RemoteProtocolError(f"the reply is no HTTP: {error.__context__ or error}"), now)
            return
        if exchange.status is None:
            self._head += len(data)
        if self._head > LONGEST_HEAD or (exchange.status not in (None, 200) and exchange.size > LARGEST_ERROR):
            self.end(httpx2.RemoteProtocolError("the reply does not end"), now)
            return
        if exchange.size != before:
            exchange.read_at.append(now)
            exchange.read_to.append(exchange.size)
        if self._complete:
            self.end(None, now)
        elif exchange.size - exchange.taken > PIECE:
            exchange.wake()

    def resume_writing(self) -> None:
        if self.exchange is not None and self.exchange.sent is None:
            self._has_sent(time.monotonic())

    def connection_lost(self, error) -> None:
        self.closed = True
        self._pool.lost(self)
        if self.exchange is None:
            return
        if error is None and self.exchange.status and not self._framed:
            self.end(None, time.monotonic())  # a body without a length ends with its connection
        elif error is None:
            self.end(httpx2.RemoteProtocolError("the server closed the connection before the reply was complete"))
        else:
            self.end(httpx2.ReadError(str(error) or repr(error)))

    # ---------------------------------------------------------------- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self.exchange.headers.append((name, value))
        if len(self.exchange.headers) > MOST_HEADERS or len(value) > LONGEST_HEADER:
            raise httpx2.RemoteProtocolError("the reply's head does not end")
        self._framed |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self.exchange.status = self._parser.get_status_code()
        self._keep = self._parser.should_keep_alive()  # not known any more when the message is complete

    def on_body(self, data: bytes) -> None:
        self.exchange.parts.append(data)
        self.exchange.size += len(data)

    def on_message_complete(self) -> None:
        if self.exchange.status >= 200:
            self._complete = True
        else:  # 100 Continue and its like go before the answer
            self.exchange.headers, self.exchange.status, self._framed = [], None, False

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
        self.exchange, self._silence_s, exchange.connection = exchange, silence_s, self
        self._parser = httptools.HttpResponseParser(self)
        self._framed = self._complete = self._keep = False
        self._head = 0
        data = memoryview(exchange.data)
        # A small write cannot block: it has gone when it is called, and a process that is put to sleep just
        # after it must not start the clock on waking. A large one has gone when its last part has.
        self._active_at = self._began_at = before = time.monotonic()
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
                self.end(httpx2.WriteError(str(error)))
                return
            if written < len(data):
                self.transport.write(data[written:])
            else:
                self._has_sent(before if len(data) <= SMALL else time.monotonic())
        exchange.data = b""
        if silence_s is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(silence_s, self._check_silence)

    def _has_sent(self, at: float) -> None:
        self.exchange.sent = self._active_at = at

    def _check_silence(self) -> None:
        self._timer = None
        if self.exchange is None or self._silence_s is None:
            return
        left = min(self._active_at + self._silence_s, self._began_at + WHOLE_S) - time.monotonic()
        if left <= 0:
            self.end(httpx2.ReadTimeout("silence for longer than the time limit"))
        else:
            self._timer = asyncio.get_running_loop().call_later(left, self._check_silence)

    def end(self, error: Exception | None, at: float | None = None) -> None:
        exchange, self.exchange = self.exchange, None
        exchange.ended, exchange.error, exchange.connection = at or time.monotonic(), error, None
        if error is None and self._framed and self._keep:
            self._pool.idle(self)
        else:
            self.abort()
        if exchange.on_end:
            exchange.on_end(exchange)
        exchange.wake()

    def abort(self) -> None:
        self.exchange, self.closed = None, True
        if self._timer:
            self._timer.cancel()
        self.transport.abort()
