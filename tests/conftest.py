"""One real vLLM server for the whole test run, with the embedded model."""
import contextlib
import os
import shutil
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

from lib import OUTPUTS, calibration, launch
from soak import ended

settings.register_profile("busy-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no test judges by the clock
settings.register_profile("long", deadline=None, max_examples=5_000, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "busy-machine"))

ANSWERS = {"test_consistency", "test_embedded", "test_planted"}  # of real servers it is what they answer that counts here, not when
PATIENT = {"test_claims", "test_compare", "test_compare_runs", "test_fit", "test_hiding", "test_hostile", "test_images", "test_launch", "test_metrics",
           "test_plots_zh", "test_publish", "test_queueing", "test_report", "test_resume", "test_safe_defaults", "test_stats", "test_tuning", "test_verdicts"}
REAL = {"server", "metronome", "run_name", "finished_run"}  # fixtures whose tests measure, or make runs


def pytest_configure():
    if "GIVES_WAY" in os.environ:
        threading.Thread(target=_give_way, daemon=True).start()


def _give_way() -> None:
    """Where the kernel schedules by session (autogroup), a process is idle only within its own: each that a test opens is told to give way."""
    this = psutil.Process()
    while True:
        for process in [this, *this.children(recursive=True)]:
            with contextlib.suppress(OSError):
                Path(f"/proc/{process.pid}/autogroup").write_text("19")
        time.sleep(0.5)


def pytest_collection_modifyitems(items):
    """Marks what may wait for a processor as long as others want it (scripts/test.sh): ANSWERS, and in PATIENT what needs none of REAL.
    What needs the finished run comes last, and waits for those."""
    for item in items:
        module, needs = item.module.__name__, set(item.fixturenames)
        if module in ANSWERS and "finished_run" not in needs or module in PATIENT and not REAL & needs:
            item.add_marker("beside")
    items.sort(key=lambda item: "finished_run" in item.fixturenames)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with launch.open_server("embedded", folder=tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def metronome():
    with calibration.metronome(5.0) as running:
        yield running


@pytest.fixture
def as_user(server, monkeypatch):
    """The server as kernels and commands find it: address and key in the environment."""
    monkeypatch.setenv("WORKBOOK_SERVER", server.url)
    monkeypatch.setenv("WORKBOOK_API_KEY", server.api_key)
    return server


@pytest.fixture
def run_name(request):
    """The name of a run folder that is gone after the test; outputs/latest stays as it was."""
    with own_run("test-" + "".join(c if c.isalnum() else "-" for c in request.node.name)) as name:
        yield name


@contextlib.contextmanager
def own_run(name: str):
    """While inside, outputs/NAME may be made; then it is gone, and outputs/latest as it was."""
    latest = OUTPUTS / "latest"
    before = latest.readlink() if latest.is_symlink() else None
    shutil.rmtree(OUTPUTS / name, ignore_errors=True)
    try:
        yield name
    finally:
        shutil.rmtree(OUTPUTS / name, ignore_errors=True)
        latest.unlink(missing_ok=True)
        if before is not None and (OUTPUTS / before).exists():
            latest.symlink_to(before)


def _alone() -> None:
    """Wait for the tests that run beside these: what they leave is not enough for a whole run, and 06 takes them for others that disturb it."""
    pid = int(os.environ.get("BESIDE", 0))
    while pid and not ended(pid):
        time.sleep(0.5)


SHORTER = {
    "streams": [8, 64], "seconds": 1.0, "questions": 5, "rush_streams": 48, "requests": 30, "max_tokens": 32,
    "context_tokens": 1500, "turns": 3, "talk_rounds": 2, "think_s": 0.1, "picture_talks": 1,
    "concurrency": [1, 2, 4, 8], "most_streams": 8, "level_seconds": 2, "open_fractions": [0.5, 1.1], "searches": 1,
    "picture_requests": 6, "picture_answer": 24, "picture_sizes": ["224x224", "320x320", "512x384", "1024x768"], "size_repeats": 2, "picture_rounds": 2,
    "picture_streams": [1, 4], "ocr_pictures": 8, "picture_probes": 3,
    "tuning_model": "embedded", "tuning_seconds": 3.5, "tuning_streams": 4, "tuning_questions": 8, "ttft_target_ms": 60_000, "tpot_target_ms": 60_000,
    "consistency_questions": 1, "consistency_texts": 2, "consistency_tokens": 32, "sampled_answers": 6, "opening_samples": 60,
    "endurance_seconds": 8}
TUNED = """configurations:
- {name: half the context, flags: --max-model-len 2048}
- {name: too small, flags: --enable-chunked-prefill --num-gpu-blocks-override 8}
"""


@pytest.fixture(scope="session")
def finished_run(server, tmp_path_factory):
    """The whole workbook with the smoke profile, as `make report` runs it, against the one server; its series are shorter, and
    06 starts the servers that it compares."""
    from lib import plans, runner

    _alone()
    tuned = tmp_path_factory.mktemp("tuned") / "list.yaml"
    tuned.write_text(TUNED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_API_KEY", server.api_key)
        name = "test-finished-run"
        shutil.rmtree(OUTPUTS / name, ignore_errors=True)
        folder, well = runner.run(plans.make("smoke", server.url, [], SHORTER | {"configurations": [str(tuned)]}, name=name))
        assert (OUTPUTS / "latest").resolve() == folder.path, "outputs/latest is the newest run"
    yield folder, well
    shutil.rmtree(folder.path)
