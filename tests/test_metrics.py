"""The figures follow from the rows by the formulas that are printed beside them."""
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import metrics, records
from lib.records import Record


def record(ttft=0.1, gaps=(0.02, 0.02, 0.02), index=0, phase="measure", error=None, tail=0.001, per_read=1):
    """A reply whose reads are `gaps` apart, `per_read` tokens each after the first."""
    times = ttft + np.concatenate([[0], np.cumsum(gaps)])
    counts = [1] + [per_read] * len(gaps)
    sent = 1000.0 + index
    return Record("s", index, phase, sent, sent + times[0], sent + times[-1], sent + times[-1] + tail,
                  [[float(t), n] for t, n in zip(times, counts)], output_tokens=sum(counts), error=error)


def table(*rows):
    return metrics.per_request(records.to_frame(list(rows)))


def test_formulas_on_a_reply_that_is_known():
    row = table(record()).iloc[0]
    assert row["ttft_s"] == pytest.approx(0.1)
    assert row["tpot_s"] == pytest.approx(0.02)
    assert row["decode_tps"] == pytest.approx(50)
    assert row["total_s"] == pytest.approx(0.161)
    assert row["article_tps"] == pytest.approx(4 / 0.161)


@given(st.floats(0.001, 10), st.lists(st.floats(0.0001, 1), min_size=1, max_size=50))
def test_whole_time_is_first_token_plus_the_rest(ttft, gaps):
    row = table(record(ttft, gaps, tail=0.0)).iloc[0]
    assert row["total_s"] == pytest.approx(row["ttft_s"] + (row["output_tokens"] - 1) * row["tpot_s"], rel=1e-6)
    assert row["article_tps"] <= row["output_tokens"] / (row["output_tokens"] - 1) * row["decode_tps"] * (1 + 1e-6)


def test_a_read_with_several_tokens_shares_its_gap_and_is_reported():
    gaps, several = metrics.inter_token(table(record(gaps=[0.04, 0.04], per_read=4)))
    assert gaps == pytest.approx([0.01] * 8)
    assert several == pytest.approx(2 / 3)


def test_a_failed_request_has_no_metrics_and_stays_in_the_denominators():
    frame = table(record(), record(index=1, error="reset"), record(index=2, phase="warmup"))
    assert frame["ttft_s"].notna().tolist() == [True, False, True]
    assert len(metrics.measured(frame)) == 1
    assert metrics.denominators(frame) == {
        "sent": 3, "warm-up": 1, "outside the steady window": 0, "measured": 1, "failed": 1, "failed after the warm-up": 1}


def test_one_token_has_a_first_token_time_and_no_tpot():
    row = table(record(gaps=[])).iloc[0]
    assert row["ttft_s"] == pytest.approx(0.1) and math.isnan(row["tpot_s"]) and math.isnan(row["decode_tps"])


def test_a_series_in_which_everything_failed_does_not_break_the_metrics():
    frame = table(Record("s", 0, error="refused", done=1.0))
    assert metrics.measured(frame).empty
    gaps, several = metrics.inter_token(frame)
    assert len(gaps) == 0 and math.isnan(several)
    assert isinstance(frame, pd.DataFrame)


def test_open_loop_counts_from_the_scheduled_instant_so_that_a_late_client_hides_no_queue():
    late = record()
    late.scheduled = late.sent - 0.5
    assert table(late).iloc[0]["ttft_s"] == pytest.approx(0.6)


def stream(sent, seconds, tokens=10, **more):
    """A reply whose tokens come evenly over `seconds` after `sent`."""
    times = np.linspace(seconds / tokens, seconds, tokens)
    return Record("s", int(sent * 1000), "measure", sent, sent + times[0], sent + times[-1], sent + seconds,
                  [[float(t), 1] for t in times], output_tokens=tokens, **more)


def test_the_steady_window_leaves_start_burst_and_drain_outside():
    frame = table(stream(0.0, 4), stream(1.0, 4), stream(4.0, 4), stream(5.0, 9))
    assert metrics.steady_window(frame, 2) == (1.0, 8.0)
    assert all(math.isnan(t) for t in metrics.steady_window(frame, 4))


def test_throughput_counts_only_what_arrived_inside_the_window():
    frame = table(stream(0.0, 10, 100), stream(5.0, 10, 50, error="reset"))
    rates = metrics.throughput(frame, (5.0, 10.0))
    assert rates.mean() == pytest.approx(15.0, rel=0.05), "10 tokens/s of the one and 5 of the other, which failed later"
    assert len(metrics.throughput(frame, (5.0, 5.0))) == 0


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0.1, 10)), min_size=1, max_size=30, unique_by=lambda s: s[0]),
       st.integers(1, 5))
def test_the_intended_number_is_in_flight_when_the_window_opens(spans, concurrency):
    frame = table(*(stream(sent, length) for sent, length in spans))
    began, ended = metrics.steady_window(frame, concurrency)
    if math.isnan(began):
        assert all(((frame["sent"] <= t) & (frame["done"] > t)).sum() < concurrency for t in frame["sent"])
        return
    assert began <= ended and began in set(frame["sent"]) and ended in set(frame["done"]) | set(frame["sent"])
    assert ((frame["sent"] <= began) & (frame["done"] >= began)).sum() >= concurrency
    assert ((frame["sent"] < began) & (frame["done"] > began)).sum() < concurrency


def test_goodput_needs_both_targets_and_counts_failures_as_missed():
    frame = table(record(0.1), record(0.9, index=1), record(0.1, gaps=(0.5,), index=2), record(0.1, index=3, error="reset"))
    good, due, rate = metrics.goodput(frame, (1000.0, 1004.0), ttft_s=0.5, tpot_s=0.1)
    assert (good, due, rate) == (1, 4, 0.25)
