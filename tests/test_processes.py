"""Whatever ends a run, no process is left behind.

Real vLLM is killed while it starts, and stopped while it serves. The other two cases take a stand-in that starts at once: an engine
of vLLM's name, whose parent is asked to end before it, and lib.metronome in place of the API server.
"""
import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from conftest import own_run
from lib import OUTPUTS, ROOT

LIMIT_S = 300  # for what hangs: two vLLMs start beside each other
STAND_IN = """
import shutil, subprocess, sys, time
subprocess.Popen(["VLLM::EngineCore", "600"], executable=shutil.which("sleep"))
time.sleep(2)
from lib.metronome import Metronome
Metronome([0.02], port=int(sys.argv[sys.argv.index("--port") + 1])).run()
"""


def stand_in(folder: Path) -> Path:
    """A folder with a package that is found as vllm."""
    for module in ("openai/api_server.py", "cli/main.py"):
        file = folder / "vllm" / "entrypoints" / module
        file.parent.mkdir(parents=True)
        file.write_text(STAND_IN)
        for package in (file.parents[2], file.parents[1], file.parent):
            (package / "__init__.py").touch()  # without it, Python goes on looking and finds the vLLM that is installed
    return folder


def start(run_name: str, instead: str = "") -> psutil.Popen:
    """`workbook run` with a server of its own, as a terminal would start it. instead: a folder with another vllm."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("WORKBOOK_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [instead, os.environ.get("PYTHONPATH")]))
    return psutil.Popen([sys.executable, "-m", "lib.cli", "run", "01", "--server", "embedded", "--name", run_name],
                        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def living(family: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def await_(condition, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_S} s: {what}"
        time.sleep(0.2)


def vllm_has_workers(runner: psutil.Popen, run_name: str) -> bool:
    """vLLM names its processes; the engine's exists once the first one has read its flags."""
    return any(" ".join(p.cmdline()).startswith("VLLM::") for p in living(runner.children(recursive=True)))


def a_request_is_recorded(runner: psutil.Popen, run_name: str) -> bool:
    rows = OUTPUTS / run_name / "requests" / "health.jsonl"
    return rows.exists() and rows.stat().st_size > 0


CASES = [(vllm_has_workers, signal.SIGKILL, True), (a_request_is_recorded, signal.SIGINT, True),
         (vllm_has_workers, signal.SIGINT, False), (a_request_is_recorded, signal.SIGKILL, False)]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What came of each case. Two go on at a time: most of each is one import after the other."""
    vllm = stand_in(tmp_path_factory.mktemp("stand-in"))
    with contextlib.ExitStack() as inside:
        # Tests may run in the background, where Ctrl-C is ignored, and a child inherits that.
        inside.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        names = [inside.enter_context(own_run(f"test-nothing-is-left-behind-{number}")) for number in range(len(CASES))]
        pool = inside.enter_context(ThreadPoolExecutor(2))
        yield {case: pool.submit(end, *case, name, vllm) for case, name in zip(CASES, names)}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_behind(case, ends):
    ends[case].result()


def end(moment, sent, real: bool, run_name: str, vllm: Path) -> None:
    """Start a run, end it at this moment, and look what is left."""
    runner, family = start(run_name, "" if real else str(vllm)), []
    try:
        await_(lambda: moment(runner, run_name), moment.__name__)
        family = runner.children(recursive=True)
        assert len(family) >= 3, "the guard, vLLM's first process and its engine at least"
        assert real or any(p.cmdline() == ["VLLM::EngineCore", "600"] for p in living(family)), "it is the stand-in that runs"
        runner.send_signal(sent)
        output = runner.communicate(timeout=LIMIT_S)[0].decode()
        await_(lambda: not living(family), f"{sent.name} ends {family}")
    finally:
        for process in living([runner, *family]):
            process.kill()
    if sent is signal.SIGINT:
        assert runner.returncode != 0
        assert "Traceback" not in output and f"workbook run --resume {run_name}" in output, output[-3000:]
    if moment is a_request_is_recorded:
        assert moment(runner, run_name), "what was measured is gone"
        if sent is signal.SIGINT:
            assert (OUTPUTS / run_name / "report.html").exists(), "Ctrl-C left no report of what was there"
