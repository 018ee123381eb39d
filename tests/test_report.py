"""The report is made from files alone, shows what is missing, and lets nothing in them act."""
import math

import pytest
from bs4 import BeautifulSoup

from lib import hiding, report, rundir
from lib.errors import UserError
from lib.rundir import RunDir
from lib.stats import Estimate

HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x.png onerror=alert(1)>"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "OUTPUTS", tmp_path)
    return RunDir("some-run")


def publish(run, figure_id="s.ttft.mean", name="TTFT, mean", verdict="valid", **more):
    run.publish(figure_id, name, Estimate(12.345, 11.9, 12.8, 40), "ms", verdict, "02_single_request", "s", **more)


def test_a_figure_stands_with_interval_sample_size_and_verdict(run):
    publish(run, headline=True)
    text = report.as_text(report.build(run))
    assert all(word in text for word in ("12.35 ms", "11.9", "12.8", "n = 40", "valid"))


def test_a_headline_has_the_physical_limit_beside_it_where_one_was_held_against_that_very_figure(run):
    for name, value in (("TTFT", 20.0), ("whole time", 300.0)):
        run.publish(f"s.{name}.mean", f"{name}, mean", Estimate(value, value - 1, value + 1, 40), "ms", "valid", "02_single_request", "s", headline=True)
    for series, first in (("another", 8.0), ("s", 20.0)):
        run.publish(f"limit.{series}.share", "TTFT, of the limit", Estimate(100 * 0.8 / first, 3.9, 4.1, 40), "%", "valid", "02_single_request", series, table="limits")
        run.publish(f"limit.{series}.limit", "TTFT, limit", Estimate(0.8, math.nan, math.nan, 40), "ms", "valid", "02_single_request", series, table="limits")
    first, whole = BeautifulSoup(report.build(run).read_text(), "html.parser").select(".card")
    assert "Single request: TTFT, mean" in first.text and "4 % of the limit (0.8 ms)" in " ".join(first.text.split())
    assert "limit" not in whole.text


def test_figures_entered_together_are_all_there_in_their_order_even_where_something_fails(run):
    publish(run, "a")
    with pytest.raises(UserError), run.together():
        publish(run, "b", name="an old name")
        with run.together():
            publish(run, "c")
        publish(run, "b", name="a new name")
        assert list(run.figures()) == ["a"], "written at the end"
        raise UserError("the next cannot be computed")
    publish(run, "d")
    assert list(run.figures()) == ["a", "b", "c", "d"] and run.figures()["b"]["name"] == "a new name"


def test_what_must_not_be_seen_is_hidden_in_a_figure_that_is_added(run, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "k-hidden-4711")
    hiding.learn()
    publish(run, "a", name="asked with k-hidden-4711")
    with run.together():
        publish(run, "b", name="k-hidden-4711 again")
    text = (run.path / "figures.json").read_text()
    assert "4711" not in text and text.count("***") == 2


def test_no_line_breaks_within_a_unit_or_an_interval_and_a_long_remark_does_not_widen_the_table(run):
    run.publish("s.ttft.mean", "TTFT, mean", Estimate(12.345, 11.9, 12.8, 40, 12.6), "ms", "valid", "02_single_request", "s", headline=True)
    page = BeautifulSoup(report.build(run).read_text(), "html.parser")
    assert [part.text for part in page.select(".card .whole")] == ["11.9 to 12.8;", "n = 40"] and page.select_one(".card b").text == "12.35 ms"
    assert page.select_one("td.n .words").text == "as good as 13 independent"
    rules = page.style.text
    assert ".card b, .whole { white-space: nowrap; }" in rules and "td.n .words { white-space: normal;" in rules


def test_what_is_doubtful_is_listed_with_its_reason(run):
    publish(run, verdict="errors: 3 of 40 requests failed")
    text = report.as_text(report.build(run))
    assert "errors: 3 of 40" in text.split("What not to trust")[1]


def test_a_series_that_was_cut_short_says_so_beside_its_figures(run):
    """Its notebook is done: it ended in good order."""
    publish(run)
    run.enter_series("s", {"mishap": f"series s: the notebook's time was over {HOSTILE}", "shape": "1 stream"})
    assert f"Series s: the notebook's time was over {HOSTILE}." in report.as_text(report.build(run))


def test_an_empty_run_gives_a_report_that_says_so(run):
    assert "holds no figures" in report.as_text(report.build(run))


def test_a_run_whose_figures_are_all_of_the_second_rank_is_not_called_empty(run):
    """As 06_tuning's are where no configuration was shown to be better."""
    publish(run, headline=False)
    text = report.as_text(report.build(run))
    assert "holds no figures" not in text and "No headlines here: this run's figures (1)" in text


def test_a_notebook_that_did_not_run_is_shown_as_such(run):
    run.update_info(notebooks={"02_single_request": {"status": "not run"}})
    assert "not run" in report.as_text(report.build(run))


def test_markup_in_a_run_is_text_in_the_report(run):
    publish(run, name=f"{HOSTILE}, mean", verdict=HOSTILE)
    run.update_info(model=HOSTILE, note=HOSTILE, facts={HOSTILE: HOSTILE}, command=HOSTILE,
                    notebooks={"02_single_request": {"status": "failed", "error": HOSTILE}})
    page = report.build(run)
    source = page.read_text()
    assert "<script" not in source and "<img src=http" not in source and report.loads_from_elsewhere(page) == []


def test_the_check_for_foreign_resources_finds_them(tmp_path):
    page = tmp_path / "x.html"
    page.write_text('<a href="https://ok.example">x</a><script src="https://a.example/x.js"></script>'
                    '<link rel=x href="http://b.example"><style>a{background:url(https://c.example)}</style>')
    assert report.loads_from_elsewhere(page) == ["https://a.example/x.js", "http://b.example", "https://c.example"]


def test_a_figure_is_entered_once_and_replaced_whole(run):
    publish(run)
    publish(run, verdict="errors: 1 of 1 requests failed")
    assert list(run.figures()) == ["s.ttft.mean"] and run.figures()["s.ttft.mean"]["verdict"].startswith("errors")


def test_an_earlier_series_of_that_name_is_kept(run):
    for content in ("first", "second", "third"):
        run.new_requests_file("s").write_text(content)
    kept = sorted(p.read_text() for p in (run.path / "requests").iterdir())
    assert kept == ["first", "second", "third"] and run.requests_file("s").read_text() == "third"


def test_a_damaged_file_and_an_unknown_run_are_told(run):
    (run.path / "figures.json").write_text("{torn")
    with pytest.raises(UserError, match="figures.json in run some-run is damaged"):
        report.build(run)
    with pytest.raises(UserError, match="no run 'other'"):
        rundir.find("other")


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", ".hidden", "a b", "ä"])
def test_a_run_name_cannot_leave_outputs(name):
    with pytest.raises(UserError, match="not usable"):
        RunDir(name)
