"""The shape of a load: how many requests are in flight, or when each is to be sent. Pure.

Closed loop: a stream sends its next request when its last one has ended, as a fixed number of patient users
would. Open loop: requests come at instants that do not depend on the server, as the public does; a server
that cannot keep up grows a queue, which a closed loop can never show.
"""
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lib.errors import UserError

ARRIVALS = ("poisson", "constant", "gamma")


@dataclass(frozen=True)
class Closed:
    """`concurrency` requests in flight. Their starts are spread over `stagger_s`, so that the streams do not
    march in step and no burst of first requests is measured."""

    concurrency: int
    stagger_s: float | None = None  # None: 20 ms a stream, at most 2 s

    def __post_init__(self):
        if self.concurrency < 1:
            raise UserError(f"concurrency {self.concurrency}: at least 1 request must be in flight")

    @property
    def spread_s(self) -> float:
        """Seconds until all streams have begun: a series that ends after so many has measured nothing."""
        return min(2.0, 0.02 * self.concurrency) if self.stagger_s is None else self.stagger_s

    def starts(self) -> list[float]:
        """Seconds after the common start at which each stream sends its first request."""
        return [k * self.spread_s / self.concurrency for k in range(self.concurrency)]

    def __str__(self):
        return f"closed loop, {self.concurrency} in flight"


@dataclass(frozen=True)
class Open:
    """Requests at `rate` a second. `arrivals`: poisson (independent users), constant, or gamma with
    `burstiness` k: gaps are Gamma(k, 1 / (k rate)), so 1 is Poisson and less is burstier."""

    rate: float
    arrivals: str = "poisson"
    burstiness: float = 1.0

    def __post_init__(self):
        if not self.rate > 0 or not self.burstiness > 0:
            raise UserError(f"rate {self.rate}, burstiness {self.burstiness}: both must be greater than 0")
        if self.arrivals not in ARRIVALS:
            raise UserError(f"arrivals {self.arrivals!r}: choose one of {', '.join(ARRIVALS)}")

    def instants(self, seed: int) -> Iterator[float]:
        """Seconds after the common start, ascending, without end; the same seed gives the same."""
        if self.arrivals == "constant":
            return (i / self.rate for i in itertools.count())
        k = self.burstiness if self.arrivals == "gamma" else 1.0
        rng = np.random.default_rng(seed)
        return itertools.accumulate(rng.gamma(k, 1 / (k * self.rate)) for _ in itertools.count())

    def __str__(self):
        extra = f", burstiness {self.burstiness:g}" if self.arrivals == "gamma" else ""
        return f"open loop, {self.rate:g} requests/s, {self.arrivals}{extra}"


@dataclass(frozen=True)
class Ramp:
    """Poisson arrivals whose rate goes evenly from `low` to `high` requests a second in `over_s`, then stays."""

    low: float
    high: float
    over_s: float

    def __post_init__(self):
        if self.low < 0 or self.high <= 0 or self.over_s <= 0:
            raise UserError(f"ramp {self.low} to {self.high} in {self.over_s} s: rates and time must be greater than 0")

    def instants(self, seed: int) -> Iterator[float]:
        """As Open.instants. By inversion: arrival i is where the expected count reaches a unit-rate Poisson
        process's i-th instant (Devroye, Non-Uniform Random Variate Generation, 1986, section VI.1.3)."""
        rng = np.random.default_rng(seed)
        slope = (self.high - self.low) / self.over_s
        at_end = (self.low + self.high) / 2 * self.over_s
        for expected in itertools.accumulate(rng.exponential() for _ in itertools.count()):
            if expected >= at_end:
                yield self.over_s + (expected - at_end) / self.high
            elif slope == 0:
                yield expected / self.low
            else:
                yield (math.sqrt(self.low**2 + 2 * slope * expected) - self.low) / slope

    def __str__(self):
        return f"open loop, {self.low:g} to {self.high:g} requests/s in {self.over_s:g} s"


Shape = Closed | Open | Ramp
