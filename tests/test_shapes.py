"""Requests are sent when the shape of the load says, the same ones for the same seed."""
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import UserError
from lib.shapes import Closed, Open, Ramp


def first(shape, count, seed=1):
    return np.array(list(itertools.islice(shape.instants(seed), count)))


@pytest.mark.parametrize("shape", [Open(50), Open(50, "constant"), Open(50, "gamma", 0.25), Ramp(10, 90, 20)])
def test_the_same_seed_gives_the_same_instants_and_they_ascend(shape):
    instants = first(shape, 500)
    assert (instants == first(shape, 500)).all() and (np.diff(instants) >= 0).all()


@pytest.mark.parametrize("shape, variation", [
    (Open(50), 1.0), (Open(50, "constant"), 0.0), (Open(50, "gamma", 0.25), 2.0), (Open(50, "gamma", 4), 0.5)])
def test_arrivals_have_the_rate_and_the_burstiness_that_were_asked_for(shape, variation):
    gaps = np.diff(first(shape, 20_000))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.06)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, abs=0.06 * max(variation, 0.01))


def test_a_ramp_has_the_rate_of_each_moment():
    instants = np.concatenate([first(Ramp(10, 90, 100), 5500, seed) for seed in range(20)])
    for moment in (5, 50, 95, 99):
        seen = ((instants > moment - 1) & (instants <= moment + 1)).sum() / 2 / 20
        assert seen == pytest.approx(10 + 0.8 * moment, rel=0.12)


@given(st.integers(1, 500), st.integers(1, 8))
def test_streams_are_shared_out_completely_between_workers(concurrency, parts):
    starts = Closed(concurrency).starts()
    shared = sorted(itertools.chain.from_iterable(starts[i::parts] for i in range(parts)))
    assert shared == sorted(starts) and len(starts) == concurrency and min(starts) == 0


@pytest.mark.parametrize("make", [lambda: Closed(0), lambda: Open(0), lambda: Open(-1), lambda: Open(5, "lognormal"),
                                  lambda: Open(5, "gamma", 0), lambda: Ramp(0, 0, 1), lambda: Ramp(1, 2, 0)])
def test_a_load_that_cannot_be_is_refused_in_one_line(make):
    with pytest.raises(UserError) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_the_last_stream_of_a_closed_loop_begins_before_its_spread_is_over():
    for shape in (Closed(1), Closed(8), Closed(500), Closed(5, stagger_s=3.0)):
        assert max(shape.starts()) < shape.spread_s or shape.spread_s == 0
