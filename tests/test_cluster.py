"""The same load from a Ray cluster. Hosts are played by Ray nodes here, the third in a time namespace where the kernel
lets us make one: its monotonic clock stands 1,000 s from ours, as another machine's would."""
import asyncio
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, strategies as st

from lib import calibration, cluster, load, metrics, records, remote
from lib.client import Request
from lib.errors import UserError
from lib.records import Record
from lib.shapes import Open

RAY = Path(sys.executable).with_name("ray")
FAR_S = 1000
OURS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "GRPC_ENABLE_FORK_SUPPORT": "0"}  # with it, the process that Ray forks for a ray:// client may hang
HEAD, SECOND, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4"  # for 127.0.0.1 Ray would take the outer interface
NAMESPACE = ["unshare", "--user", "--map-root-user", "--time", "--monotonic", str(FAR_S), "--fork", "--kill-child"]


def requests(count: int, tokens: int = 20) -> list[Request]:
    return [Request([{"role": "user", "content": f"{i}"}], tokens) for i in range(count)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# -- clocks, without a cluster -----------------------------------------------------------------------
delays = st.floats(0, 0.1)


@given(st.floats(-1e5, 1e5), st.lists(st.tuples(delays, delays, delays), min_size=1, max_size=30), st.floats(-40e-6, 40e-6))
def test_the_true_offset_is_within_the_stated_error(offset, exchanges, drift):
    """However unlike the two ways are, and while the clocks part."""
    clock, now = remote.Clock(), 0.0
    for there, inside, back in exchanges:
        theirs = [t + offset + drift * t for t in (now + there, now + there + inside)]
        clock.exchange(now, *theirs, now + there + inside + back)
        now += there + inside + back + 1.0
    found, error = clock.now(now)
    assert abs(found - (offset + drift * now)) <= error + 1e-9 + 1e-4 * 50e-6 * now


def test_intervals_of_a_record_do_not_depend_on_the_offset():
    far = Record("s", 0, sent=1005.0, first=1005.2, last=1006.0, done=1006.1, scheduled=1004.5, reads=[(0.2, 1)], sent_at=[-999.9])
    near = remote.in_our_clock(far, 1000.0, 0.003)
    assert (near.sent, near.first, near.scheduled, near.clock_error_s) == pytest.approx((5.0, 5.2, 4.5, 0.003))
    assert near.last - near.first == pytest.approx(far.last - far.first) and near.reads == far.reads
    assert near.sent_at == pytest.approx([0.1])


def test_a_worker_is_sent_its_share_of_a_list_and_finds_it_by_number():
    share = cluster._Share(list("abcdefg"), 1, 3)
    assert [share[i] for i in (1, 4)] == ["b", "e"]
    with pytest.raises(IndexError):
        share[7]


# -- bad input ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("on", ["http://127.0.0.1:1", "nonsense", "ray://host", "host:port", "ray://"])
def test_what_is_no_address_is_told(on):
    with pytest.raises(UserError, match="is no address"):
        cluster.check(on)


def test_nobody_at_the_address():
    with pytest.raises(UserError, match="no Ray cluster at ray://127.0.0.1:.*refused"):
        cluster.check(f"ray://127.0.0.1:{free_port()}")


def test_ray_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs Ray.*pip install"):
        cluster.check("ray")


def test_a_server_on_our_loopback_is_not_asked_for_from_elsewhere():
    far = cluster._Member(None, "far", "another machine")
    with pytest.raises(UserError, match="this machine's own.*far"):
        cluster._reachable("http://127.0.0.1:8000", [far])
    cluster._reachable("http://10.0.0.1:8000", [far])


def test_a_worker_of_another_version_is_refused():
    ours = remote.versions()
    cluster._compare({"host": "far", "versions": ours}, ours)
    with pytest.raises(UserError, match="on far would measure differently .lib another there, .* here"):
        cluster._compare({"host": "far", "versions": ours | {"lib": "another"}}, ours)


# -- a cluster ---------------------------------------------------------------------------------------
class Hosts:
    """Ray nodes with a processor each."""

    def __init__(self, folder: Path):
        pytest.importorskip("ray")
        self.port, self.client_port = free_port(), free_port()
        self.address, self.client = f"{HEAD}:{self.port}", f"ray://{HEAD}:{self.client_port}"
        self.far = shutil.which("unshare") is not None and subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | OURS
        self.folder, self.processes = folder, []

    def start(self) -> None:
        self._start(["--head", f"--port={self.port}", f"--ray-client-server-port={self.client_port}",
                                 "--include-dashboard=false", f"--temp-dir={self.folder / 'r'}", f"--node-ip-address={HEAD}"])
        self._await(self.client_port)
        self._start([f"--address={self.address}", f"--node-ip-address={SECOND}"])

    def start_far(self) -> None:
        """A third host, with a clock of its own."""
        self.third = self._start([f"--address={self.address}", f"--node-ip-address={THIRD}"], NAMESPACE if self.far else [])

    def _start(self, words: list[str], before: list[str] = ()) -> subprocess.Popen:
        log = (self.folder / f"node{len(self.processes)}.log").open("wb")
        self.processes.append(subprocess.Popen(
            [*before, str(RAY), "start", *words, "--num-cpus=1", "--disable-usage-stats",
             "--object-store-memory=80000000", "--block"], env=self._env, stdout=log, stderr=log, start_new_session=True))
        return self.processes[-1]

    @staticmethod
    def _await(port: int, limit_s: float = 60) -> None:
        deadline = time.monotonic() + limit_s
        while True:
            try:
                return socket.create_connection((HEAD, port), 1).close()
            except OSError:
                assert time.monotonic() < deadline, f"nothing listens on {port}"
                time.sleep(0.1)

    def kill(self, process: subprocess.Popen) -> None:
        """As if its power went: all of its processes at once."""
        for one in reversed([psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]):
            try:
                one.kill()
            except psutil.NoSuchProcess:
                pass
        process.wait(10)

    def close(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                self.kill(process)


@pytest.fixture(scope="module")
def hosts():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in OURS.items():
            patch.setenv(name, value)
        folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a socket's path may have 107 characters
        made = Hosts(Path(folder))
        try:
            made.start()
            yield made
        finally:
            cluster.leave()
            made.close()
            shutil.rmtree(folder, ignore_errors=True)


def join(on: str, count: int) -> None:
    ray, deadline = cluster.connect(on), time.monotonic() + 60
    while ray.cluster_resources().get("CPU", 0) < count:
        assert time.monotonic() < deadline, "a node did not join"
        time.sleep(0.2)


def run(server, path, todo, shape, **options):
    return asyncio.run(load.run(server, path, "series", todo, shape, quiet=True, **options))


def check_clocks(frame, truth, true_offsets: list[float]) -> None:
    """All times are on our clock, and what they were on the far one agrees with the server, which is here."""
    health = frame.attrs["client"]
    assert [h["part"] for h in health] == list(range(len(true_offsets)))
    for h, true in zip(sorted(health, key=lambda h: h["clock_offset_s"]), true_offsets):
        assert abs(h["clock_offset_s"] - true) <= h["clock_error_s"] < 0.1
        assert abs(h["clock_drift_s"]) < 2 * h["clock_error_s"] + 0.1
    error = frame["clock_error_s"]
    assert (error > 0).all()
    # The server had each request after it was sent, and sent each first token before it came.
    arrived = np.sort([r["arrived"] for r in truth["requests"]])
    delay = arrived - np.sort(frame["sent"])
    assert (delay >= -error.max()).all() and np.median(delay) < 0.05
    late = np.array([row.reads[0, 0] - row.sent_at[0] for row in frame.itertuples()])
    assert (late >= -error - 2e-6).all() and np.median(late) < 0.05


def test_a_closed_loop_through_a_ray_client(hosts, tmp_path, monkeypatch):
    join(hosts.client, 2)
    monkeypatch.setenv("WORKBOOK_LOAD", hosts.client)  # as a kernel gets it
    with calibration.metronome(10) as server:
        frame = run(server, tmp_path / "rows.jsonl", requests(160), 8)  # the number of workers: one a host
        truth = server.truth()
    assert sorted(frame["index"]) == list(range(160)) and frame["error"].isna().all()
    assert len(truth["requests"]) == 160 and frame["output_tokens"].sum() == sum(r["tokens"] for r in truth["requests"])
    check_clocks(frame, truth, [0, 0])
    frame = metrics.per_request(frame)
    rates = metrics.throughput(frame, metrics.steady_window(frame, 8))
    # A reply's last token and the next one's first are two steps apart where the request misses a step.
    assert 8 / 0.010 * 20 / 22 * 0.85 < rates.mean() < 8 / 0.010 * 1.05, "the streams of both hosts add up"


def test_an_open_loop_keeps_one_schedule_from_hosts_with_clocks_of_their_own(hosts, tmp_path):
    cluster.leave()
    hosts.start_far()
    join(hosts.address, 3)
    with calibration.metronome(5) as server:
        frame = run(server, tmp_path / "rows.jsonl", requests(120), Open(60, "constant"), processes=3, on=hosts.address)
        truth = server.truth()
    assert sorted(frame["index"]) == list(range(120)) and frame["error"].isna().all()
    check_clocks(frame, truth, [0, 0, FAR_S if hosts.far else 0])
    due = frame.sort_values("index")["scheduled"].to_numpy()
    assert np.abs(np.diff(due) - 1 / 60).max() <= 2 * frame["clock_error_s"].max(), "the hosts take turns"


def test_stop_when_narrow_and_by_time(hosts, tmp_path):
    with calibration.metronome(5) as server:
        for options in ({"narrow": 0.5}, {"seconds": 1}):
            frame = run(server, tmp_path / "rows.jsonl", requests(10_000), 6, processes=3, on=hosts.address, **options)
            assert 0 < len(frame) < 10_000 and frame["error"].isna().all()


def test_more_workers_than_processors(hosts, tmp_path):
    with calibration.metronome(5) as server, pytest.raises(UserError, match="4 load workers .* has 3 processors"):
        run(server, tmp_path / "rows.jsonl", requests(6), 6, processes=4, on=hosts.address)


def test_interrupted_in_the_middle_the_rows_are_kept(hosts, tmp_path):
    async def interrupted(server, path):
        running = asyncio.create_task(load.run(server, path, "series", requests(10_000, 100), 6, processes=3, quiet=True,
                                               on=hosts.address))
        while not path.exists() or path.stat().st_size == 0:
            await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with calibration.metronome(5) as server:
        asyncio.run(interrupted(server, tmp_path / "rows.jsonl"))
        truth = server.truth()
    frame = records.read(tmp_path / "rows.jsonl")
    assert len(frame) == len(truth["requests"]), "every request that was sent is a row"
    assert (frame["error"] == "aborted").sum() == 6 and frame["error"].isna().any()


def test_a_host_that_dies_ends_the_series_with_a_line_and_keeps_the_rows(hosts, tmp_path):
    path = tmp_path / "rows.jsonl"

    async def with_a_death(server):
        running = asyncio.create_task(load.run(server, path, "series", requests(10_000, 40), 6, processes=3, quiet=True,
                                               on=hosts.address))
        while not path.exists() or len(path.read_bytes().splitlines()) < 16:
            await asyncio.sleep(0.1)
        hosts.kill(hosts.third)
        died = time.monotonic()
        with pytest.raises(UserError, match="load worker on .* is lost") as told:
            await running
        return time.monotonic() - died, str(told.value)

    with calibration.metronome(5) as server:
        took, line = asyncio.run(with_a_death(server))
    assert took < cluster.LOST_AFTER_S + 10 and "\n" not in line
    frame = records.read(path)
    assert len(frame) >= 16 and frame.attrs["torn_lines"] == 0 and not frame["index"].duplicated().any()
    assert set(frame["error"].dropna()) <= {"aborted"}, "what the other host had in flight"
