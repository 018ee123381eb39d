"""The metronome of lib.metronome, which here also remembers the instant of every token that it sent.

With that the truth of any client's figure is known, also of clients that keep no token's time themselves.
"""
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
import numpy as np
import pandas as pd

import lib.metronome
from lib import ROOT


SO_TIMESTAMPNS = 35  # Linux, <asm-generic/socket.h>; the socket module does not name it


class Recording(lib.metronome.Metronome):
    """GET /truth then holds, per request, `at`: when each token was sent, and `arrived` is when the request reached
    the socket, not when the metronome, which has tokens to send, came to read it. Instants: s, monotonic."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # its connections inherit it
        self._at: dict[int, list[float]] = {}
        self._reached: dict[int, float] = {}

    def _on_event(self, fd, event):
        if (connection := self._connections.get(fd)) and event & select.EPOLLIN:
            try:
                told = connection.socket.recvmsg(1, 128, socket.MSG_PEEK)[1]
            except OSError:  # the reading that follows will find out
                told = []
            for level, kind, data in told:
                if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                    seconds, ns = struct.unpack("ll", data)
                    self._reached[fd] = time.monotonic() - (time.time() - (seconds + ns / 1e9))
        super()._on_event(fd, event)

    def answer(self, connection):
        super().answer(connection)
        if connection.stream:
            connection.stream.arrived = self._reached.get(connection.socket.fileno(), connection.stream.arrived)

    def _send_tokens(self, connection, stream):
        super()._send_tokens(connection, stream)
        self._at.setdefault(id(stream), []).append(stream.last)
        if stream.sent == stream.tokens:
            self._finished[-1]["at"] = self._at.pop(id(stream))


@dataclass(frozen=True)
class Running:
    url: str
    pid: int
    cpu: int


@contextmanager
def running(step_ms: float, cpu: int):
    """Yields a metronome that ticks every `step_ms` on processor `cpu`."""
    command = [sys.executable, "-m", "benchmarks.metronome", "--until-eof", "--step-ms", str(step_ms), "--cpu", str(cpu)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Running(process.stdout.readline().strip(), process.pid, cpu)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


def truth(url: str, count: int | None) -> pd.DataFrame:
    """What was sent: one row per request, the last `count` of them (a tool may have tried the server first), in
    the order of arriving. arrived, first, last: s; tokens; at: array of instants; ttft_ms, tpot_ms, itl_ms."""
    requests = [r for r in httpx2.get(f"{url}/truth", timeout=120).json()["requests"] if r.get("at")]
    requests = sorted(requests, key=lambda r: r["arrived"])[-count if count else 0:]
    frame = pd.DataFrame(requests, columns=["arrived", "first", "last", "tokens", "at"])
    frame["at"] = [np.array(at) for at in frame["at"]]
    frame["ttft_ms"] = (frame["first"] - frame["arrived"]) * 1000
    frame["tpot_ms"] = (frame["last"] - frame["first"]) / (frame["tokens"] - 1) * 1000
    frame["itl_ms"] = [np.diff(at) * 1000 for at in frame["at"]]
    return frame


if __name__ == "__main__":
    lib.metronome.Metronome = Recording
    lib.metronome.main()
