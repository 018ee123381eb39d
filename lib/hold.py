"""A run folder is one run's at a time, and its processes' as long as one of them lives.

The runner locks a file in the folder. Kernels, load workers and servers' guards inherit the open file, and with it the
lock: when a runner was killed, the lock is free when the last of them has ended, and none can still write there.
"""
import fcntl
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from lib.errors import UserError

HELD = "WORKBOOK_HELD"  # to our own processes: "descriptor:inode" of the lock
PATIENCE_S = 60.0  # what a killed run's processes may take to end: vLLM has twice lib.guard's grace


@contextmanager
def hold(folder: Path, patience_s: float = PATIENCE_S):
    """While inside, the run folder is this process's. Raises UserError where another run works in it for longer than
    `patience_s`."""
    descriptor = os.open(folder / ".lock-run", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, folder.name, patience_s)
        os.environ[HELD] = f"{descriptor}:{os.fstat(descriptor).st_ino}"
        yield
    finally:
        os.environ.pop(HELD, None)
        os.close(descriptor)


def _lock(descriptor: int, name: str, patience_s: float) -> None:
    deadline, told = time.monotonic() + patience_s, False
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UserError(f"run {name} is still at work: wait for its end, or end its process first")
        if not told:
            print(f"waiting for the processes of run {name} to end", file=sys.stderr, flush=True)
            told = True
        time.sleep(0.1)


def inherited() -> tuple[int, ...]:
    """Descriptors for `pass_fds` of a child that works in the run folder; empty where no run is held."""
    number, _, inode = os.environ.get(HELD, "").partition(":")
    try:
        return (int(number),) if os.fstat(int(number)).st_ino == int(inode) else ()
    except (ValueError, OSError):
        return ()
