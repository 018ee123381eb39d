"""Every request of a plan is sent once and becomes a row; against the metronome, whose truth is known."""
import asyncio
import os
import signal
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import load, metrics, records
from lib.client import Client, Request
from lib.errors import UserError
from lib.shapes import Closed, Open, Ramp
from replies import OK, answering, chunk, event
from series import run


def ask(index: int, tokens: int = 20) -> Request:
    return Request([{"role": "user", "content": f"request {index}"}], tokens, seed=index)


class Endless:
    """A workload without an end; at the module's level, since it travels to the workers."""

    def __getitem__(self, index):
        return ask(index)


class Broken:
    """A workload that fails in the middle, `late` in the following of a conversation."""

    def __init__(self, late: bool):
        self.late = late

    def __getitem__(self, index):
        if index > 5 and not self.late:
            raise RuntimeError("no more ideas")
        return ask(index)

    def follow(self, request, record):
        if self.late:
            raise RuntimeError("no more ideas")


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("shape", [Closed(7), Open(200), Ramp(20, 300, 0.3), 1])
def test_every_request_is_sent_once_and_is_a_row(metronome, tmp_path, shape, processes):
    metronome.truth()
    frame = run(metronome, tmp_path, [ask(i) for i in range(30)], shape, processes=processes, warmup=3)
    assert sorted(frame["index"]) == list(range(30)) and frame["error"].isna().all()
    assert (frame["phase"] == "warmup").sum() == 3 and frame["output_tokens"].eq(20).all()
    true = metronome.truth()["requests"]
    assert len(true) == 30 and sum(t["tokens"] for t in true) == frame["output_tokens"].sum()
    assert len(frame.attrs["client"]) == min(processes, getattr(shape, "concurrency", shape if shape == 1 else 9))


def test_a_closed_loop_never_has_more_in_flight_than_was_asked_for(metronome, tmp_path):
    frame = run(metronome, tmp_path, [ask(i) for i in range(40)], Closed(8, stagger_s=0.1), processes=2)
    instants = np.concatenate([frame["sent"], frame["done"]])
    order = np.lexsort((np.repeat([1, 0], len(frame)), instants))  # an end frees its place before the next begins
    assert np.cumsum(np.repeat([1, -1], len(frame))[order]).max() == 8


def test_an_open_loop_sends_when_it_said_and_counts_from_then(metronome, tmp_path):
    frame = metrics.per_request(run(metronome, tmp_path, [ask(i) for i in range(60)], Open(100, "constant"), seed=3))
    assert np.diff(np.sort(frame["scheduled"])) == pytest.approx(np.full(59, 0.01))
    late = frame["sent"] - frame["scheduled"]
    assert late.min() >= 0, "nothing is sent before its time"
    assert (frame["ttft_s"] - (frame["first"] - frame["sent"])).to_numpy() == pytest.approx(late.to_numpy())


def test_a_series_ends_by_time_and_reads_what_is_in_flight_to_its_end(metronome, tmp_path):
    frame = run(metronome, tmp_path, Endless(), Closed(4), seconds=1.0)
    assert len(frame) > 8 and frame["error"].isna().all() and frame["output_tokens"].eq(20).all()
    assert frame["sent"].max() - frame["sent"].min() < 1.5


def test_a_series_ends_when_its_interval_is_narrow_enough(metronome, tmp_path):
    frame = run(metronome, tmp_path, Endless(), Closed(4), seconds=60, narrow=0.5)
    assert 30 <= len(frame) < 1000


def test_a_series_without_an_end_is_refused(metronome, tmp_path):
    with pytest.raises(UserError, match="would never end"):
        run(metronome, tmp_path, Endless(), 1)


def test_the_same_seed_gives_the_same_requests_byte_for_byte(tmp_path):
    from lib import workloads
    async def bodies(seed):
        async with Client("http://127.0.0.1:9", None, "m") as client:
            return [str(client.body(r)) for r in workloads.explain_ai(20, 10, 0.7, seed)]
    first, again, other = (asyncio.run(bodies(seed)) for seed in (1, 1, 2))
    assert first == again and first != other and len(set(first)) == 20


@given(mean=st.integers(1, 300), vary=st.floats(0, 1), seed=st.integers(0, 9), kind=st.sampled_from(["Brief", "Long"]))
def test_answers_of_unequal_lengths_keep_their_mean_and_come_again_with_their_seed(mean, vary, seed, kind):
    from lib import workloads

    def lengths(vary):
        load = workloads.Brief(mean, 0.7, seed, "p", vary=vary) if kind == "Brief" else workloads.Long(2, mean, 0.7, seed, "p", vary)
        return [load[k].max_tokens for k in range(300)]

    found = lengths(vary)
    assert found == lengths(vary) and lengths(0) == [mean] * 300
    assert 1 <= min(found) and mean * (1 - vary) - 1 <= min(found) and max(found) <= mean * (1 + vary) + 1
    assert abs(sum(found) / 300 - mean) <= 5 * (mean * vary + 1) / (3 * 300) ** 0.5  # five standard errors of a uniform mean


def test_what_reaches_the_server_is_the_same_bytes_each_time(tmp_path):
    heard = []

    async def once():
        async def answer(reader, writer):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            heard.append(head.split(b"\r\n")[0] + await reader.readexactly(int(length.split(b":")[1])))
            writer.close()
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server, Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", None, "m") as client:
            await client.chat(ask(3))

    asyncio.run(once())
    asyncio.run(once())
    assert len(heard) == 2 and heard[0] == heard[1] and b"request 3" in heard[0]


class _Address:
    api_key, model = None, "m"

    def __init__(self, url):
        self.url = url


def test_a_dead_server_gives_a_row_for_each_request_and_an_end(tmp_path):
    frame = run(_Address("http://127.0.0.1:9"), tmp_path, [ask(i) for i in range(12)], Closed(4))
    assert sorted(frame["index"]) == list(range(12)) and frame["error"].eq("refused").all()


def test_a_server_that_breaks_streams_gives_rows_and_throughput_counts_what_arrived(tmp_path):
    async def once():
        async with answering(OK + chunk(event(2, "ab")), 0.02, "reset") as url:
            return await load.run(_Address(url), tmp_path / "s.jsonl", "s", [ask(i) for i in range(6)], 2, quiet=True)

    frame = asyncio.run(once())
    assert frame["error"].eq("reset").all() and frame["output_tokens"].eq(2).all()
    window = frame["sent"].min(), frame["done"].max() + 0.01
    assert metrics.throughput(frame, window).mean() * (window[1] - window[0]) == pytest.approx(12)


def test_breaking_off_keeps_a_row_for_each_request_that_was_sent(metronome, tmp_path):
    async def once():
        task = asyncio.create_task(load.run(
            metronome, tmp_path / "s.jsonl", "s", [ask(i, 100_000) for i in range(50)], Closed(5, 0.1), quiet=True))
        while not (tmp_path / "s.jsonl").exists():  # made when the worker has the plan
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(once())
    frame = records.read(tmp_path / "s.jsonl")
    assert len(frame) == 5 and frame["error"].eq("aborted").all() and (frame["output_tokens"] > 0).all()


def test_a_worker_that_dies_ends_the_series_with_one_line_and_the_rows_stay(metronome, tmp_path):
    async def once():
        task = asyncio.create_task(load.run(metronome, tmp_path / "s.jsonl", "s", Endless(), Closed(4), seconds=30, quiet=True))
        while not ((tmp_path / "s.jsonl").exists() and (tmp_path / "s.jsonl").stat().st_size):
            await asyncio.sleep(0.1)
        os.kill(load.workers(1)[0].process.pid, signal.SIGKILL)
        await task

    with pytest.raises(UserError, match="load worker failed"):
        asyncio.run(once())
    assert len(records.read(tmp_path / "s.jsonl")) > 0


def test_workers_end_when_their_parent_does():
    (worker,) = load.workers(1)
    worker.close()
    load._workers.remove(worker)
    until = time.monotonic() + 10
    while worker.alive() and time.monotonic() < until:
        time.sleep(0.05)
    assert not worker.alive()


@pytest.mark.parametrize("late", [False, True])
def test_a_fault_of_our_own_ends_the_series_with_one_line_and_no_wait(metronome, tmp_path, late):
    with pytest.raises(UserError, match="no more ideas"):
        run(metronome, tmp_path, Broken(late), Closed(3, 0.0), count=20)
