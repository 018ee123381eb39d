"""A stand-in that answers every request with bytes written by the test: for faults and splits that vLLM
cannot be made to show. Its timing says nothing about any server."""
import asyncio
import contextlib
import json

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(tokens: int, text: str = "", finish: str | None = None, **extra) -> bytes:
    """One chat chunk with its running usage, as vLLM writes it."""
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}],
             "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}} | extra
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    """A part of a body in chunked transfer encoding; an empty one ends it."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@contextlib.asynccontextmanager
async def answering(*parts, needs_body=True):
    """Yields the URL of a server that answers each request with `parts`, in order: bytes are written, a float
    is slept, "reset" breaks the connection and ends it. `needs_body`: wait for the request's body first."""

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if needs_body:
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
            await reader.readexactly(int(lengths[0].split(b":")[1]))
        for part in parts:
            if part == "reset":
                writer.transport.abort()
                return
            if isinstance(part, float):
                await asyncio.sleep(part)
            else:
                writer.write(part)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
