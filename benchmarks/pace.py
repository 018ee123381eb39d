"""How even this machine's pace is: what one and the same piece of work takes on each of its cores, every two seconds, in µs.

    python -m benchmarks.pace [SECONDS]

Nothing else should run meanwhile. Where numbers come in two kinds, the larger are cores whose other half somebody uses.
"""
import statistics
import sys
import time

from lib import pace


def main(seconds: float = 60.0, every: float = 2.0) -> None:
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        cores = pace.by_core()
        print(f"{passed:5.1f} s  mean {statistics.fmean(cores.values()):4.0f}   ", *(f"{us:4.0f}" for us in cores.values()), flush=True)
        time.sleep(every)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
