"""How fast this machine's processors are just now.

On a rented machine a core takes half as long again or more for the same work while a neighbour uses its other half, and which cores
those are changes within seconds (docs/gpu.md). A server that waits for its processors is slower, too: starts of one command
differed so. The pace is measured while the server is idle, so that no configuration can bend it, and at several moments, since
one says little of those that follow.
"""
import contextlib
import os
import statistics
import time

WORK = 5000  # rounds of a loop: a third of a millisecond
PIECES = 3  # in a row on one core: the first may find its caches cold
SECONDS = 0.3


def by_core() -> dict[int, float]:
    """What one and the same small piece of work takes on each core that may be used, µs of processor time: waiting for a core that
    is taken does not count, a slow core does. Where processes cannot be put on a core, one number for whichever it was."""
    if not hasattr(os, "sched_setaffinity"):
        return {0: _piece_us()}
    had, found = os.sched_getaffinity(0), {}
    try:
        for core in sorted(had):
            os.sched_setaffinity(0, {core})
            found[core] = _piece_us()
    except OSError:  # a core that is gone, or a container that forbids it
        found = found or {0: _piece_us()}
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, had)
    return found


def now() -> float:
    """The mean over all cores for SECONDS, µs."""
    took, end = [], time.monotonic() + SECONDS
    while not took or time.monotonic() < end:
        took += by_core().values()
    return statistics.fmean(took)


def _piece_us() -> float:
    took = []
    for _ in range(PIECES):
        began, sum_ = time.thread_time_ns(), 0
        for k in range(WORK):
            sum_ += k * k % 7
        took.append(time.thread_time_ns() - began)
    return statistics.median(took) / 1000
