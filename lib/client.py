"""One streamed request through the `openai` package -> one record.

Token counts come from the running usage that vLLM puts into every chunk, never from counting chunks: a
token that adds no text makes no chunk, and one chunk may carry several tokens.
"""
import time
from dataclasses import dataclass, field

import httpx2
import msgspec
import numpy as np
import openai

from lib import hiding
from lib.exchange import Aborted, Exchange, current
from lib.records import Record
from lib.transport import StampingTransport


LONGEST_LINE = 4 * 1024 * 1024  # bytes
ROOM, ROOM_PER_TOKEN = 16 * 1024 * 1024, 64 * 1024  # bytes of a reply: in any case, and for each token that was asked for
MOST_TOKENS = 10**9  # in a usage; a number that no model has counted to
CONNECT_S = 10.0  # for a connection that is made before the clock starts


@dataclass
class Request:
    """One chat request, made before the clock starts."""

    messages: list
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    fixed_length: bool = True  # ignore the end-of-text token: exactly max_tokens come out
    extra: dict = field(default_factory=dict)  # further fields of the request body


class Client:
    """Talks to one server. `timeout_s` is the longest silence that is waited out."""

    def __init__(self, base_url: str, api_key: str | None, model: str, timeout_s: float = 120.0):
        self.model = model
        hiding.learn(base_url, api_key)
        self._transport = StampingTransport()
        self.turns = self._transport.turns
        self.openai = openai.AsyncOpenAI(
            base_url=base_url.rstrip("/") + "/v1",
            api_key=api_key or "none",
            max_retries=0,  # a retry would hide a failure and spoil the clock
            timeout=timeout_s,
            http_client=httpx2.AsyncClient(transport=self._transport, timeout=timeout_s),
            default_headers={"Accept-Encoding": "identity"},  # a compressed stream hides its tokens' times
        )

    async def connect(self, count: int) -> None:
        """Have `count` connections at hand, so that making them is in no figure. Raises httpx2.TransportError."""
        await self._transport.connect(self.openai.base_url, count, CONNECT_S)

    async def chat(self, request: Request, series: str = "", index: int = 0, phase: str = "measure",
                   exchange: Exchange | None = None) -> Record:
        """Send one request and read its whole reply. Never raises for what server or network do.

        `exchange`: how a load driver lets a request go that has been built before (see lib.exchange).
        """
        record = Record(series, index, phase, requested_tokens=request.max_tokens)
        exchange = exchange or Exchange()
        token = current.set(exchange)
        reply = _Reply(record, exchange)
        exchange.on_body = reply.feed
        try:
            # openai's general call: its typed one walks every parameter in Python, 0.3 ms a request.
            response = await self.openai.post("/chat/completions", cast_to=httpx2.Response, body=self.body(request))
            if "content-encoding" in response.headers:
                _fail(record, "garbage", f"the reply is compressed ({response.headers['content-encoding']}), "
                      "so that its tokens cannot be told apart: turn compression off in the proxy")
            reply.end()
        except openai.APIStatusError as error:
            _fail(record, "http", f"HTTP {error.status_code}: {server_message(error)}")
        except (openai.APIConnectionError, httpx2.TransportError) as error:
            _fail(record, *network_fault(error))
        finally:
            current.reset(token)  # other calls of this task are none of ours
        record.status, record.sent = exchange.status, exchange.sent
        record.done = exchange.ended or time.monotonic()
        reply.close()
        return record

    def body(self, request: Request) -> dict:
        """What is sent as JSON: the same request gives the same bytes."""
        body = {"model": self.model, "messages": request.messages, "max_tokens": request.max_tokens,
                "temperature": request.temperature, "stream": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        if request.seed is not None:
            body["seed"] = request.seed
        if request.fixed_length:
            body["ignore_eos"] = True
        return body | request.extra

    async def close(self) -> None:
        await self.openai.close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct, gc=False):
    """The fields of a chunk that are read; the rest is skipped over."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: object = None
    sent_at: float | None = None  # the metronome's


_decode = msgspec.json.Decoder(_Chunk).decode


class _Reply:
    """Server-sent events -> the fields of a record.

    Bytes may be fed in any pieces: an event came with the read of `exchange` that brought its last byte.
    """

    def __init__(self, record: Record, exchange: Exchange):
        self._record, self._read_at, self._read_to = record, exchange.read_at, exchange.read_to
        self._exchange, self._most = exchange, ROOM + ROOM_PER_TOKEN * (record.requested_tokens or 0)
        self._rest, self._offset, self._read = b"", 0, 0
        self._texts: list[str] = []
        self._times: list[float] = []
        self._counts: list[int] = []
        self._sent_at: list[float] = []
        self._ended = self._usage_seen = False

    def feed(self, data: bytes) -> None:
        if self._exchange.size > self._most or len(self._rest) > LONGEST_LINE:  # what is kept would grow without end
            self._rest = b""
            _fail(self._record, "garbage", f"more than the {self._most:,} bytes that such a reply can have, or a line without end")
            self._exchange.break_off()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._offset += len(line) + 1
            self._line(line)

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._event(line[5:].strip())
        elif (line := line.strip()) and not line.startswith(b":") and b":" not in line[:8]:
            _fail(self._record, "garbage", line[:200].decode("utf-8", "replace"))

    def _event(self, payload: bytes) -> None:
        record = self._record
        if payload == b"[DONE]":
            self._ended = True
            return
        try:
            chunk = _decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            _fail(record, "garbage", payload[:200].decode("utf-8", "replace"))
            return
        if chunk.error:
            _fail(record, "stream", _text_of(chunk.error))
            return
        for choice in chunk.choices or ():
            if choice.delta and choice.delta.content:
                self._texts.append(choice.delta.content)
            if choice.finish_reason:
                record.finish = choice.finish_reason[:60]
        if (usage := chunk.usage) is None or usage.completion_tokens is None:
            return
        if not (0 <= usage.completion_tokens <= MOST_TOKENS and 0 <= (usage.prompt_tokens or 0) <= MOST_TOKENS):
            _fail(record, "garbage", f"a usage of {usage.prompt_tokens} and {usage.completion_tokens} tokens")
            return
        self._usage_seen = True
        record.prompt_tokens = usage.prompt_tokens
        if usage.completion_tokens > record.output_tokens:
            self._count(usage.completion_tokens - record.output_tokens, chunk.sent_at)

    def _count(self, new: int, sent_at: float | None) -> None:
        while self._read_to[self._read] < self._offset and self._read < len(self._read_to) - 1:
            self._read += 1
        read_at = self._read_at[self._read]
        self._record.output_tokens += new
        if self._times and self._times[-1] == read_at:
            self._counts[-1] += new  # the same read brought several events
            return
        self._times.append(read_at)
        self._counts.append(new)
        if sent_at is not None:
            self._sent_at.append(sent_at)

    def end(self) -> None:
        """The body is complete."""
        if self._rest:
            self._line(self._rest)
        if not self._ended:
            _fail(self._record, "truncated", "the stream ended without [DONE]")
        elif not self._usage_seen:
            _fail(self._record, "no_usage", "no chunk carried a usage field")

    def close(self) -> None:
        """Fill in what the record holds of the whole reply, as far as it came."""
        record = self._record
        record.text = hiding.hide("".join(self._texts))
        if self._times:
            record.first, record.last = self._times[0], self._times[-1]
            record.reads = list(zip(_since(record.sent, self._times), self._counts))
            record.sent_at = _since(record.sent, self._sent_at)


def _since(zero: float, times: list) -> list[float]:
    return np.round(np.array(times) - zero, 6).tolist()


def _fail(record: Record, kind: str, message: str) -> None:
    """The first fault is kept: what follows it is its consequence."""
    if record.error is None:
        record.error, record.message = kind, hiding.hide(message[:5000])[:500]


def network_fault(error: Exception) -> tuple[str, str]:
    """Kind and message of what openai or httpx2 raised."""
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else error
    if isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return "refused", repr(cause)
    if isinstance(cause, Aborted):
        return "aborted", "broken off by the client: the series was stopped"
    if isinstance(cause, httpx2.TimeoutException):
        return "timeout", "silence for longer than the time limit"
    return "reset", repr(cause)


def server_message(error: openai.APIStatusError) -> str:
    """What the server itself said; openai's own words where it said nothing."""
    return _text_of(error.body.get("error", error.body) if isinstance(error.body, dict) else error.body or error.message)


def _text_of(error) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
