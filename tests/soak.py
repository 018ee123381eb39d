"""Cuts runs off at random instants, goes on with them, and looks whether anything was lost: python tests/soak.py --kills 50.

kill -9 of the runner, a kernel, a load worker, the server; and a disk that is full. Seeded. It works in a checkout of its own with two
short notebooks and real 09_report, so that a round takes seconds. The server is the metronome, a stand-in: what its runs measure
means nothing, only what is kept of it is looked at. `--real` takes the embedded model on real vLLM and notebooks 02 and 08.
"""
import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil

HERE = Path(__file__).resolve().parent.parent
VICTIMS = ("runner", "kernel", "worker", "server", "disk")
REQUESTS, LIMIT_S, DISK_MIB = 100, 300, 48
RUN = "soak"
CELLS = ['''server: str = "auto"  # a URL
run_name: str = "desk"  # the run folder
requests: int = 1  # of each series''', '''from matplotlib.figure import Figure
from lib import bench, workloads
desk = bench.begin("NAME", server, run_name)
failed = 0''', '''for part in ("a", "b"):
    series = await desk.measure(f"NAME.{part}", workloads.Brief(6, 0.0, 1, "NAME" + part), 4, count=requests)
    desk.publish(series, headline=("ttft_s",))
    failed += series.counts["failed"]''', '''desk.keep("NAME", Figure(), "Nothing.")
assert failed == 0, f"{failed} requests failed"''']


# -- where it works ----------------------------------------------------------------------------------
def checkout(place: Path, real: bool) -> None:
    """lib, data and some notebooks as a checkout of their own."""
    shutil.copytree(HERE / "lib", place / "lib")
    (place / "data" / "profiles").mkdir(parents=True)
    for path in (HERE / "data").iterdir():
        if path.name != "profiles":
            (place / "data" / path.name).symlink_to(path)
    (place / "data" / "profiles" / "smoke.yaml").write_text(json.dumps(
        {"requests": 20, "max_tokens": 16, "endurance_seconds": 4.0} if real else {"requests": REQUESTS}))
    (place / "notebooks").mkdir()
    (place / "outputs").mkdir()
    for name in ("09_report", *(("02_single_request", "08_endurance") if real else ())):
        shutil.copy(HERE / "notebooks" / f"{name}.ipynb", place / "notebooks")
    for name in () if real else ("01_first", "02_second"):
        cells = [nbformat.v4.new_code_cell(source.replace("NAME", name)) for source in CELLS]
        cells[0].metadata["tags"] = ["parameters"]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), place / "notebooks" / f"{name}.ipynb")


@contextlib.contextmanager
def small_disk(folder: Path):
    """While inside, `folder` is a disk of DISK_MIB; yields whether it could be had."""
    had = shutil.which("mount") is not None and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder], capture_output=True, check=False).returncode == 0
    try:
        yield had
    finally:
        if had:
            subprocess.run(["umount", "-l", folder], check=True)


class Server:
    """A metronome on one port, started again when it was killed; nothing where the run starts its own."""

    def __init__(self, real: bool):
        self.real, self.process = real, None
        self.url = "embedded" if real else self._start("0")

    def _start(self, port: str) -> str:
        self.process = subprocess.Popen([sys.executable, "-m", "lib.metronome", "--port", port, "--until-eof"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, start_new_session=True)
        return self.process.stdout.readline().strip()

    def up(self) -> None:
        if not self.real and self.process.poll() is not None:
            assert self._start(self.url.rsplit(":", 1)[1]) == self.url

    def stop(self) -> None:
        if self.process:
            self.process.kill()  # a runner that was forked meanwhile holds its standard input open
            self.process.wait()


# -- one runner --------------------------------------------------------------------------------------
class Runner:
    """`workbook run` in a process forked from this one, which has imported already what it needs."""

    def __init__(self, words: list[str], place: Path):
        self.log, self.began, self.status = place / "runner.log", time.monotonic(), None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            with self.log.open("wb") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            sys.argv = ["workbook", "run", *words]
            from lib import cli

            try:
                cli.main()
            except SystemExit as end:
                sys.stdout.flush()
                os._exit(end.code if isinstance(end.code, int) else 1)
            finally:
                os._exit(99)

    def alive(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is None

    def find(self, victim: str, server: Server) -> int | None:
        """The process that is to be killed; None where there is none just now."""
        if victim == "runner":
            return self.pid
        if victim == "server" and not server.real:
            return server.process.pid if server.process.poll() is None else None
        wanted = {"kernel": "ipykernel_launcher", "worker": "lib.worker", "server": "vllm.entrypoints"}[victim]
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    words = process.cmdline()
                    if any(wanted in word for word in words) and "lib.guard" not in words:
                        return process.pid
        return None

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def fill(folder: Path) -> Path:
    """Leave not a byte on a disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    return filler


# -- what must be true -------------------------------------------------------------------------------
def rows(run: Path) -> dict[Path, list[bytes]]:
    """The whole lines of every records file of a run."""
    files = [p for p in run.rglob("*.jsonl") if ".telemetry" not in p.name]
    found = {}
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            found[path] = [line for line in path.read_bytes().split(b"\n")[:-1] if _whole(line)]
    return found


def _whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def check(run: Path, acknowledged: set[bytes], lives: list[tuple[float, float]], real: bool) -> dict:
    """Everything that must hold of a run that was gone on with -> what was counted. Raises AssertionError."""
    info, found = json.loads((run / "run.json").read_text()), rows(run)
    states = {name: state["status"] for name, state in info["notebooks"].items()}
    assert set(states.values()) == {"done"} and info["ended"], f"not all is done: {states}"
    page = (run / "report.html").read_text()
    assert all(name in page for name in states) and '"badge failed"' not in page and '"badge interrupted"' not in page, "the report is not complete"
    assert all((run / "html" / f"{name}.html").exists() and json.loads((run / "notebooks" / f"{name}.ipynb").read_text())["cells"] for name in states)
    count = collections.Counter(line for lines in found.values() for line in lines)
    lost = [line for line in acknowledged if line not in count]
    assert not lost, f"{len(lost)} rows that were on the disk are gone, such as {lost[0][:200]}"
    assert max(count.values()) == 1, "a row is there twice"
    for path, lines in found.items():
        records = [json.loads(line) for line in lines]
        keys = [(r["index"], r.get("turn")) for r in records]
        assert len(keys) == len(set(keys)), f"{path.name} holds a request twice"
        # A killed runner's kernel and worker live for a moment: their last rows come in the next runners' time, to the file set aside.
        during = {next(i for i, (a, b) in enumerate(lives) if a <= r["done"] <= b) for r in records}
        assert len(during) <= 1 or "aside" in path.parts, f"{path.name} mixes attempts {during}"
        if "aside" not in path.parts and not real:
            assert sorted(r["index"] for r in records) == list(range(REQUESTS)) and not any(r["error"] for r in records), path.name
    figures = json.loads((run / "figures.json").read_text()).values()
    assert figures and all((run / figure["records"]).exists() for figure in figures), "a figure without its records"
    assert not list(run.rglob("*.part")), "half a file was left"
    torn = {p: sum(not _whole(line) for line in p.read_bytes().splitlines() if line.strip()) for p in found}
    assert not any(n for p, n in torn.items() if "aside" not in p.parts), "a torn line among the records that count"
    told = [(info.get("aside") or {}).get(what, 0) for what in ("rows", "torn")]
    aside = [line for path, lines in found.items() if "aside" in path.parts for line in lines]
    assert told == [len(aside), sum(torn.values())], f"run.json tells of {told} rows and torn lines set aside, there are {len(aside)} and {sum(torn.values())}"
    return {"rows": len(count), "aside": len(aside), "torn": sum(torn.values()), "attempts": 1 + len(info.get("attempts", []))}


# -- the soak ----------------------------------------------------------------------------------------
def chain(kills: int, chance: random.Random, place: Path, real: bool, victims: tuple, deadline: float) -> tuple[collections.Counter, dict]:
    """One run, cut off `kills` times, gone on with until it is complete, and checked."""
    done, acknowledged, lives, run, server = collections.Counter(), set(), [], place / "outputs" / RUN, Server(real)
    words, failures = ["--server", server.url, "--name", RUN], 0
    try:
        while True:
            shutil.rmtree(run, ignore_errors=True) if not (run / "run.json").exists() else None  # cut off before it was one
            server.up()
            runner = Runner(["--resume", RUN] if run.exists() else words, place)
            cut = False
            while runner.alive():
                victim = chance.choice(victims)
                wanting = sum(done.values()) < kills and time.monotonic() < deadline
                if not wanting:
                    _await(lambda: not runner.alive(), "the runner's own end")
                elif _wait_for(victim, runner, server, chance, run) and _strike(victim, runner, server, run, acknowledged):
                    done[victim] += 1
                    cut = True
                    while sum(done.values()) < kills and victim != "disk" and chance.random() < 0.5:  # troubles come together
                        time.sleep(chance.uniform(0.0, 0.5))
                        victim = chance.choice([v for v in victims if v != "disk"])
                        done[victim] += runner.alive() and _strike(victim, runner, server, run, acknowledged)
                    if victim == "disk":
                        break
            _await(lambda: not runner.alive(), "the runner's end")
            (run.parent / "filler").unlink(missing_ok=True)
            lives.append((runner.began, time.monotonic()))
            said = runner.said()
            assert "Traceback" not in said, said[-3000:]
            if runner.status == 0:
                return done, check(run, acknowledged, lives, real)
            failures = 0 if cut else failures + 1  # on a busy machine, a check of a real notebook may fail once
            assert failures <= (2 if real else 0), f"it failed by itself, status {runner.status}: {said[-2000:]}"
            if runner.status == 2:
                errors = [line for line in said.splitlines() if line.startswith("error: ")]
                assert len(errors) == 1 and (real or "--resume" in errors[0]), said[-2000:]  # vLLM that was killed while it started is told too
    finally:
        server.stop()


def _wait_for(victim: str, runner: Runner, server: Server, chance: random.Random, run: Path) -> bool:
    """Wait for the victim, and then for a random while. False where the run ended before."""
    long = {"runner": 6.0, "kernel": 5.0, "worker": 1.5, "server": 5.0, "disk": 6.0}[victim] * (4 if server.real and victim != "worker" else 1)
    if victim in ("kernel", "worker"):
        _await(lambda: not runner.alive() or runner.find(victim, server), f"a {victim}")
    if chance.random() < 0.6:  # most of a run is imports and drawing; more often than that, strike where rows are being written
        _await(lambda: not runner.alive() or _writing(run), "a row")
        long = 0.8
    until = time.monotonic() + chance.uniform(0.0, long)
    while time.monotonic() < until and runner.alive():
        time.sleep(0.005)
    return runner.alive()


def _strike(victim: str, runner: Runner, server: Server, run: Path, acknowledged: set) -> bool:
    """Kill it, or fill the disk; what has been written until then must be there in the end. False where it is not there."""
    pid = None if victim == "disk" or not runner.alive() else runner.find(victim, server)
    if not runner.alive() or (victim == "disk" and not (run / "run.json").exists()) or (victim != "disk" and pid is None):
        return False
    for lines in rows(run).values():
        acknowledged.update(lines)
    if victim == "disk":
        fill(run.parent)
    else:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it ended by itself while the rows were read
            return False
    if victim == "server" and not server.real:
        server.process.wait()
        server.up()
    if victim == "runner":
        _await(lambda: not runner.alive(), "a killed runner's end")
    elif victim != "disk":
        _await(lambda: ended(pid), "a killed process' end")
    return True


def ended(pid: int) -> bool:
    """Gone, or only not yet asked how it ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _writing(run: Path) -> bool:
    """Has a row been written just now?"""
    with contextlib.suppress(FileNotFoundError):
        return any(time.time() - path.stat().st_mtime < 0.1 and path.stat().st_size for path in (run / "requests").glob("*.jsonl") if ".telemetry" not in path.name)
    return False


def _await(condition, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_S} s: {what}"
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/soak.py", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--in-a-run", type=int, default=20, help="how often one run is cut off before it may end")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0, help="no more kills after so long")
    parser.add_argument("--real", action="store_true", help="the embedded model on real vLLM")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS)
    asked = parser.parse_args()
    deadline, total, runs = time.monotonic() + 60 * asked.minutes, collections.Counter(), []
    chance = random.Random(asked.seed)
    while total.total() < asked.kills and time.monotonic() < deadline:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder, contextlib.ExitStack() as inside:
            place = Path(folder)
            checkout(place, asked.real)
            had = "disk" in asked.victims and inside.enter_context(small_disk(place / "outputs"))
            victims = tuple(v for v in asked.victims if v != "disk" or had)
            # A fresh process for each checkout, since lib is imported from it.
            out = subprocess.run([sys.executable, __file__, "--chain", str(place), str(min(asked.in_a_run, asked.kills - total.total())), str(chance.random()),
                                  str(int(asked.real)), str(deadline), *victims], cwd=place, stdout=subprocess.PIPE, text=True, check=False,
                                 env={k: v for k, v in os.environ.items() if not k.startswith("WORKBOOK_")} | {"PYTHONPATH": folder})
            if out.returncode:
                kept = Path(tempfile.mkdtemp(prefix="soak-failed-"))
                shutil.copytree(place / "outputs", kept, dirs_exist_ok=True, symlinks=True)
                sys.exit(f"seed {asked.seed}, after {total.total()} kills: see above; the run is kept in {kept}")
            done, found = json.loads(out.stdout.splitlines()[-1])
            total.update(done)
            runs.append(found)
            print(f"run {len(runs)}: {json.dumps(done)}, {json.dumps(found)}", flush=True)
    what = "the embedded model on real vLLM" if asked.real else "the metronome, a stand-in"
    print(f"{total.total()} kills of {len(runs)} runs against {what}, seed {asked.seed}: every run complete after it was gone on with; of "
          f"{sum(r['rows'] for r in runs)} rows none is lost, none double; {sum(r['aside'] for r in runs)} of them and "
          f"{sum(r['torn'] for r in runs)} torn lines are set aside; {sum(r['attempts'] for r in runs)} attempts.")
    print("  ".join(f"{victim} {total[victim]}" for victim in VICTIMS) + ("" if total["disk"] or "disk" not in asked.victims else " (no small disk could be mounted)"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--chain"]:
        _, _, place, kills, seed, real, deadline, *victims = sys.argv
        import lib.runner  # noqa: F401  before any fork

        assert lib.NOTEBOOKS.parent == Path(place).resolve(), lib.NOTEBOOKS
        print(json.dumps(chain(int(kills), random.Random(seed), Path(place), real == "1", tuple(victims), float(deadline))))
    else:
        main()
