"""One real vLLM server for the whole test run, with the embedded model."""
import contextlib
import os
import shutil

import pytest
from hypothesis import HealthCheck, settings

from lib import OUTPUTS, calibration, launch

settings.register_profile("busy-machine", deadline=None)  # no test judges by the clock
settings.register_profile("long", deadline=None, max_examples=5_000, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "busy-machine"))


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


@pytest.fixture(scope="session")
def finished_run(server):
    """The whole workbook with the smoke profile, as `make report` runs it, against the one server; some series are shorter."""
    from lib import runner

    shorter = {"questions": 10, "picture_probes": 10, "size_repeats": 3, "picture_rounds": 3, "talk_rounds": 3, "level_seconds": 4,
               "endurance_seconds": 20}

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_API_KEY", server.api_key)
        name = "test-finished-run"
        shutil.rmtree(OUTPUTS / name, ignore_errors=True)
        folder, well = runner.run(runner.plan("smoke", server.url, [], shorter, name=name))
        assert (OUTPUTS / "latest").resolve() == folder.path, "outputs/latest is the newest run"
    yield folder, well
    shutil.rmtree(folder.path)
