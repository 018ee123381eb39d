"""The laws hold for a load of known times, and are broken where a measurement is wrong."""
import numpy as np
import pandas as pd
import pytest

from lib import metrics, plots_load, queueing, records, search
from lib.records import Record
from lib.series import Series
from lib.shapes import Closed

TOKENS = 10


def closed(streams: int, each_s: float = 0.2, idle_s: float = 0.0, rounds: int = 40) -> Series:
    """`streams` users, each of whom asks again `idle_s` after an answer that took `each_s`."""
    rows = []
    for k in range(streams):
        for i in range(rounds):
            at = k * 0.013 + i * (each_s + idle_s)
            reads = [[each_s * (j + 1) / TOKENS, 1] for j in range(TOKENS)]
            rows.append(Record("s", k * 1000 + i, "measure", at, at + reads[0][0], at + each_s, at + each_s, reads,
                               output_tokens=TOKENS))
    frame = metrics.per_request(records.to_frame(rows))
    window = metrics.steady_window(frame, streams)
    return Series("s", metrics.mark_steady(frame, window), str(Closed(streams)), window, streams=streams)


@pytest.mark.parametrize("streams", [1, 3, 8])
def test_both_laws_hold_where_every_stream_is_busy(streams):
    row = queueing.laws(closed(streams), streams, TOKENS)
    assert row["in_flight_seen"] == pytest.approx(streams, rel=0.001)
    assert row["in_flight"] == pytest.approx(streams, rel=row["error"] + 0.01)
    assert row["throughput"] == pytest.approx(streams * TOKENS / 0.2)
    assert queueing.broken(pd.DataFrame([row])).empty


def test_a_client_that_lets_its_streams_idle_breaks_the_law():
    series = closed(4, idle_s=0.05)
    series.window = (series.frame["sent"].min() + 0.1, series.frame["done"].max() - 0.5)
    series.frame = metrics.mark_steady(series.frame, series.window)
    series.__post_init__()
    assert len(queueing.broken(pd.DataFrame([queueing.laws(series, 4, TOKENS)]))) == 1


def test_the_articles_own_table_obeys_the_law():
    table = queueing.article()
    assert (table.index * 100 / table["total_ms"] * 1000).to_numpy() == pytest.approx(table["throughput_tps"].to_numpy(), rel=0.01)


def test_efficiency_is_against_the_lowest_rung():
    rows = queueing.scaling(pd.DataFrame({"streams": [2, 4, 8], "throughput_tps": [100.0, 150.0, 150.0]}))
    assert rows["efficiency"].tolist() == [1.0, 0.75, 0.375] and rows["step"].tolist()[1:] == [0.5, 0.0]


def test_where_more_users_stop_paying_is_said_in_words_and_numbers():
    rungs = pd.DataFrame({"streams": [1, 2, 4, 8], "throughput_tps": [100.0, 190.0, 300.0, 306.0], "total_ms": [10.0, 11, 14, 27]})
    words = search.stops_paying(rungs)
    assert "stop paying at 4" in words and "+2%" in words and "1.93 times" in words
    assert "had not bent" in search.stops_paying(rungs.head(3))


def test_doubts_are_gathered_by_their_kind():
    words = search.doubts([closed(1, rounds=3), closed(2, rounds=3), closed(4)])
    assert "too few samples** (2: closed loop, 1 in flight / closed loop, 2 in flight)" in words
    assert search.doubts([closed(4)]) == "Nothing speaks against any of these series."


def test_targets_below_what_one_user_sees_are_refused_in_one_line():
    alone = closed(1)
    assert search.out_of_reach(alone, 1.0, 1.0) is None
    assert "cannot be met" in search.out_of_reach(alone, 0.001, 1.0) and "\n" not in search.out_of_reach(alone, 1.0, 0.0001)


def test_tables_and_plots_take_levels_that_hold_nothing():
    rungs = pd.DataFrame([{"streams": n} | search.row(closed(n, rounds=rounds)) for n, rounds in ((1, 40), (2, 1), (64, 1))])
    assert rungs["requests"].tolist() == [40, 0, 0] and np.isnan(rungs["total_ms"].iloc[-1])
    assert len(queueing.article_table(rungs)) == len(queueing.scaling_table(rungs)) == 3
    assert "From 1 to 8" in queueing.beside_the_article(rungs)
    plots_load.concurrency(queueing.scaling(rungs), search.knee(rungs)).savefig("/dev/null", format="png")
    plots_load.efficiency(queueing.scaling(rungs)).savefig("/dev/null", format="png")
