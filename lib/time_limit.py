"""How long a notebook may take: some times its plan, and no more than its run has left (`--within`). Then it ends by itself,
with what it has.

The kernel learns the instant from its environment: the series that is running then ends, and says so (lib.load). Should a
cell go on regardless, the runner interrupts it, and ends a kernel that does not heed that.
"""
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

from lib.errors import UserError

FACTOR, SPARE_S = 5.0, 300.0  # the limit is so many times the plan, and so long beside it: for slow machines and slow servers
UNPLANNED_S = 3600.0  # where no profile says how long a notebook takes
GRACE_S, KILL_S = 30.0, 20.0  # after the limit the cell is interrupted, and so long after that its kernel is ended
SILENCE_S = 120.0  # the longest silence of a server that is waited out
DEADLINE, WIDER, SILENCE = "WORKBOOK_DEADLINE", "WORKBOOK_TIME_FACTOR", "WORKBOOK_SILENCE_S"  # names in the environment
NO_LENGTH = ("seed",)  # numbers that say nothing of how long something takes
ENDING_S = 30.0  # of a run's own time: kept for its last pages, its report and the stop of its server
AMPLE = 2.0  # times what is expected of a notebook: no plan is so exact that a good measurement should end with it
LEAST_S = 10.0  # who has less of a run's time is left out: a kernel takes some seconds to begin
MOST = 1e6  # minutes
OF_RUN = "WORKBOOK_DEADLINE_OF_RUN"  # in the environment: the minutes of the run, where it is they that are over then
REPORT = "09_report"  # shows what the others left: it is run whatever is left, and made again with any of them


@dataclass(frozen=True)
class Limit:
    """The longest that a notebook may take, s; None: as long as it likes. minutes: those of the run, where it is they that set it."""

    seconds: float | None = None
    minutes: float | None = None

    @property
    def lasts(self) -> bool:
        return self.seconds is None or self.seconds > 0

    def left_out(self) -> dict:
        """The state of a notebook for which nothing is left."""
        return {"status": "not run", "error": f"left out for lack of time: the run was to end within {self.minutes:g} minutes (--within)"}

    def over(self, at: str, where: str) -> str:
        """What a user reads when a notebook's time was over."""
        kept = f"was over at {at}, {where}. What was measured until then is kept"
        if self.minutes:
            return f"its time of {self.seconds:,.0f} s, which is what a run within {self.minutes:g} minutes had left for it, {kept}. {longer(self.minutes)}"
        return (f"its time of {self.seconds:,.0f} s {kept}. The server may have become slow; if it always is, "
                f"{WIDER}={2 * _number(WIDER, FACTOR):g} in the environment gives it twice as long")


@dataclass(frozen=True)
class Within:
    """The minutes within which a whole run ends, None if nobody said; they count from `began` (s, monotonic). steps, in what
    follows: the run's notebooks in order, with the seconds that are expected of each."""

    minutes: float | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self):
        if self.minutes is not None and not 0 < self.minutes <= MOST:
            raise UserError(f"--within {self.minutes:g}: give a number of minutes above 0, and at most {MOST:,.0f}")

    def noted(self) -> dict:
        """What run.json says of it."""
        return {"within": self.minutes} if self.minutes else {}

    def left_s(self) -> float:
        return self.began + 60 * self.minutes - time.monotonic()

    def limit(self, own_s: float | None, name: str, steps: list[tuple[str, float]]) -> Limit:
        """The smaller of a notebook's own limit and its share of what is left."""
        share = None if self.minutes is None else share_s(self.left_s(), name, steps)
        return Limit(own_s) if share is None or own_s is not None and own_s <= share else Limit(share, self.minutes)

    def for_a_server(self, steps: list[tuple[str, float]]) -> Limit:
        """The longest that one may take to start or to come back: then nothing is left to measure it."""
        return Limit() if self.minutes is None else Limit(max(0.0, self.left_s() - _kept_s() - dict(steps).get(REPORT, 0.0)), self.minutes)

    def shortage(self, start_s: float, steps: list[tuple[str, float]]) -> list[str]:
        """Which notebooks will not have the time that is expected of them, as one line; none if all will. start_s: the server's start."""
        if self.minutes is None:
            return []
        left, short, out = self.left_s() - start_s, [], []
        for name, expected_s in steps:
            share = share_s(left, name, steps)
            left -= min(expected_s, share)
            if share < expected_s:
                (short if share else out).append(name)
        told = [f"{', '.join(names)} will be {what}" for names, what in ((short, "cut short"), (out, "left out")) if names]
        return [f"within {self.minutes:g} minutes, {_kept_s():.0f} s of which are kept for the end, not all of it fits: {'; '.join(told)}"] if told else []


def share_s(left_s: float, name: str, steps: list[tuple[str, float]]) -> float:
    """Of the `left_s` of a run, what its notebook `name` may take: what those after it are not expected to take. Where there is not enough
    for all, it still has amply what is expected of itself, so that the last ones are cut short and not the first; the report's time and the
    end's are nobody's. 0 where that is too little to begin."""
    at = [step for step, _ in steps].index(name)
    expected_s, after, free_s = steps[at][1], dict(steps[at + 1:]), left_s - _kept_s()
    share = free_s - sum(after.values())
    if name == REPORT:
        return max(expected_s, share)
    share = min(max(AMPLE * expected_s, share), free_s - after.get(REPORT, 0.0))
    return share if share >= LEAST_S else 0.0


def _kept_s() -> float:
    """Of a run's time, what no notebook is given: for one that does not end by itself, and for the run's own end."""
    return GRACE_S + KILL_S + ENDING_S


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
                with suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile; the others are still to be told
                    kernel.send_signal(how)
            if self._over.wait(wait_s):
                return


@contextmanager
def known(limit: Limit) -> Iterator[None]:
    """While inside, this process and kernels that it starts know when their time is over."""
    if limit.seconds is not None:
        os.environ[DEADLINE] = str(time.monotonic() + limit.seconds)
        os.environ |= {OF_RUN: f"{limit.minutes:g}"} if limit.minutes else {}
    try:
        yield
    finally:
        for name in (DEADLINE, OF_RUN) if limit.seconds is not None else ():
            os.environ.pop(name, None)


@contextmanager
def watched(limit: Limit) -> Iterator[Watchdog]:
    """While inside, kernels that this process starts know when their time is over, and are ended `GRACE_S` after it."""
    dog = Watchdog()
    with known(limit):
        if limit.seconds is None:
            yield dog
            return
        thread = threading.Thread(target=dog.watch, args=(float(os.environ[DEADLINE]) + GRACE_S,), daemon=True)
        thread.start()
        try:
            yield dog
        finally:
            dog.end()
            thread.join()


def longer(minutes: float | str = "") -> str:
    """What gives a notebook longer than it had. minutes: of its run; else what its environment says."""
    minutes = minutes or os.environ.get(OF_RUN, "")
    return f"more minutes than `--within {float(minutes):g}` give it longer" if minutes else f"{WIDER} in the environment gives it longer"


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
