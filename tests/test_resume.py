"""A run that was cut off: nothing that was measured is lost, nothing is measured twice into one series."""
import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from lib import NOTEBOOKS, OUTPUTS, ROOT, cli, finished, hold, plans, records, repeat, report, resume, runner, time_limit
from lib.errors import UserError
from lib.records import Record, Sink
from lib.rundir import RunDir, read_json, write_json
from lib.stats import Estimate

PLAN = {"profile": "smoke", "server": "http://127.0.0.1:9", "notebooks": ["02_single_request", "08_endurance", "09_report"],
        "parameters": {"requests": 10, "seed": 1}, "flags": "", "load": ""}


@pytest.fixture
def cut_off(run_name):
    """A run in which 02 is done and 08 was cut off in the middle of its second series."""
    run = RunDir(run_name)
    run.update_info(plan=PLAN, made_by=repeat.made_by(), seconds=5.0, notebooks={
        "02_single_request": {"status": "done"}, "08_endurance": {"status": "interrupted"}, "09_report": {"status": "not run"}})
    (run.path / "notebooks").mkdir()
    for name, series, rows in (("02_single_request", "single", 3), ("08_endurance", "endurance.first", 2), ("08_endurance", "endurance", 4)):
        run.notebook = name
        shutil.copy(NOTEBOOKS / f"{name}.ipynb", run.path / "notebooks")
        with Sink(run.new_requests_file(series)) as sink:
            for index in range(rows):
                sink.write(Record(series, index, sent=float(index)))
        run.requests_file(series).with_suffix(".telemetry.jsonl").write_text('{"time": 1.0}\n')
        run.publish(f"{series}.x", "X, mean", Estimate(1.0, 0.5, 1.5, rows), "s", "valid", name, series)
        run.enter_series(series, {"shape": "1 stream"})
    with run.requests_file("endurance").open("ab") as file:
        file.write(b'{"series":"endurance","index":4,"se')
    return run


# -- what stays and what is set aside ----------------------------------------------------------------
def test_what_is_done_stays_and_what_was_begun_is_set_aside_whole(cut_off):
    before = {path.name: path.read_bytes() for path in (cut_off.path / "requests").iterdir()}
    again = resume.left(cut_off, PLAN["notebooks"])
    assert again == ["08_endurance", "09_report"]
    found = resume.set_aside(cut_off, again)
    assert found == {"rows": 6, "torn": 1}
    aside = cut_off.path / "aside" / "1" / "requests"
    after = {path.name: path.read_bytes() for folder in (cut_off.path / "requests", aside) for path in folder.iterdir()}
    assert after == before and sorted(p.name for p in aside.glob("*")) == sorted(name for name in before if name.startswith("endurance"))
    assert list(cut_off.figures()) == ["single.x"] and list(cut_off.series()) == ["single"]
    assert list(read_json(cut_off.path / "aside" / "1" / "figures.json", {})) == ["endurance.first.x", "endurance.x"]
    assert not (cut_off.path / "notebooks" / "08_endurance.ipynb").exists() and resume.set_aside(cut_off, again) == found, "done twice"
    cut_off.update_info(attempts=[{"at": "now", "kept": ["02_single_request"], "again": again}], aside=found)
    assert "6 rows of what was cut off are kept in aside/" in report.as_text(report.build(cut_off))
    assert resume.words(cut_off.info())[1].endswith("no figure; 1 more line is torn, because the writer was cut off.")


@pytest.mark.parametrize("gone", ["notebooks/02_single_request.ipynb", "requests/single.jsonl"])
def test_a_notebook_that_was_done_and_whose_files_are_gone_is_run_again(cut_off, gone):
    (cut_off.path / gone).unlink()
    assert resume.left(cut_off, PLAN["notebooks"]) == PLAN["notebooks"]


def test_a_series_whose_name_begins_like_another_is_not_set_aside_with_it(cut_off):
    cut_off.notebook = "02_single_request"
    cut_off.new_requests_file("endurance.first.of-02").write_text('{"index": 0}\n')
    resume.set_aside(cut_off, ["08_endurance"])
    assert cut_off.requests_file("endurance.first.of-02").exists()


def test_half_a_file_of_a_killed_process_is_removed(cut_off):
    (cut_off.path / ".figures.json.1-1.part").write_text("{")
    resume.set_aside(cut_off, ["08_endurance"])
    assert not list(cut_off.path.rglob("*.part"))


# -- files -------------------------------------------------------------------------------------------
def test_a_full_disk_leaves_a_json_file_as_it_was(tmp_path, monkeypatch):
    write_json(tmp_path / "x.json", {"a": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError):
        write_json(tmp_path / "x.json", {"a": 2})
    assert read_json(tmp_path / "x.json", None) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["x.json"]


class Full:
    """A file on a disk that takes so many bytes more; then none."""

    def __init__(self, file, room: int):
        self.file, self.room = file, room

    def write(self, data) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self.file.write(bytes(data[:self.room]))
        self.room -= taken
        return taken

    def fileno(self) -> int:
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()


def test_a_line_that_the_disk_took_half_of_is_told_and_spoils_no_other(tmp_path, caplog):
    path = tmp_path / "s.jsonl"
    with Sink(path) as sink:
        sink.write(Record("s", 0, sent=0.0))
        sink._file = Full(sink._file, 40)
        with pytest.raises(OSError, match="No space left"):
            sink.write(Record("s", 1, sent=1.0))
        sink._file.room = 10_000
        sink.write(Record("s", 2, sent=2.0))
    with Sink(path) as sink:
        sink.write(Record("s", 3, sent=3.0))
    frame = records.read(path)
    assert frame["index"].tolist() == [0, 2, 3] and frame.attrs["torn_lines"] == 1
    assert caplog.messages == ["s.jsonl: a line is torn: whoever wrote it was cut off; left out, and 3 whole ones are kept"]


def test_notebooks_that_publish_at_once_lose_no_figure(run_name):
    def publish(part: int):
        run = RunDir(run_name)  # as two kernels have it: each its own
        for number in range(20):
            run.publish(f"{part}-{number}", "X, mean", Estimate(1.0, 0.5, 1.5, 3), "s", "valid", "02_single_request", "s")

    writers = [threading.Thread(target=publish, args=(part,)) for part in range(3)]
    [writer.start() for writer in writers]
    [writer.join() for writer in writers]
    assert len(RunDir(run_name).figures()) == 60


# -- one run at a time -------------------------------------------------------------------------------
def test_a_run_folder_is_held_as_long_as_a_child_of_the_run_lives(run_name):
    folder = RunDir(run_name).path
    with hold.hold(folder):
        assert hold.inherited()
        child = subprocess.Popen(["sleep", "60"], pass_fds=hold.inherited())
    try:
        assert not hold.inherited()
        with pytest.raises(UserError, match=f"run {run_name} is still at work"), hold.hold(folder, patience_s=0.2):
            pass
    finally:
        child.kill()
        child.wait()
    with hold.hold(folder, patience_s=0.2):
        pass


def test_of_two_runs_of_one_name_that_begin_at_once_the_second_is_refused(run_name, monkeypatch):
    @contextlib.contextmanager
    def held(folder):  # as when the other one was the first to have it, and has ended
        RunDir(run_name).update_info(plan=PLAN)
        yield

    monkeypatch.setattr(hold, "hold", held)
    with pytest.raises(UserError, match="exists: choose another"):
        runner.run(plans.make("smoke", "http://127.0.0.1:9", [], {}, name=run_name))


# -- bad input ---------------------------------------------------------------------------------------
def one_line(arguments, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", ["workbook", "run", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert end.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def changed(**entries):
    return lambda run: run.update_info(**entries)


COMPLETE = {name: {"status": "done"} for name in ("02_single_request",)}
BAD = {
    "complete": (changed(plan=PLAN | {"notebooks": ["02_single_request"]}, notebooks=COMPLETE, ended="now"), [], "is complete"),
    "another version": (lambda run: run.update_info(made_by=repeat.made_by() | {"code": "0123"}), [], "code 0123, and this is"),
    "another vLLM": (lambda run: run.update_info(made_by=repeat.made_by() | {"packages": {}}), [], "other packages"),
    "before there was a plan": (changed(plan=None, command="workbook run 02"), [], "its command was: workbook run 02"),
    "no run at all": (lambda run: (run.path / "run.json").unlink(), [], "does not say what was asked"),
    "damaged": (lambda run: (run.path / "run.json").write_text('{"plan": {'), [], "run.json in run"),
    "a list": (lambda run: (run.path / "run.json").write_text("[]"), [], "is damaged"),
    "half a plan": (changed(plan={"profile": "smoke"}), [], "its plan is not one"),
    "no states": (changed(notebooks=[]), [], "what became of its notebooks"),
    "a notebook of hands": (changed(plan=PLAN | {"notebooks": ["../x"]}), [], "no notebook"),
    "other parameters": (None, ["-p", "requests", "11"], "requests 10, not 11"),
    "a parameter more": (None, ["-p", "max_tokens", "5"], "max_tokens 'by default', not 5"),
    "another profile": (None, ["--profile", "quick"], "profile 'smoke', not 'quick'"),
    "other notebooks": (None, ["03"], "notebooks ["),
    "other flags": (None, ["--flags", "--enforce-eager"], "flags '', not '--enforce-eager'"),
    "a name": (None, ["--name", "other"], "leave --name out"),
    "no server": (None, [], "nothing answers"),
}


def test_where_only_the_report_is_left_no_server_is_started(cut_off, monkeypatch):
    monkeypatch.setattr(runner.launch, "open_server", lambda *asked: pytest.fail("a server was started"))
    cut_off.update_info(notebooks={name: {"status": "done"} for name in PLAN["notebooks"][:2]} | {"09_report": {"status": "not run"}})
    plan = plans.Plan("smoke", "embedded", ["09_report"], PLAN["parameters"], name=cut_off.name, resumed=True)
    assert "server" not in plan.announced()
    runner._measure(plan, cut_off, contextlib.ExitStack())
    assert cut_off.info()["notebooks"]["09_report"]["status"] == "done", cut_off.info()["notebooks"]


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_gone_on_with_is_told_in_one_line(case, cut_off, monkeypatch, capsys):
    spoil, more, words = BAD[case]
    if spoil:
        spoil(cut_off)
    assert words in one_line(["--resume", cut_off.name, *more], monkeypatch, capsys)
    assert cut_off.requests_file("single").read_bytes().count(b"\n") == 3


def test_a_run_that_does_not_exist_is_told(monkeypatch, capsys):
    assert "there is no run 'nowhere'" in one_line(["--resume", "nowhere"], monkeypatch, capsys)
    assert "there is no run 'nowhere'" in one_line(["--like", "nowhere"], monkeypatch, capsys)


def test_another_server_or_machine_is_not_mixed_into_a_run(cut_off):
    facts = {"model": "m", "server": "vLLM 0.32.0, started here in 20.1 s", "GPU": "NVIDIA T4, 14.0 GiB free"}
    repeat.same_server(cut_off, facts | {"server": "vLLM 0.32.0, started here in 31 s", "GPU": "NVIDIA T4, 2 GiB free"}, facts)
    for name, value in (("model", "n"), ("server", "vLLM 0.31.0, started here in 20 s"), ("GPU", "NVIDIA A10, 14.0 GiB free")):
        with pytest.raises(UserError, match=f"measured another {name}"):
            repeat.same_server(cut_off, facts | {name: value}, facts)


# -- made again --------------------------------------------------------------------------------------
def test_a_run_made_again_is_asked_the_same_and_compared_with_the_first(cut_off, run_name, monkeypatch, capsys):
    asked, compared = [], []
    monkeypatch.setattr(runner, "run", lambda todo: (asked.append(todo), (RunDir(run_name + "-2"), True))[1])
    monkeypatch.setattr(cli, "_compared", compared.append)
    monkeypatch.setattr(finished, "open_run", lambda word: cut_off)  # it is not whole enough to be compared
    monkeypatch.setattr(sys, "argv", ["workbook", "run", "--like", run_name, "--server", "http://127.0.0.1:10"])
    try:
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0 and (asked[0].notebooks, asked[0].parameters) == (PLAN["notebooks"], PLAN["parameters"])
        assert asked[0].server == "http://127.0.0.1:10" and asked[0].like == run_name and asked[0].name != run_name
        assert compared == [[str(cut_off.path), str(OUTPUTS / f"{run_name}-2")]]
    finally:
        shutil.rmtree(OUTPUTS / f"{run_name}-2", ignore_errors=True)
    assert "leave out parameters" in one_line(["--like", run_name, "-p", "requests", "5"], monkeypatch, capsys)


def test_the_minutes_of_a_run_are_repeated_with_it_and_counted_anew_where_it_is_gone_on_with(cut_off, run_name, monkeypatch):
    asked = []
    monkeypatch.setattr(runner, "run", lambda todo: (asked.append(todo), (cut_off, True))[1])
    monkeypatch.setattr(report, "shown", lambda path: path.name)
    monkeypatch.setattr(cli, "_compared", lambda runs: None)
    monkeypatch.setattr(finished, "open_run", lambda word: cut_off)
    cut_off.update_info(plan=PLAN | {"within": 20.0})
    began = time.monotonic()
    for words in (["--like", run_name], ["--like", run_name, "--within", "7"], ["--resume", run_name], ["--resume", run_name, "--within", "7"]):
        monkeypatch.setattr(sys, "argv", ["workbook", "run", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
    assert [todo.within.minutes for todo in asked] == [20.0, 7.0, None, 7.0]
    assert all(began <= todo.within.began <= time.monotonic() for todo in asked)


def test_the_minutes_are_noted_in_the_plan_the_command_and_the_attempt(cut_off, run_name):
    again_s = time_limit.Within(12.5)
    todo = plans.Plan("smoke", "http://127.0.0.1:9", ["09_report"], {}, within=again_s, name=run_name, resumed=True)
    runner._note(todo, cut_off)
    assert cut_off.info()["attempts"][-1]["within"] == 12.5 and cut_off.info()["plan"] == PLAN, "what was asked at first stays"
    todo.resumed = False
    runner._note(todo, cut_off)
    assert repeat.plan_of(cut_off)["within"] == 12.5 and "--within 12.5" in cut_off.info()["command"]
    todo.within = time_limit.Within()
    runner._note(todo, cut_off)
    assert repeat.plan_of(cut_off)["within"] is None and "--within" not in cut_off.info()["command"]


@pytest.mark.parametrize("minutes", [0, -1, "20", True, None, float("inf"), float("nan")])
def test_minutes_in_run_json_that_are_none_are_damage(cut_off, minutes):
    cut_off.update_info(plan=PLAN | {"within": minutes})
    with pytest.raises(UserError, match="is damaged"):
        repeat.plan_of(cut_off)


def test_no_key_is_in_a_plan():
    asked = repeat.asked("smoke", "embedded", [], {}, "--api-key s3cret --max-model-len 512 --api-key=other", "")
    assert asked["flags"] == "--max-model-len 512"


# -- the soak ----------------------------------------------------------------------------------------
def test_runs_cut_off_twenty_times_lose_nothing():
    """tests/soak.py, as two runs side by side that are cut off ten times each, against a stand-in server."""
    soaks = [subprocess.Popen([sys.executable, ROOT / "tests" / "soak.py", "--kills", "10", "--seed", str(seed)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True) for seed in (1, 2)]
    for soak in soaks:
        said = soak.communicate(timeout=600)[0]
        assert soak.returncode == 0 and "10 kills of 1 runs" in said, said[-3000:]
