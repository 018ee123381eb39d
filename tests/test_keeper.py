"""A run's server is kept going between the notebooks, once, and what happened to it is written down."""
import pytest

from lib import keeper
from lib.errors import UserError
from lib.keeper import Keeper
from lib.rundir import RunDir
from lib.server import Server


class Process:
    """A server's process that is alive, or ended with a code."""

    def __init__(self, code=None):
        self._code, self.stopped = code, False

    def alive(self):
        return self._code is None

    def code(self):
        return self._code

    def stop(self):
        self.stopped, self._code = True, self._code or 143


@pytest.fixture
def folder(run_name):
    run = RunDir(run_name)
    run.update_info(notebooks={"02": {"status": "failed"}, "03": {"status": "failed"}, "04": {"status": "done"}})
    return run


def served(code=None, log=None) -> Server:
    return Server("http://127.0.0.1:9", "a model", log=log, process=Process(code))


def told(folder) -> list[str]:
    return [event["what"] for event in folder.info().get("events", [])]


def test_a_server_of_ours_that_died_is_started_again_once_with_its_reason_and_its_log_kept(folder):
    log = folder.path / "server.log"
    log.write_text("ValueError: planted in the log\n")
    starts = iter([served(1, log)])
    kept = Keeper(served(1, log), folder, lambda: next(starts))
    assert kept.server("02").process.code() == 1, "the second one"
    assert (folder.path / "server.older-1.log").exists() and not log.exists()
    log.write_text("nothing to be seen")
    assert kept.server("03").process.code() == 1, "and no third"
    first, second = told(folder)
    assert "status 1" in first and "planted in the log" in first and "was started again, once" in first
    assert "the second time in this run" in second
    assert [event["notebook"] for event in folder.info()["events"]] == ["02", "03"] and folder.info()["events"][0]["at"]


def test_a_server_that_was_killed_is_not_blamed_on_a_line_of_its_log(folder):
    (log := folder.path / "server.log").write_text("WARNING: OSError: planted, and of no account\n")
    Keeper(served(137, log), folder, served).server("02")
    assert "the server ended (signal 9) and was started again" in told(folder)[0]


def test_a_server_of_ours_that_hangs_is_stopped_and_started_again(folder, monkeypatch):
    monkeypatch.setattr(keeper, "answers", lambda server: False)
    hung, again = served(), served()
    kept = Keeper(hung, folder, lambda: again)
    assert kept.server("04") is hung, "after a notebook that went well nobody asks"
    assert kept.server("02") is again and hung.process.stopped and "did not answer" in told(folder)[0]


def test_a_server_that_does_not_start_again_is_said_so_and_the_run_goes_on(folder):
    def fails():
        raise UserError("the port is taken")

    kept = Keeper(gone := served(1), folder, fails)
    assert kept.server("02") is gone and "does not start again: the port is taken" in told(folder)[0]


@pytest.mark.parametrize("comes_back", [True, False])
def test_somebody_elses_server_is_waited_for_once(folder, monkeypatch, comes_back):
    asked = []
    monkeypatch.setattr(keeper, "answers", lambda server: asked.append(server) or (comes_back and len(asked) > 2))
    monkeypatch.setattr(keeper, "BACK_S", 0.0 if not comes_back else 60.0)
    kept = Keeper(Server("http://127.0.0.1:9", "m"), folder, None)
    kept.server("02")
    asked_once = len(asked)
    kept.server("03")
    assert len(told(folder)) == 1 and ("answered again" in told(folder)[0]) == comes_back
    assert asked_once >= 2 and len(asked) <= asked_once + 1


def test_a_server_that_is_well_is_let_be(folder):
    assert Keeper(good := served(), folder, None).server("") is good and told(folder) == []
