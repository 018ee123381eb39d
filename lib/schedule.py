"""How long a run will take, and when each notebook will have ended. Pure.

A profile's `takes` says for each notebook how many seconds it needs: a constant, and so many times a parameter
(times its length where it is a list). So `-p` changes the plan, too.
"""
from dataclasses import dataclass
from datetime import datetime, timedelta

from tqdm import tqdm

from lib.errors import UserError

UNKNOWN_S = 60.0  # a notebook of which the profile says nothing


def check(profile: str, takes) -> None:
    """Raises UserError where what a profile says of the time is of another form."""
    entries = list(takes.values()) if isinstance(takes, dict) else [takes]
    good = all(isinstance(entry, dict) and all(type(n) in (int, float) and 0 <= n < 1e9 for n in entry.values()) for entry in entries)
    if not good:
        raise UserError(f"profile {profile}: `takes` names seconds for each notebook, such as 02_single_request: {{seconds: 10}}")


def expected_s(takes: dict, parameters: dict) -> float:
    """takes: {"seconds": 10, "level_seconds": 14} is 10 s and 14 times the parameter level_seconds."""
    total = float(takes.get("seconds", 0.0))
    for name, factor in takes.items():
        value = parameters.get(name, 0)
        total += factor * (len(value) if isinstance(value, (list, str)) else value) if name != "seconds" else 0.0
    return total


@dataclass
class Schedule:
    """`steps`: (name, expected seconds), in order; a server's start is one of them."""

    steps: list[tuple[str, float]]

    @property
    def seconds(self) -> float:
        return sum(seconds for _, seconds in self.steps)

    def lines(self, begin: datetime) -> list[str]:
        """The plan for a terminal, with the expected end of each step."""
        width, end, out = max((len(name) for name, _ in self.steps), default=0), begin, []
        for name, seconds in self.steps:
            end += timedelta(seconds=seconds)
            out.append(f"  {name:<{width}}  {duration(seconds):>8}  until {end:%H:%M:%S}")
        return out

    def left_s(self, done: int, in_step_s: float) -> float:
        """Seconds that are left when `done` steps are over and the next has run for `in_step_s`."""
        rest = [seconds for _, seconds in self.steps[done:]]
        return max(0.0, rest[0] - in_step_s) + sum(rest[1:]) if rest else 0.0


def duration(seconds: float) -> str:
    """`45 s`, `12 min`"""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Bar(tqdm):
    """A bar over a schedule's steps that shows the expected time left instead of tqdm's guess."""

    FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, about {left} left{postfix}]"

    def __init__(self, schedule: Schedule, **options):
        self._schedule, self._step_began = schedule, 0.0
        super().__init__(total=len(schedule.steps), bar_format=self.FORMAT, dynamic_ncols=True, **options)

    def update(self, n=1):
        self._step_began = self.format_dict["elapsed"]
        return super().update(n)

    @property
    def format_dict(self):
        look = super().format_dict
        left = self._schedule.left_s(look["n"], look["elapsed"] - getattr(self, "_step_began", 0.0))
        return look | {"left": tqdm.format_interval(left)}
