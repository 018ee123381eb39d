"""A record says what really happened: tokens, times, and what went wrong."""
import asyncio
import json

import pytest

from lib.client import Client, Request
from lib.records import ERROR_KINDS
from replies import DONE, OK, answering, chunk, event

HELLO = Request([{"role": "user", "content": "hello"}], max_tokens=8)


def ask(*parts, timeout_s=5.0):
    async def once():
        async with answering(*parts) as url, Client(url, None, "m", timeout_s) as client:
            return await client.chat(HELLO, "series", 3)

    return asyncio.run(once())


def body(*events) -> bytes:
    return b"".join(chunk(e) for e in events) + chunk(b"")


def test_tokens_come_from_running_usage_not_from_counting_chunks():
    record = ask(OK, body(event(0), event(1, "a"), event(5, "bcde"), event(6, "f", "length"), DONE))
    assert (record.error, record.output_tokens, record.text, record.finish) == (None, 6, "abcdef", "length")
    assert record.prompt_tokens == 7 and record.status == 200
    assert sum(n for _, n in record.reads) == 6


def test_events_of_one_read_share_one_time():
    record = ask(OK + body(event(1, "a"), event(2, "b"), event(4, "cd"), DONE))
    assert [n for _, n in record.reads] == [4]
    assert record.first == record.last


def test_reads_apart_in_time_are_apart_in_the_record():
    record = ask(OK + chunk(event(1, "a")), 0.2, chunk(event(2, "b")), 0.2, chunk(event(3, "c") + DONE) + chunk(b""))
    assert [n for _, n in record.reads] == [1, 1, 1]
    gaps = [b[0] - a[0] for a, b in zip(record.reads, record.reads[1:])]
    assert all(0.15 < gap < 1.0 for gap in gaps), gaps
    assert record.last - record.first == pytest.approx(sum(gaps), abs=1e-5)


def test_the_clock_starts_when_the_request_is_sent_not_before():
    record = ask(0.3, OK + chunk(event(1, "a") + DONE) + chunk(b""))
    assert record.sent < record.first <= record.last <= record.done
    assert 0.25 < record.first - record.sent < 2.0


@pytest.mark.parametrize("cut", [1, 5, 17, 60, 130])
def test_an_event_cut_anywhere_is_read_whole(cut):
    whole = event(1, "ä图") + event(3, "文字") + DONE
    record = ask(OK, chunk(whole[:cut]), 0.02, chunk(whole[cut:]), chunk(b""))
    assert (record.error, record.output_tokens, record.text) == (None, 3, "ä图文字")


def http_error(status: int) -> bytes:
    reply = json.dumps({"error": {"message": "that is why"}}).encode()
    return f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(reply)}\r\n\r\n".encode() + reply


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_an_http_error_is_a_row_with_its_status_and_is_not_retried(status):
    record = ask(http_error(status))
    assert (record.error, record.status, record.output_tokens) == ("http", status, 0)
    assert "that is why" in record.message


@pytest.mark.parametrize("kind, tokens, parts", [
    ("reset", 0, ["reset"]),
    ("reset", 2, [OK + chunk(event(2, "ab")), 0.05, "reset"]),
    ("reset", 2, [OK + chunk(event(2, "ab"))]),  # half-closed before the body's end
    ("timeout", 0, [3.0]),
    ("timeout", 1, [OK + chunk(event(1, "a")), 3.0]),
    ("stream", 1, [OK + body(event(1, "a"), b'data: {"error": {"message": "engine died", "code": 500}}\n\n', DONE)]),
    ("truncated", 2, [OK + body(event(2, "ab", "length"))]),
    ("garbage", 1, [OK + body(event(1, "a"), b"data: {not json}\n\n", DONE)]),
    ("garbage", 0, [OK + body(b"<html>a proxy's login page</html>\n")]),
    ("garbage", 0, [OK + body(b"data: [1, 2]\n\n", DONE)]),
    ("no_usage", 0, [OK + body(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', DONE)]),
])
def test_a_fault_is_a_row_with_its_kind_and_what_arrived(kind, tokens, parts):
    record = ask(*parts, timeout_s=0.5)
    assert (record.error, record.output_tokens) == (kind, tokens), record.message
    assert record.error in ERROR_KINDS and record.message
    assert record.done is not None and record.index == 3


def test_a_refused_connection_is_a_row():
    async def once():
        async with Client("http://127.0.0.1:9", None, "m") as client:
            return await client.chat(HELLO)

    record = asyncio.run(once())
    assert (record.error, record.sent, record.status) == ("refused", None, None)
    assert record.done is not None


def test_vllm_sends_exactly_the_tokens_that_were_asked_for(server):
    async def once():
        async with server.client() as client:
            return await client.chat(Request(HELLO.messages, max_tokens=33, temperature=0.7, seed=5))

    record = asyncio.run(once())
    assert (record.error, record.output_tokens, record.finish) == (None, 33, "length")
    assert sum(n for _, n in record.reads) == 33
    assert record.sent < record.first < record.last <= record.done


def test_another_call_of_the_same_task_is_none_of_the_records_business():
    reply = json.dumps({"id": "x", "object": "text_completion", "created": 0, "model": "m", "choices": []}).encode()
    plain = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(reply) + reply

    async def once():
        async with answering(plain) as url, Client(url, None, "m", 5) as client:
            await client.chat(HELLO)
            return await client.openai.completions.create(model="m", prompt="a")

    assert asyncio.run(once()).id == "x"


def test_a_connection_is_used_again_and_a_closed_one_is_not():
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
    body_bytes = event(1, "a") + DONE
    seen = []

    async def once():
        async def answer(reader, writer):
            seen.append(0)
            for _ in range(2):  # two answers a connection, then it closes
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(l for l in head.lower().split(b"\r\n") if l.startswith(b"content-length"))
                await reader.readexactly(int(length.split(b":")[1]))
                seen[-1] += 1
                writer.write(whole % len(body_bytes) + body_bytes)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server, Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", None, "m", 5) as client:
            records = []
            for _ in range(5):
                records.append(await client.chat(HELLO))
                await asyncio.sleep(0.02)
            return records

    assert [r.error for r in asyncio.run(once())] == [None] * 5
    assert seen == [2, 2, 1]


def test_a_request_larger_than_the_socket_takes_is_sent_whole_and_the_clock_starts_at_its_end():
    large = Request([{"role": "user", "content": "x" * 8_000_000}], 4)

    async def once():
        async def answer(reader, writer):
            head = await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.3)  # the socket's buffers fill meanwhile
            length = next(l for l in head.lower().split(b"\r\n") if l.startswith(b"content-length"))
            assert len(await reader.readexactly(int(length.split(b":")[1]))) > 8_000_000
            writer.write(OK + body(event(1, "a"), DONE))
            await writer.drain()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=1 << 16)
        async with server, Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", None, "m", 5) as client:
            began = asyncio.get_running_loop().time()
            return began, await client.chat(large)

    began, record = asyncio.run(once())
    assert record.error is None and record.output_tokens == 1
    assert record.sent - began > 0.25 and record.first > record.sent


def test_a_reply_without_a_length_ends_with_its_connection():
    record = ask(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event(1, "a") + DONE)
    assert (record.error, record.output_tokens) == (None, 1)


def test_a_compressed_reply_is_not_believed():
    import gzip
    packed = gzip.compress(event(1, "a") + DONE)
    record = ask(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)
    assert record.error == "garbage"


def test_what_is_no_http_is_a_row():
    assert ask(b"SSH-2.0-OpenSSH_9.2\r\n").error == "reset"


def test_no_key_and_no_prompt_stands_in_a_record():
    record = ask(OK + body(event(1, "a"), DONE))
    assert "hello" not in str({**vars(record), "text": ""})
