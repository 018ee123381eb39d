"""Owns a server's processes and outlives nothing: `python -m lib.guard PARENT NICE COMMAND...`.

Runs COMMAND at a lower priority of NICE (0: the usual one) and waits for it. When PARENT (the kernel or runner that asked for the server) is gone, however
it went, or when a SIGTERM comes, everything that COMMAND started is stopped too. Exits as COMMAND did. What COMMAND says
passes lib.hiding on its way to the log: vLLM logs all its flags, and the ways to its files.
"""
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from lib.hiding import hide

GRACE_S = 10.0
LONGEST_LINE = 64 * 1024  # bytes; more without a line's end is handed on in pieces
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _stop_all(own: psutil.Process) -> None:
    """Ask every descendant to end, then end those that stay. As their subreaper this process sees the
    orphans among them too."""
    for send in (psutil.Process.terminate, psutil.Process.kill):
        living = own.children(recursive=True)
        for process in living:
            try:
                send(process)
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(living, timeout=GRACE_S)


def _step_back(nice: int) -> None:
    """Let others go first. A client on the same cores must be awake when the server's bytes come: on a full
    machine it otherwise notes when it was woken, not when they came. Kernels that schedule by session (Linux
    autogroups) heed the session's own value only."""
    os.nice(nice)
    try:
        Path("/proc/self/autogroup").write_text(str(nice))
    except OSError:
        pass


def _hand_on(said) -> None:
    """Lines of the server to our own stdout; where that takes no more (a full disk), they are read all the same, or it would wait."""
    for line in iter(lambda: said.readline(LONGEST_LINE), b""):
        try:
            os.write(1, hide(line.decode("utf-8", "replace")).encode())
        except OSError:
            pass


def main(parent: int, nice: int, command: list[str]) -> int:
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever caught Ctrl-C says when to stop
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    if nice:
        _step_back(nice)
    # Should this guard itself be killed, the server's first process gets a SIGTERM from the kernel.
    child = subprocess.Popen(command, preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGTERM), stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
    log = threading.Thread(target=_hand_on, args=(child.stdout,), daemon=True)
    log.start()
    while child.poll() is None and not stopping and os.getppid() == parent:
        time.sleep(0.1)
    if child.poll() is None:
        child.terminate()  # vLLM ends its own workers in good order when its first process is asked
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            pass
    _stop_all(psutil.Process())
    log.join(GRACE_S)
    return child.wait()


if __name__ == "__main__":
    code = main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    sys.exit(code if code >= 0 else 128 - code)
