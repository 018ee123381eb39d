"""The limit: sockets and epoll. Bytes are counted and reads are stamped, nothing is parsed.

    python -m benchmarks.raw_reader URL STREAMS COUNT TOKENS RESULT
"""
import json
import select
import socket
import sys
import time
from urllib.parse import urlsplit

from lib.shapes import Closed

END = b"0\r\n\r\n"  # of a reply in chunked transfer encoding


def read(url: str, streams: int, count: int, tokens: int) -> list[dict]:
    """Closed loop over `streams` sockets -> rows of started, ttft_ms, tpot_ms, itl_ms."""
    address = urlsplit(url)
    body = json.dumps({"model": "metronome", "messages": [{"role": "user", "content": "word " * 100}], "max_tokens": tokens,
                       "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: metronome\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    poll, sockets, reads, rows = select.epoll(), {}, {}, []
    for _ in range(min(streams, count)):
        one = socket.create_connection((address.hostname, address.port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setblocking(False)
        poll.register(one, select.EPOLLIN)
        sockets[one.fileno()] = one
    starts = zip(Closed(len(sockets)).starts(), sockets)  # spread as our client's, so that the two can be compared
    left, open_streams, began, due = count - len(sockets), len(sockets), time.monotonic(), next(starts)
    while open_streams:
        while due and time.monotonic() >= began + due[0]:
            reads[due[1]] = [time.monotonic()]
            sockets[due[1]].send(request)
            due = next(starts, None)
        for fd, _ in poll.poll(max(0.0, began + due[0] - time.monotonic()) if due else None):
            data = sockets[fd].recv(65536)
            stamps = reads[fd]
            stamps.append(time.monotonic())
            if not data:
                raise ConnectionError("the server closed a connection")
            if data.endswith(END):
                rows.append(stamps)
                if left:
                    left -= 1
                    reads[fd] = [time.monotonic()]
                    sockets[fd].send(request)
                else:
                    open_streams -= 1
                    poll.unregister(fd)
    return [{"started": s[0], "ttft_ms": (s[1] - s[0]) * 1000, "tpot_ms": (s[-1] - s[1]) / (tokens - 1) * 1000,
             "itl_ms": [(b - a) * 1000 for a, b in zip(s[1:], s[2:])]} for s in rows]


if __name__ == "__main__":
    began = time.monotonic()
    rows = read(sys.argv[1], *map(int, sys.argv[2:5]))
    spent = time.monotonic() - began
    with open(sys.argv[5], "w") as result:
        result.write(json.dumps({"rows": rows, "tokens_per_s": len(rows) * int(sys.argv[4]) / spent}))
