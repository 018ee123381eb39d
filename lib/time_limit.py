"""How long a notebook may take: some times its plan. Then it ends by itself, with what it has.

The kernel learns the instant from its environment: the series that is running then ends, and says so (lib.load). Should a
cell go on regardless, the runner interrupts it, and ends a kernel that does not heed that.
"""
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from lib.errors import UserError

FACTOR, SPARE_S = 5.0, 300.0  # the limit is so many times the plan, and so long beside it: for slow machines and slow servers
UNPLANNED_S = 3600.0  # where no profile says how long a notebook takes
GRACE_S, KILL_S = 30.0, 20.0  # after the limit the cell is interrupted, and so long after that its kernel is ended
SILENCE_S = 120.0  # the longest silence of a server that is waited out
DEADLINE, WIDER, SILENCE = "WORKBOOK_DEADLINE", "WORKBOOK_TIME_FACTOR", "WORKBOOK_SILENCE_S"  # names in the environment
NO_LENGTH = ("seed",)  # numbers that say nothing of how long something takes


def limit_s(planned_s: float | None, usual: dict, asked: dict, takes: dict) -> float | None:
    """The longest that a notebook may take, s; None where WORKBOOK_TIME_FACTOR is 0.

    planned_s: as its profile has it, None if it says nothing. Parameters that were made larger than `usual` and that the
    plan (`takes`) does not heed make the limit longer in proportion: a plan that errs must end no good measurement.
    """
    factor = _number(WIDER, FACTOR)
    if not factor:
        return None
    longer, further_s = 1.0, 0.0
    for name, value in asked.items():
        size, before = _size(value), _size(usual.get(name))
        if name in takes or name in NO_LENGTH or size <= before:
            continue
        if before > 0:
            longer *= size / before
        elif name.endswith("seconds"):
            further_s += size
    return factor * (UNPLANNED_S if planned_s is None else planned_s * longer + further_s) + SPARE_S


def silence_s() -> float:
    """The longest silence of a server that is waited out, s."""
    return _number(SILENCE, SILENCE_S) or SILENCE_S


def left_s() -> float | None:
    """Seconds that this notebook has left; None where nobody has set it a limit."""
    told = os.environ.get(DEADLINE)
    return float(told) - time.monotonic() if told else None


def is_over() -> bool:
    """Has this notebook had its time?"""
    left = left_s()
    return left is not None and left <= 0


class Watchdog:
    """`bitten`: the clock time at which the limit was over and a cell still ran; "" until then."""

    def __init__(self):
        self.bitten = ""
        self._over = threading.Event()

    def end(self) -> None:
        self._over.set()

    def watch(self, until: float) -> None:
        """`until`: s, monotonic."""
        if self._over.wait(max(0.0, until - time.monotonic())):
            return
        self.bitten = time.strftime("%H:%M:%S")
        for how, wait_s in ((signal.SIGINT, KILL_S), (signal.SIGKILL, 0.0)):
            for kernel in _kernels():
                kernel.send_signal(how)
            if self._over.wait(wait_s):
                return


@contextmanager
def watched(limit: float | None) -> Iterator[Watchdog]:
    """While inside, kernels that this process starts know when their time is over, and are ended `GRACE_S` after it."""
    dog = Watchdog()
    if limit is None:
        yield dog
        return
    os.environ[DEADLINE] = str(time.monotonic() + limit)
    thread = threading.Thread(target=dog.watch, args=(float(os.environ[DEADLINE]) + GRACE_S,), daemon=True)
    thread.start()
    try:
        yield dog
    finally:
        dog.end()
        thread.join()
        os.environ.pop(DEADLINE)


def over(limit: float, at: str, where: str) -> str:
    """What a user reads when a notebook's time was over."""
    factor = _number(WIDER, FACTOR)
    return (f"its time of {limit:,.0f} s was over at {at}, {where}. What was measured until then is kept. The server may have become "
            f"slow; if it always is, {WIDER}={2 * factor:g} in the environment gives it twice as long")


def _kernels() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        try:
            found += [process] if "ipykernel_launcher" in process.cmdline() else []
        except psutil.Error:
            pass
    return found


def _size(value) -> float:
    if isinstance(value, (list, tuple)):
        return float(len(value))
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0


def _number(name: str, default: float) -> float:
    told = os.environ.get(name, "")
    try:
        value = float(told) if told else default
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{name}={told!r} in the environment: it must be a number, and not below 0")
    return value
