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
        "sent": 3, "warm-up": 1, "measured": 1, "failed": 1, "failed after the warm-up": 1}


def test_one_token_has_a_first_token_time_and_no_tpot():
    row = table(record(gaps=[])).iloc[0]
    assert row["ttft_s"] == pytest.approx(0.1) and math.isnan(row["tpot_s"]) and math.isnan(row["decode_tps"])


def test_a_series_in_which_everything_failed_does_not_break_the_metrics():
    frame = table(Record("s", 0, error="refused", done=1.0))
    assert metrics.measured(frame).empty
    gaps, several = metrics.inter_token(frame)
    assert len(gaps) == 0 and math.isnan(several)
    assert isinstance(frame, pd.DataFrame)
