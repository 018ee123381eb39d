"""How fast this machine's processors are just now.

On a rented machine the same work takes half as long again while a neighbour uses the other half of a core, for seconds or for
minutes, and a server that waits for its processors is slower by nearly as much: docs/gpu.md has starts of one command that
differed so. It is measured while the server is idle, so that no configuration can bend it.
"""
import os
import statistics
import time

WORK = 5000  # rounds of a loop: a third of a millisecond
SECONDS = 0.3


def now(seconds: float = SECONDS) -> float:
    """The processor time of one and the same small piece of work, µs: the mean over all cores that may be used, each in turn.

    Of processor time, not of the clock: waiting for a core that is taken does not count, a slow core does.
    """
    pin = getattr(os, "sched_setaffinity", None)
    cores = os.sched_getaffinity(0) if pin else {0}
    took, end = [], time.monotonic() + seconds
    try:
        while not took or time.monotonic() < end:
            for core in sorted(cores):
                if pin:
                    pin(0, {core})
                took.append(_piece())
    finally:
        if pin:
            pin(0, cores)
    return statistics.fmean(took) / 1000


def _piece() -> int:
    """ns of this thread's processor time."""
    began, sum_ = time.thread_time_ns(), 0
    for k in range(WORK):
        sum_ += k * k % 7
    return time.thread_time_ns() - began
