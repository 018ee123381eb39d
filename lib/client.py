"""One streamed request through the `openai` package -> one record.

Token counts come from the running usage that vLLM puts into every chunk, never from counting chunks: a
token that adds no text makes no chunk, and one chunk may carry several tokens.
"""
import json
import time
from dataclasses import dataclass, field

import httpx2
import openai

from lib.records import Record
from lib.transport import StampingTransport, Stamps, stamps


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
        self.openai = openai.AsyncOpenAI(
            base_url=base_url.rstrip("/") + "/v1",
            api_key=api_key or "none",
            max_retries=0,  # a retry would hide a failure and spoil the clock
            timeout=timeout_s,
            http_client=httpx2.AsyncClient(transport=StampingTransport(), timeout=timeout_s),
        )

    async def chat(self, request: Request, series: str = "", index: int = 0, phase: str = "measure") -> Record:
        """Send one request and read its whole reply. Never raises for what server or network do."""
        record = Record(series, index, phase, requested_tokens=request.max_tokens)
        now = Stamps()
        stamps.set(now)
        extra_body = {"ignore_eos": True} if request.fixed_length else {}
        try:
            async with self.openai.chat.completions.with_streaming_response.create(
                model=self.model,
                messages=request.messages,
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                seed=request.seed,
                stream=True,
                stream_options={"include_usage": True, "continuous_usage_stats": True},
                extra_body=extra_body | request.extra,
            ) as response:
                record.sent, record.status = now.wrote, response.status_code
                reply = _Reply(record)
                async for data in response.iter_bytes():
                    reply.feed(data, now.read)
                reply.end()
        except openai.APIStatusError as error:
            record.status = error.status_code
            _fail(record, "http", f"HTTP {error.status_code}: {server_message(error)}")
        except (openai.APITimeoutError, httpx2.TimeoutException):
            _fail(record, "timeout", "silence for longer than the time limit")
        except (openai.APIConnectionError, httpx2.TransportError) as error:
            cause = error.__cause__ or error
            _fail(record, "refused" if isinstance(cause, httpx2.ConnectError) else "reset", repr(cause))
        record.done = time.monotonic()
        record.sent = record.sent if record.sent is not None else now.wrote
        record.reads = [[round(t - record.sent, 6), n] for t, n in record.reads]
        return record

    async def close(self) -> None:
        await self.openai.close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()


class _Reply:
    """Server-sent events -> the fields of a record."""

    def __init__(self, record: Record):
        self._record = record
        self._rest = b""
        self._ended = False
        self._usage_seen = False

    def feed(self, data: bytes, read_at: float) -> None:
        """`data`: bytes of the body, cut anywhere; `read_at`: when the socket's read returned them."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            line = line.strip()
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), read_at)
            elif line and not line.startswith(b":") and b":" not in line[:8]:
                _fail(self._record, "garbage", line[:200].decode("utf-8", "replace"))

    def _event(self, payload: bytes, read_at: float) -> None:
        record = self._record
        if payload == b"[DONE]":
            self._ended = True
            return
        try:
            event = json.loads(payload)
            if event.get("error"):
                _fail(record, "stream", _text_of(event["error"]))
                return
            for choice in event.get("choices") or ():
                record.text += (choice.get("delta") or {}).get("content") or ""
                record.finish = choice.get("finish_reason") or record.finish
            usage = event.get("usage") or {}
            total = usage.get("completion_tokens")
            record.prompt_tokens = usage.get("prompt_tokens", record.prompt_tokens)
        except (ValueError, AttributeError, TypeError):
            _fail(record, "garbage", payload[:200].decode("utf-8", "replace"))
            return
        if isinstance(total, int):
            self._usage_seen = True
            self._count(total, read_at)

    def _count(self, total: int, read_at: float) -> None:
        record = self._record
        new = total - record.output_tokens
        if new <= 0:
            return
        record.output_tokens = total
        record.first = record.first if record.first is not None else read_at
        record.last = read_at
        if record.reads and record.reads[-1][0] == read_at:
            record.reads[-1][1] += new  # the same read brought several events
        else:
            record.reads.append([read_at, new])

    def end(self) -> None:
        if not self._ended:
            _fail(self._record, "truncated", "the stream ended without [DONE]")
        elif not self._usage_seen:
            _fail(self._record, "no_usage", "no chunk carried a usage field")


def _fail(record: Record, kind: str, message: str) -> None:
    """The first fault is kept: what follows it is its consequence."""
    if record.error is None:
        record.error, record.message = kind, message[:500]


def server_message(error: openai.APIStatusError) -> str:
    """What the server itself said; openai's own words where it said nothing."""
    return _text_of(error.body.get("error", error.body) if isinstance(error.body, dict) else error.body or error.message)


def _text_of(error) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
