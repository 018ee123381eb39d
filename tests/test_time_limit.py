"""A notebook ends within its time: the limit is wide of every good run, and a cell that hangs is ended with a sentence."""
import time

import nbformat
import pytest

from lib import OUTPUTS, runner, time_limit
from lib.errors import UserError
from lib.rundir import RunDir


def test_the_limit_is_wide_of_the_plan_and_grows_with_what_the_plan_does_not_heed():
    limit = time_limit.limit_s
    assert limit(60.0, {}, {}, {}) == 5 * 60 + 300
    assert limit(60.0, {"pictures": 20}, {"pictures": 500}, {}) == 5 * 60 * 25 + 300
    assert limit(60.0, {"pictures": 20}, {"pictures": 500}, {"pictures": 1}) == 600, "the plan has it already"
    assert limit(60.0, {"talk_seconds": 0}, {"talk_seconds": 600}, {}) == 5 * 660 + 300
    assert limit(60.0, {"levels": [1]}, {"levels": [1, 2]}, {}) == 900 and limit(60.0, {"seed": 1}, {"seed": 99}, {}) == 600
    assert limit(None, {}, {}, {}) > 3600


def test_every_notebook_of_every_profile_has_a_limit_far_beyond_its_plan():
    for profile in ("smoke", "quick", "hour"):
        todo = runner.plan(profile, "http://127.0.0.1:9", [], {})
        assert all(todo.limit_s(name) >= 5 * seconds + 300 for name, seconds in todo.schedule().steps)


def test_six_configurations_in_two_rounds_have_time_for_all_of_them():
    profile = runner.load_profile("smoke")
    takes = profile.pop("takes")
    usual, more = (runner.Plan("smoke", "embedded", ["06_tuning"], profile | asked, takes=takes).limit_s("06_tuning") - 300 for asked in (
        {}, {"configurations": ["cpu"], "tuning_rounds": 2}))
    assert usual == 5 * 165 and more == 4 * usual, "twice the configurations, twice"


@pytest.mark.parametrize("told, found", [("0", None), ("10", 900.0), ("", 600.0)])
def test_the_user_may_widen_it_or_do_without(monkeypatch, told, found):
    monkeypatch.setenv(time_limit.WIDER, told)
    assert time_limit.limit_s(60.0, {}, {}, {}) == found


def test_a_factor_that_is_none_is_one_line(monkeypatch):
    monkeypatch.setenv(time_limit.WIDER, "long")
    with pytest.raises(UserError, match="must be a number"):
        time_limit.limit_s(60.0, {}, {}, {})


@pytest.mark.parametrize("hangs", ["time.sleep(600)", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"])
def test_a_cell_that_hangs_is_ended_and_said_so(run_name, tmp_path, monkeypatch, hangs):
    """The second does not heed the interruption: its kernel is ended."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import time; print('measured')"), nbformat.v4.new_code_cell(hangs)])
    nbformat.write(book, tmp_path / "01_hangs.ipynb")
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(runner, "declared_parameters", lambda name: {})
    monkeypatch.setattr(time_limit, "GRACE_S", 0.0)
    monkeypatch.setattr(time_limit, "KILL_S", 1.0)
    began = time.monotonic()
    runner._execute(RunDir(run_name), "01_hangs", {}, "", 3.0)
    assert time.monotonic() - began < 60
    state = RunDir(run_name).info()["notebooks"]["01_hangs"]
    assert state["status"] == "failed" and "its time of 3 s was over at" in state["error"] and time_limit.WIDER in state["error"]
    assert "measured" in (OUTPUTS / run_name / "notebooks" / "01_hangs.ipynb").read_text()
