"""A search finds the load at which a server of known capacity bends."""
import asyncio

import numpy as np
import pytest

from lib import metrics, records, search
from lib.records import Record
from lib.series import Series
from lib.shapes import Closed, Open

CAPACITY = 40.0  # requests/s of the imagined server
TOKENS, STEP_S = 10, 0.01


async def server_of_known_capacity(shape):
    """A series as an ideal server would give it: a queue beyond CAPACITY, else 50 ms to the first token."""
    rng, rows = np.random.default_rng(1), []
    if isinstance(shape, Open):
        instants = np.cumsum(rng.exponential(1 / shape.rate, 300))
        free = 0.0
        for i, at in enumerate(instants):
            free = max(free, at) + 1 / CAPACITY
            rows.append(reply(i, at, free - at + 0.05))
    else:
        each = max(0.15, shape.concurrency / CAPACITY)  # seconds a request
        for k in range(shape.concurrency):
            rows += [reply(k * 1000 + i, k * 0.001 + i * each, each - 0.1) for i in range(20)]
    frame = metrics.per_request(records.to_frame(rows))
    window = metrics.steady_window(frame, getattr(shape, "concurrency", None))
    return Series("s", metrics.mark_steady(frame, window), str(shape), window)


def reply(index, at, ttft):
    reads = [[ttft + i * STEP_S, 1] for i in range(TOKENS)]
    end = at + ttft + (TOKENS - 1) * STEP_S
    return Record("s", index, "measure", at, at + ttft, end, end, reads, output_tokens=TOKENS)


def test_the_best_rate_is_found_to_the_precision_that_was_asked_for():
    for start in (2.0, 500.0):
        best, tried = asyncio.run(search.best_rate(server_of_known_capacity, 0.3, 0.05, start, precision=0.1))
        assert 0.6 * CAPACITY < best <= CAPACITY * 1.05, tried
        assert tried["rate"].max() > best and not tried.loc[tried["rate"].idxmax(), "holds"]


def test_a_target_that_no_rate_meets_gives_zero_and_an_end():
    best, tried = asyncio.run(search.best_rate(server_of_known_capacity, 0.001, 0.05, 8.0, most=5))
    assert best == 0.0 and len(tried) == 5 and not tried["holds"].any()


def test_a_queue_that_grows_is_seen_even_when_its_waits_meet_the_target():
    assert search.queue_grows(asyncio.run(server_of_known_capacity(Open(CAPACITY * 2))))
    assert not search.queue_grows(asyncio.run(server_of_known_capacity(Open(CAPACITY / 4))))


def test_the_knee_is_where_more_streams_bring_no_more_tokens():
    rungs = asyncio.run(search.ladder(server_of_known_capacity, [1, 2, 4, 8, 16, 32]))
    assert search.knee(rungs) == 8
    assert rungs["throughput_tps"].max() == pytest.approx(CAPACITY * TOKENS, rel=0.15)


def test_a_ladder_that_still_rises_has_no_knee():
    assert search.knee(asyncio.run(search.ladder(server_of_known_capacity, [1, 2, 4]))) is None


def test_series_that_were_measured_before_narrow_the_search_and_are_not_measured_again():
    asked = []

    async def measure(shape):
        asked.append(shape.rate)
        return await server_of_known_capacity(shape)

    async def both():
        earlier = {rate: await server_of_known_capacity(Open(rate)) for rate in (20.0, 60.0)}
        return await search.best_rate(measure, 0.3, 0.05, 5.0, earlier=earlier, most=2)

    best, tried = asyncio.run(both())
    assert len(tried) == 4 and len(asked) == 2 and all(20 < rate < 60 for rate in asked) and 20 <= best < 60


def test_every_load_of_a_notebook_has_prompts_of_its_own():
    names, prompts = [], []

    class Desk:
        async def measure(self, name, workload, shape, **options):
            names.append(name)
            prompts.extend(workload[i].messages[0]["content"] for i in range(50))
            return await server_of_known_capacity(shape)

    measure = search.Measuring(Desk(), "concurrency", 10, 0.7, 1, 5.0)
    asyncio.run(search.ladder(measure, [1, 2], most=4))
    asyncio.run(measure(Open(3.0)))
    assert names == ["concurrency.1", "concurrency.2", "concurrency.4", "concurrency.open-3"]
    assert len(set(prompts)) == len(prompts) == 200
    assert list(measure.series)[0] == Closed(1)
