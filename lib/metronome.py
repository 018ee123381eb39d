"""The metronome: a stand-in server whose timing is known, to measure clients with. Not a model.

It speaks vLLM's HTTP and chunks (chat and completions, running usage, the empty first chunk, several tokens a
chunk, pictures accepted) and sends tokens the way a batching engine does: at every step, one chunk to each
stream in flight. Each chunk carries `sent_at`, the monotonic instant just before its write, so that a
client's stamps can be checked token by token; GET /truth tells the same per request.

    python -m lib.metronome --step-ms 5
"""
import argparse
import json
import os
import resource
import select
import socket
import sys
import time
from dataclasses import dataclass, field

import httptools

WORDS = [" time", " year", " people", " way", " day", " man", " thing", " woman", " life", " child", " world",
         " school", " state", " family", " student", " group"]
MODEL = "metronome"
SPIN_S = 0.0012  # epoll counts in milliseconds; the rest before a step is waited for by polling


@dataclass
class Stream:
    """One request that is being answered, and afterwards the truth about it. Instants: s, monotonic."""

    arrived: float
    tokens: int  # how many will be sent
    chat: bool
    streamed: bool
    with_usage: bool
    prompt_tokens: int
    wait: int  # steps until the first token
    sent: int = 0
    first: float | None = None
    last: float | None = None
    text: str = ""

    def truth(self) -> dict:
        return {"arrived": self.arrived, "first": self.first, "last": self.last, "tokens": self.sent}


@dataclass
class Connection:
    socket: socket.socket
    parser: httptools.HttpRequestParser | None = None
    path: str = ""
    body: list = field(default_factory=list)
    unsent: bytes = b""  # what the client's socket buffer would not take
    stream: Stream | None = None


class _Events:
    """httptools' callbacks of one connection."""

    def __init__(self, metronome: "Metronome", connection: Connection):
        self._metronome, self._connection = metronome, connection

    def on_url(self, url: bytes):
        self._connection.path, self._connection.body = url.decode("latin-1"), []

    def on_body(self, data: bytes):
        self._connection.body.append(data)

    def on_message_complete(self):
        self._metronome.answer(self._connection)


class Metronome:
    """`steps_s`: the lengths of the engine's steps, repeated for ever; one number for a fixed step.
    `tokens_per_chunk`: as speculative decoding has it. `prefill_steps`: how many steps a request waits for its
    first token, at least one."""

    def __init__(self, steps_s: list, tokens_per_chunk: int = 1, prefill_steps: int = 1, port: int = 0):
        self.steps_s, self.tokens_per_chunk, self.prefill_steps = steps_s, tokens_per_chunk, prefill_steps
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        self._active: dict[int, Connection] = {}
        self._finished: list[dict] = []
        self._lateness: list[float] = []  # of each step that had streams to serve, s

    def run(self, stop_fd: int | None = None) -> None:
        """Serve until `stop_fd` is closed at its other end."""
        if stop_fd is not None:
            self._poll.register(stop_fd, select.EPOLLIN | select.EPOLLHUP)
        step, due = 0, time.monotonic() + self.steps_s[0]
        while True:
            left = due - time.monotonic()
            idle = not self._active
            for fd, event in self._poll.poll(0.2 if idle else max(0.0, left - SPIN_S)):
                if fd == stop_fd:
                    return
                self._on_event(fd, event)
            now = time.monotonic()
            if idle:  # the first request begins a step
                due = now + self.steps_s[step]
            elif now >= due:
                self._lateness.append(now - due)
                self._step()
                step = (step + 1) % len(self.steps_s)
                # An engine that is late starts its next step at once; it does not make up for lost ones.
                due = max(due + self.steps_s[step], time.monotonic())

    def _on_event(self, fd: int, event: int) -> None:
        if fd == self._listener.fileno():
            accepted, _ = self._listener.accept()
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(accepted)
            connection.parser = httptools.HttpRequestParser(_Events(self, connection))
            self._connections[accepted.fileno()] = connection
            self._poll.register(accepted, select.EPOLLIN)
            return
        if (connection := self._connections.get(fd)) is None:
            return
        try:
            if event & select.EPOLLOUT:
                waiting, connection.unsent = connection.unsent, b""
                self._poll.modify(fd, select.EPOLLIN)
                self._write(connection, waiting)
            if event & ~select.EPOLLOUT:
                data = connection.socket.recv(1 << 20)
                if not data:
                    raise ConnectionResetError
                connection.parser.feed_data(data)
        except (OSError, httptools.HttpParserError):
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        fd = connection.socket.fileno()
        if connection.stream:
            self._finished.append(connection.stream.truth())
        self._active.pop(fd, None)
        self._connections.pop(fd, None)
        connection.socket.close()

    def _write(self, connection: Connection, data: bytes) -> None:
        if connection.unsent:
            connection.unsent += data
            return
        try:
            sent = connection.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            connection.unsent = data[sent:]
            self._poll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    # ---------------------------------------------------------------- requests

    def answer(self, connection: Connection) -> None:
        """A whole request has come: begin its stream, or answer a plain GET."""
        body, path = b"".join(connection.body), connection.path.split("?")[0]
        if path.endswith("/completions"):
            try:
                asked = json.loads(body)
                stream = self._stream(asked, "/chat/" in path, len(body))
            except (ValueError, TypeError, AttributeError):
                self._reply(connection, 400, {"error": {"message": "the body is no request", "code": 400}})
                return
            connection.stream = stream
            self._active[connection.socket.fileno()] = connection
        elif path == "/v1/models":
            self._reply(connection, 200, {"object": "list", "data": [
                {"id": MODEL, "object": "model", "created": 0, "owned_by": "workbook", "max_model_len": 1 << 20}]})
        elif path == "/truth":
            self._reply(connection, 200, {"requests": self._finished, "step_lateness_s": self._lateness})
            self._finished, self._lateness = [], []
        else:
            self._reply(connection, 200 if path == "/health" else 404, {})

    def _stream(self, asked: dict, chat: bool, size: int) -> Stream:
        options = asked.get("stream_options") or {}
        tokens = int(asked.get("max_completion_tokens") or asked.get("max_tokens") or 16)
        return Stream(time.monotonic(), max(1, tokens), chat, bool(asked.get("stream")),
                      bool(options.get("continuous_usage_stats")), max(1, size // 4), max(1, self.prefill_steps))

    def _reply(self, connection: Connection, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self._write(connection, head.encode() + data)

    # ---------------------------------------------------------------- steps

    def _step(self) -> None:
        for connection in list(self._active.values()):
            stream = connection.stream
            if stream.wait > 1:
                stream.wait -= 1
                continue
            try:
                self._send_tokens(connection, stream)
            except OSError:
                self._close(connection)

    def _send_tokens(self, connection: Connection, stream: Stream) -> None:
        count = min(self.tokens_per_chunk, stream.tokens - stream.sent)
        opening = b""
        if stream.first is None and stream.streamed:
            opening = (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                       b"Transfer-Encoding: chunked\r\n\r\n" + (_framed(_event(stream, "", 0.0)) if stream.chat else b""))
        text = "".join(WORDS[(stream.sent + i) % len(WORDS)] for i in range(count))
        stream.sent += count
        ended = stream.sent == stream.tokens
        now = time.monotonic()
        stream.first, stream.last = stream.first or now, now
        if stream.streamed:
            data = opening + _framed(_event(stream, text, now, '"length"' if ended else "null"))
            self._write(connection, data + _framed(_usage(stream)) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n" if ended else data)
        else:
            stream.text += text
        if ended:
            del self._active[connection.socket.fileno()]
            connection.stream = None
            self._finished.append(stream.truth())
            if not stream.streamed:
                self._reply(connection, 200, _whole(stream))


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(stream: Stream, text: str, now: float, finish: str = "null") -> bytes:
    """One chunk as vLLM writes it. Words need no JSON escapes, so that a template is enough."""
    if stream.chat:
        role = "" if stream.first else '"role":"assistant",'
        choice = f'"delta":{{{role}"content":"{text}"}}'
    else:
        choice = f'"text":"{text}"'
    usage = (f',"usage":{{"prompt_tokens":{stream.prompt_tokens},"total_tokens":{stream.prompt_tokens + stream.sent},'
             f'"completion_tokens":{stream.sent}}}') if stream.with_usage else ""
    kind = "chat.completion.chunk" if stream.chat else "text_completion"
    return (f'data: {{"id":"cmpl-0123456789abcdef","object":"{kind}","created":1750000000,"model":"{MODEL}",'
            f'"choices":[{{"index":0,{choice},"logprobs":null,"finish_reason":{finish},"token_ids":null}}]'
            f'{usage},"sent_at":{now:.6f}}}\n\n').encode()


def _counts(stream: Stream) -> dict:
    return {"prompt_tokens": stream.prompt_tokens, "total_tokens": stream.prompt_tokens + stream.sent,
            "completion_tokens": stream.sent}


def _usage(stream: Stream) -> bytes:
    return b"data: " + json.dumps({"id": "cmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 0,
                                   "model": MODEL, "choices": [], "usage": _counts(stream)}).encode() + b"\n\n"


def _whole(stream: Stream) -> dict:
    content = {"message": {"role": "assistant", "content": stream.text}} if stream.chat else {"text": stream.text}
    return {"id": "cmpl-0123456789abcdef", "created": 0, "model": MODEL, "usage": _counts(stream),
            "object": "chat.completion" if stream.chat else "text_completion",
            "choices": [{"index": 0, "finish_reason": "length"} | content]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lib.metronome", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--step-ms", type=float, default=5.0, help="length of an engine step")
    parser.add_argument("--schedule", help="a JSON file with a list of step lengths in seconds, in place of --step-ms")
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    parser.add_argument("--prefill-steps", type=int, default=1, help="steps until a request's first token")
    parser.add_argument("--cpu", type=int, help="the processor to run on")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input is closed")
    asked = parser.parse_args()
    if asked.cpu is not None:
        os.sched_setaffinity(0, {asked.cpu})
    steps = json.load(open(asked.schedule)) if asked.schedule else [asked.step_ms / 1000]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    metronome = Metronome(steps, asked.tokens_per_chunk, asked.prefill_steps, asked.port)
    print(metronome.url, flush=True)
    try:
        metronome.run(sys.stdin.fileno() if asked.until_eof else None)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
