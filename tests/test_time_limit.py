"""A notebook ends within its time: the limit is wide of every good run, and a cell that hangs is ended with a sentence."""
import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import OUTPUTS, ROOT, catalog, cli, execution, launch, plans, report, runner, time_limit, tuning_run
from lib.errors import OutOfTime, UserError
from lib.rundir import RunDir
from lib.server import Server
from lib.time_limit import Limit, Within, share_s


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
        todo = plans.make(profile, "http://127.0.0.1:9", [], {})
        assert all(todo.limit_s(name) >= 5 * seconds + 300 for name, seconds in todo.schedule().steps)


def test_six_configurations_in_two_rounds_have_time_for_all_of_them():
    profile = catalog.load_profile("smoke")
    takes = profile.pop("takes")
    usual, more = (plans.Plan("smoke", "embedded", ["06_tuning"], profile | asked, takes=takes).limit_s("06_tuning") - 300 for asked in (
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
    monkeypatch.setattr(catalog, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(catalog, "declared_parameters", lambda name: {})
    monkeypatch.setattr(time_limit, "GRACE_S", 0.0)
    monkeypatch.setattr(time_limit, "KILL_S", 1.0)
    execution.execute(RunDir(run_name), "01_hangs", {}, "", Limit(3.0))
    state = RunDir(run_name).info()["notebooks"]["01_hangs"]
    assert state["status"] == "failed" and "its time of 3 s was over at" in state["error"] and time_limit.WIDER in state["error"]
    assert "measured" in (OUTPUTS / run_name / "notebooks" / "01_hangs.ipynb").read_text()


# -- the minutes of a whole run (--within) -----------------------------------------------------------
STEPS = [("00_setup", 20.0), ("06_tuning", 300.0), ("08_endurance", 40.0), ("09_report", 5.0)]
KEPT_S = time_limit.GRACE_S + time_limit.KILL_S + time_limit.ENDING_S


def within(seconds: float) -> Within:
    """A run that has so many seconds left."""
    return Within(60.0, time.monotonic() - 3600 + seconds)


def test_a_kernel_that_ends_by_itself_just_then_keeps_none_of_the_others_alive(monkeypatch):
    ended, hanging = (subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({s})"]) for s in (0, 600))
    kernels = [psutil.Process(p.pid) for p in (ended, hanging)]
    ended.wait()
    monkeypatch.setattr(time_limit, "_kernels", lambda: kernels)
    monkeypatch.setattr(time_limit, "KILL_S", 1.0)
    dog = time_limit.Watchdog()
    try:
        dog.watch(time.monotonic())
        assert dog.bitten and hanging.wait(60) != 0, "it was told to end"
    finally:
        hanging.kill()


def test_a_notebook_has_what_those_after_it_are_not_expected_to_take():
    left_s = KEPT_S + 1000
    assert share_s(left_s, "00_setup", STEPS) == 1000 - 345 and share_s(left_s, "06_tuning", STEPS) == 1000 - 45
    assert share_s(left_s, "08_endurance", STEPS) == 995 and share_s(left_s, "09_report", STEPS) == 1000


def test_where_it_is_too_little_for_all_the_last_are_cut_short_and_not_the_first():
    left_s = KEPT_S + 345
    assert share_s(left_s, "00_setup", STEPS) == 40, "amply what is expected, since no plan is exact"
    assert share_s(left_s - 20, "06_tuning", STEPS) == 320
    assert share_s(left_s - 320, "08_endurance", STEPS) == 20, "not what the report needs"
    assert share_s(left_s - 335, "08_endurance", STEPS) == 0, "its kernel would hardly begin"
    assert share_s(-1000.0, "09_report", STEPS) == 5, "which is always run"


@given(left_s=st.floats(KEPT_S + 5, 4000), used=st.lists(st.floats(0, 1), min_size=4, max_size=4), expected=st.lists(st.floats(0, 900), min_size=3, max_size=3))
def test_however_long_the_notebooks_take_the_run_ends_in_time(left_s, used, expected):
    steps = [(name, seconds) for (name, _), seconds in zip(STEPS, expected)] + STEPS[3:]
    for (name, _), part in zip(steps[:3], used):
        if share := share_s(left_s, name, steps):
            left_s -= part * (share + time_limit.GRACE_S + time_limit.KILL_S)  # at the longest it does not heed its end and is killed
    assert left_s - 5.0 >= time_limit.ENDING_S - 1e-6, "the report and the end still have their time"


def test_the_smaller_limit_counts_and_nobodys_minutes_are_no_limit():
    assert Within().limit(600.0, "00_setup", STEPS) == Limit(600.0) and Within().limit(None, "00_setup", STEPS) == Limit()
    assert within(3000).limit(600.0, "06_tuning", STEPS) == Limit(600.0)
    for own_s in (600.0, None):  # None: WORKBOOK_TIME_FACTOR=0
        limit = within(KEPT_S + 445).limit(own_s, "06_tuning", STEPS)
        assert limit.seconds == pytest.approx(440, abs=1) and limit.minutes == 60 and limit.lasts
    assert not within(60).limit(600.0, "06_tuning", STEPS).lasts


def test_what_will_not_fit_is_one_line_before_anything_starts():
    assert within(KEPT_S + 500).shortage(100.0, STEPS) == [] == Within().shortage(100.0, STEPS)
    told, = within(KEPT_S + 445).shortage(100.0, STEPS)
    assert "08_endurance will be cut short" in told and "06_tuning" not in told and "\n" not in told
    told, = within(KEPT_S + 230).shortage(100.0, STEPS)
    assert "06_tuning will be cut short; 08_endurance will be left out" in told and "00_setup" not in told and "09_report" not in told
    todo = plans.make("hour", "embedded", [], {})
    todo.within = Within(5)
    assert "left out" in todo.announced().splitlines()[-1] and "08_endurance" in todo.announced().splitlines()[-1]


def test_a_server_has_until_nothing_is_left_to_measure_it():
    assert within(KEPT_S + 105).for_a_server(STEPS).seconds == pytest.approx(100, abs=1)
    assert within(10).for_a_server(STEPS).seconds == 0 and Within().for_a_server(STEPS) == Limit()


def test_a_start_that_the_runs_time_does_not_last_for_is_given_up_and_says_why(tmp_path):
    alive = type("Alive", (), {"alive": lambda self: True})()
    with time_limit.known(within(10).for_a_server(STEPS)), pytest.raises(OutOfTime, match="the time for it was over .*--within 60"):
        launch._await_answer(alive, "http://127.0.0.1:9", "", tmp_path / "server.log", "a model", time.monotonic())
    assert time_limit.left_s() is None


def test_who_is_cut_short_by_the_runs_minutes_is_told_of_them_and_not_of_its_own_limit(monkeypatch):
    assert "--within 25" in Limit(400.0, 25.0).over("12:00:00", "there") and time_limit.WIDER not in Limit(400.0, 25.0).over("12:00:00", "there")
    todo = tuning_run.Tuning(None, [], None, "embedded", rows=[{"name": "baseline"}])
    with time_limit.known(Limit(400.0, 25.0)):
        tuning_run._end_early(todo, ["eager"])
    assert "**Ended early** after 1 start" in todo.ended and "--within 25" in todo.ended
    with time_limit.known(Limit(400.0)):
        assert time_limit.WIDER in time_limit.longer()


def test_what_there_is_no_time_for_is_left_out_without_a_server_and_the_report_says_so(run_name, monkeypatch):
    asked, ran = [], []
    kept = type("Kept", (), {"server": lambda self, last, made_room=False: asked.append(last) or Server("http://127.0.0.1:9", "m")})
    monkeypatch.setattr(runner, "Keeper", lambda *given: kept())
    monkeypatch.setattr(runner.launch, "open_server", lambda *given: contextlib.nullcontext(Server("http://127.0.0.1:9", "m")))
    monkeypatch.setattr(runner.bench, "describe", lambda server: {"facts": {}})
    monkeypatch.setattr(execution.papermill, "execute_notebook", lambda source, target, **options: ran.append(shutil.copy(source, target)))
    monkeypatch.setattr(RunDir, "make_latest", lambda self: None)
    todo = plans.make("smoke", "http://127.0.0.1:9", ["02", "09", "08"], {}, name=run_name)
    todo.within = Within(0.5)
    folder, well = runner.run(todo)
    states = folder.info()["notebooks"]
    assert not well and [Path(page).name for page in ran] == ["09_report.ipynb"] and asked == [] and states["09_report"]["status"] == "done"
    assert all(states[name] == Limit(0.0, 0.5).left_out() for name in ("02_single_request", "08_endurance"))
    assert "left out for lack of time: the run was to end within 0.5 minutes" in report.as_text(folder.path / "report.html")


def test_where_the_server_is_not_up_in_time_the_report_says_so(run_name, monkeypatch, capsys):
    """It loads for ever, as a large model may."""
    stopped = []
    loads = type("Loads", (), {"pid": 0, "alive": lambda self: True, "stop": lambda self: stopped.append(self)})
    monkeypatch.setattr(launch, "GuardedProcess", lambda *given: loads())
    monkeypatch.setattr(execution.papermill, "execute_notebook", lambda source, target, **options: shutil.copy(source, target))
    monkeypatch.setattr(sys, "argv", ["workbook", "run", "02", "09", "--server", "embedded", "--within", "0.5", "--name", run_name])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told, states = capsys.readouterr(), RunDir(run_name).info()["notebooks"]
    assert end.value.code == 1 and len(stopped) == 1
    assert states["02_single_request"] == Limit(0.0, 0.5).left_out() and states["09_report"]["status"] == "done"
    why = "vLLM gave no answer within"
    assert why in report.as_text(OUTPUTS / run_name / "report.html") and why in told.err and "--within 0.5" in told.err
    assert f"`workbook run --resume {run_name}` goes on with it" in told.err and f"outputs/{run_name}/report.html" in told.out


def test_a_real_run_is_ended_by_its_minutes_with_what_it_has(as_user, run_name, monkeypatch, capsys):
    """A slow machine may not come to the long series of 08 in them; where it does, that ends in good order."""
    monkeypatch.setattr(sys, "argv", ["workbook", "run", "08", "02", "09", "--within", "2.2", "--name", run_name,
                                      "-p", "endurance_seconds", "600"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told, run = capsys.readouterr(), RunDir(run_name)
    states, figures, text = run.info()["notebooks"], run.figures(), report.as_text(run.path / "report.html")
    assert end.value.code == 1 and f"`workbook run --resume {run_name}` goes on with it" in told.err
    assert "08_endurance will be cut short; 02_single_request will be left out" in told.out
    assert "the notebook's time was over" in text and "left out for lack of time" in text
    assert states["02_single_request"]["status"] == "not run" and states["09_report"]["status"] == "done"
    if run.requests_file("endurance").exists():
        assert states["08_endurance"]["status"] == "done" and any(id.startswith("endurance.") for id in figures), states
        assert "Series endurance: the notebook's time was over" in text


def test_on_a_lent_gpu_the_run_ends_by_itself_before_it_is_interrupted(tmp_path):
    """scripts/gpu_run.sh, with an interpreter that notes what it is asked to run."""
    (fake := tmp_path / "python").write_text(
        f'#!/bin/sh\ncase "$1" in -c) exec {sys.executable} "$@";; -m) echo "$@" > {tmp_path}/asked;; *) cat > /dev/null;; esac\n')
    fake.chmod(0o755)
    (log := tmp_path / "timeout").write_text(f'#!/bin/sh\necho "$5" > {tmp_path}/interrupted\nshift 5\nexec "$@"\n')
    log.chmod(0o755)
    subprocess.run([ROOT / "scripts" / "gpu_run.sh", tmp_path / "out", "1500", "02"], check=False, capture_output=True, timeout=60,
                   env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": str(fake)})
    asked = (tmp_path / "asked").read_text().split()
    minutes, interrupted_s = float(asked[asked.index("--within") + 1]), float((tmp_path / "interrupted").read_text())
    assert 60 * minutes == pytest.approx(interrupted_s - 15, abs=1) and asked[-1] == "02"
