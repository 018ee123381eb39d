"""A server is given up on when it is gone, silent or failing, and not sooner; what happened and when is said in a sentence."""
import asyncio
import time

import pandas as pd
import pytest

from lib import asking, bench, health, load, metrics, patience, rundir, time_limit, workloads
from lib.client import Request
from lib.errors import UserError
from lib.fault_proxy import Fault, between
from lib.load import _Watch as Watch
from lib.patience import Patience
from lib.records import Record, to_frame
from lib.server import Server


def ending(errors, streams=1, every_s=1.0) -> tuple[str, int]:
    """What ends a series in which requests end like this, and with which of them."""
    waits = Patience(streams)
    for number, error in enumerate(errors):
        waits.heard(error, 1000 + number * every_s)
        if found := waits.over(1000 + number * every_s):
            return found, number
    return "", len(errors)


@pytest.mark.parametrize("errors, streams, every_s, found", [
    (["refused"] * 30, 1, 1.0, ("gone", 11)),
    ([None] * 5 + ["refused"] * 8 + [None] + ["refused"] * 8, 1, 1.0, ("", 22)),
    ([None, "timeout", "timeout"], 1, 120.0, ("silent", 2)),
    ([None, "timeout", None, "timeout", None], 1, 120.0, ("", 5)),
    (["timeout"] * 7 + [None] + ["timeout"] * 7, 8, 0.0, ("", 15)),
    (["timeout"] * 20, None, 0.0, ("silent", 7)),
    ([None] + ["http"] * 100, 1, 1.0, ("failing", 62)),
    (["http"] * 5, 1, 100.0, ("", 5)),
    (["http", "reset", None] * 100, 1, 1.0, ("", 300)),
])
def test_patience_ends_with_the_fault_that_lasts_and_with_no_other(errors, streams, every_s, found):
    assert ending(errors, streams, every_s) == found


def frame(*rows) -> pd.DataFrame:
    """(second, error) of each request, from now on."""
    began = time.monotonic()
    return to_frame([Record("s", k, sent=began + at, done=began + at + 0.5, error=error, message=error and f"{error} it was")
                     for k, (at, error) in enumerate(rows)])


def test_a_series_that_came_to_its_end_needs_no_words():
    assert patience.sentence("s", frame((0, None), (1, "http")), "") == ""


def test_the_sentence_says_what_and_when_and_what_is_kept():
    told = patience.sentence("s", frame((0, None), (3, None), (4, "reset"), (5, "refused"), (6, "refused")), "")
    clock = time.strftime("%H:%M", time.localtime(time.time() + 3.5))
    assert "series s: the server is gone" in told and f"at {clock}:" in told and "3.5 s after the first request" in told
    assert "2 of 5 requests were answered and are kept; 2 found no connection, 1 broke off (refused it was)" in told
    assert "not one request was answered" in patience.sentence("s", frame((0, "http"), (1, "http")), "")
    assert "time was over" in patience.sentence("s", frame((0, None), (1, "aborted")), "time")
    assert "No request was sent" in patience.sentence("s", to_frame([]), "time")


# -- in a series -------------------------------------------------------------------------------------
def measured(desk, *faults, **options):
    with between(desk.server.url, *faults) as proxy:
        desk.server = type(desk.server)(proxy.url)
        return asyncio.run(desk.measure("s", workloads.Brief(4, 0.0, 1, "s"), 2, quiet=True, **options))


@pytest.fixture
def desk(metronome, run_name):
    return bench.Bench("02_single_request", metronome, rundir.RunDir(run_name))


def test_a_server_that_hangs_ends_the_series_after_one_wait_of_all_streams(desk, monkeypatch):
    monkeypatch.setenv(time_limit.SILENCE, "0.5")
    with pytest.raises(UserError, match="does not answer any more.* 6 of .* requests were answered and are kept; .* waited in vain"):
        measured(desk, Fault("hang", begin=6), count=1000)
    desk.keep_pending()
    figures = desk.run.figures()
    assert figures["s.total.mean"]["value"] > 0 and all("errors" in f["verdict"] for f in figures.values()), "what there is, is kept"
    assert "does not answer" in desk.run.series()["s"]["mishap"]


def test_a_reply_that_never_ends_is_broken_off_when_the_notebooks_time_is_over(desk, monkeypatch):
    monkeypatch.setenv(time_limit.DEADLINE, str(time.monotonic() + 6))
    with pytest.raises(UserError, match="the notebook's time was over.*6 of 8 .*broken off here"):
        measured(desk, Fault("drip", seconds=5.0, begin=6), count=1000)
    with pytest.raises(UserError, match="was not begun"):
        asyncio.run(desk.measure("t", [Request([], 1)]))


def test_a_series_for_which_no_time_is_left_says_so_and_sends_nothing(desk, monkeypatch):
    """It has some when the workers are asked, and none when they are ready."""
    monkeypatch.setenv(time_limit.DEADLINE, str(time.monotonic() + 60))
    monkeypatch.setattr(load, "_Watch", lambda bar, narrow, patience, left_s: Watch(bar, narrow, patience, 0.0))
    with pytest.raises(UserError, match="time was over. No request was sent"):
        measured(desk, count=4)


def test_a_series_wanted_come_what_may_says_it_in_its_own_words(desk, monkeypatch):
    monkeypatch.setattr(load, "GONE_S", 0.5)
    found = measured(desk, Fault("die", seconds=0.0, begin=6), seconds=30, come_what_may=True)
    assert "the server is gone" in found.mishap and metrics.denominators(found.frame)["failed"] > 2


def test_a_server_that_hangs_is_not_asked_every_mistake(metronome, monkeypatch):
    monkeypatch.setenv(time_limit.SILENCE, "0.2")
    with between(metronome.url, Fault("hang")) as proxy:
        mistakes = health.provoke(Server(proxy.url, "m", max_model_len=64))
        asked = proxy.came()
    assert (mistakes["client sees"] == "no answer").sum() == asked == 2 and "not tried" in set(mistakes["client sees"])


def test_questions_one_by_one_are_given_up_on_too(desk, monkeypatch):
    monkeypatch.setenv(time_limit.SILENCE, "0.2")
    with between(desk.server.url, Fault("hang")) as proxy:
        server = Server(proxy.url, "m")
        with pytest.raises(UserError, match="series q: the server does not answer any more.*0 of 2 requests"):
            asyncio.run(asking.ask(desk, "q", asking.openings(20, 3, 0.7, None), server=server))
        assert proxy.came() == 2, "and the others were not put"
