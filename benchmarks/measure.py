"""Runs a client on given processors and watches what it takes: processor time and memory of all its processes."""
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.metronome import Running

WATCH_EVERY_S = 0.25
WATCHED = ["at", "cpu_s", "resident_mib", "others_s", "others_by_metronome_s"]  # columns of Usage.watched


class Unavailable(Exception):
    """This client cannot be measured here; the message is the reason, one line."""


@dataclass
class Usage:
    """What a client's processes took. cpu_s: in all, start-up and its own evaluation included. `watched` has a row
    of WATCHED every quarter of a second: instant (s, monotonic), processor time so far, resident memory (each
    process's own count added up), processor time of others so far where the client runs and where the metronome
    does."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    watched: list = field(default_factory=list)

    @property
    def peak_mib(self) -> float:
        return float(np.max(self._column("resident_mib"), initial=0))

    def at(self, instant: float, column: str) -> float:
        return float(np.interp(instant, self._column("at"), self._column(column))) if self.watched else float("nan")

    def within(self, began: float, ended: float, column: str) -> float:
        return self.at(ended, column) - self.at(began, column)

    def _column(self, name: str) -> np.ndarray:
        return np.array([row[WATCHED.index(name)] for row in self.watched])


def run(command: list, cpus: list[int], server: Running, env: dict, log: Path, timeout_s: float, tick=lambda: None) -> Usage:
    """Run a command against `server` to its end, in the folder of `log`; `tick` is called while it runs.

    Raises Unavailable when it cannot be started, fails, or takes longer than `timeout_s`.
    """
    usage, began = Usage(), time.monotonic()
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)  # inherited
    try:
        with log.open("wb") as output:
            process = subprocess.Popen([str(word) for word in command], cwd=log.parent, env=env, stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    except OSError as error:
        raise Unavailable(f"it cannot be started ({error.strerror})")
    finally:
        os.sched_setaffinity(0, ours)
    try:
        status = None
        while status is None:
            if time.monotonic() - began > timeout_s:
                raise Unavailable(f"it had not ended after {timeout_s:.0f} s")
            usage.watched += _look(process.pid, cpus, server)
            tick()
            time.sleep(WATCH_EVERY_S)
            pid, ended, took = os.wait4(process.pid, os.WNOHANG)
            status = process.returncode = os.waitstatus_to_exitcode(ended) if pid else None
    finally:
        _end(process)
    usage.wall_s = time.monotonic() - began
    usage.cpu_s = max([took.ru_utime + took.ru_stime, *usage._column("cpu_s")])
    if status != 0:
        raise Unavailable(f"it ended with status {status}: {last_words(log)}")
    return usage


def _look(pid: int, cpus: list[int], server: Running) -> list:
    """One row of Usage.watched, or none if the process is gone."""
    cpu_s = rss = 0
    try:
        root = psutil.Process(pid)
        if root.status() == psutil.STATUS_ZOMBIE:
            return []
        for process in [root, *root.children(recursive=True)]:
            try:
                times = process.cpu_times()  # with those of its children that have ended
                cpu_s += times.user + times.system + times.children_user + times.children_system
                rss += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        its = psutil.Process(server.pid).cpu_times()
    except psutil.NoSuchProcess:
        return []
    # Without interrupts: they carry the streams' own packets. Stolen time went to other machines on the same host.
    busy = [t.user + t.nice + t.system + getattr(t, "steal", 0) for t in psutil.cpu_times(percpu=True)]
    others_there = busy[server.cpu] - its.user - its.system
    return [(time.monotonic(), cpu_s, rss / 2**20, sum(busy[cpu] for cpu in cpus) - cpu_s, others_there)]


def _end(process: subprocess.Popen) -> None:
    """End what a client has left behind in its session, and itself if it still runs."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if process.returncode is None:
        process.wait()


def last_words(log: Path) -> str:
    """The line of a log that says why: the last that names an error, else the last."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line and "warning" not in line.lower()]
    return (telling or lines or ["it said nothing"])[-1][:160]
