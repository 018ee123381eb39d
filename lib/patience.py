"""When is a server given up on, and what is said then. Pure but for the clock on the wall.

A series ends before its time when its server is gone, silent or failing, or when its notebook has had its time.
"""
import time

import pandas as pd

GONE_S = 10.0  # every connection refused for so long
FAILING_S, FAILING = 60.0, 20  # nothing but failures for so long, and so many of them at least
SILENT, OPEN_LOOP = 2, 8  # requests in a row, at least, that waited in vain; in an open loop
ENDINGS = {
    "gone": "the server is gone: nothing takes a connection any more",
    "silent": "the server does not answer any more: request after request waited in vain",
    "failing": f"the server fails: for {FAILING_S:g} s no request was answered",
    "time": "the notebook's time was over",
}
KINDS = {"refused": "found no connection", "reset": "broke off", "timeout": "waited in vain", "http": "turned away",
         "stream": "ended in an error", "truncated": "ended too soon", "garbage": "answered with something else",
         "aborted": "broken off here", "no_usage": "did not tell their tokens"}


class Patience:
    """Told what became of each request as it ends; `ending`: a key of ENDINGS once patience is over, "" until then.

    streams: how many are in flight, None in an open loop."""

    def __init__(self, streams: int | None, gone_s: float = GONE_S):
        self.ending = ""
        self._gone_s, self._silent = gone_s, max(SILENT, streams or OPEN_LOOP)
        self._in_vain = self._failures = 0
        self._since: dict[str, float | None] = {"refused": None, "failing": None}

    def heard(self, error: str | None, now: float) -> None:
        """error: as in a record. now: s, monotonic."""
        self._in_vain = self._in_vain + 1 if error == "timeout" else 0
        self._failures = self._failures + 1 if error else 0
        for what, holds in (("refused", error == "refused"), ("failing", error is not None)):
            self._since[what] = (self._since[what] or now) if holds else None

    def over(self, now: float) -> str:
        """The ending, which is kept once there is one."""
        if self.ending:
            return self.ending
        if self._since["refused"] and now - self._since["refused"] > self._gone_s:
            self.ending = "gone"
        elif self._in_vain >= self._silent:
            self.ending = "silent"
        elif self._since["failing"] and now - self._since["failing"] > FAILING_S and self._failures >= FAILING:
            self.ending = "failing"
        return self.ending


def sentence(name: str, frame: pd.DataFrame, ending: str) -> str:
    """What happened to a series and when; "" if it came to its end and something was answered.

    frame: rows with sent, done (s, monotonic), error and message. ending: of Patience."""
    good = frame["error"].isna()
    after = frame[frame["done"] > frame.loc[good, "done"].max()] if good.any() else frame
    if not ending and len(after) > 1 and "refused" in set(after["error"]):
        ending = "gone"  # at the very end, before patience was over
    if not ending and (good.any() or frame.empty):
        return ""
    what = ENDINGS.get(ending, "not one request was answered")
    began, last = frame[["sent", "done"]].min().min(), frame.loc[good, "done"].max()
    when = (f"The last answer came at {_clock(last)}, {last - began:,.1f} s after the first request" if good.any() else
            f"Not one answer came, from {_clock(began)} to {_clock(frame['done'].max())}" if len(frame) else "No request was sent")
    failed = frame[~good]
    kinds = ", ".join(f"{count} {KINDS.get(kind, kind)}" for kind, count in failed["error"].value_counts().items())
    said = failed["message"].dropna()
    return (f"series {name}: {what}. {when}. {good.sum():,} of {len(frame):,} requests were answered and are kept"
            + (f"; {kinds}" if kinds else "") + (f" ({' '.join(str(said.mode()[0]).split())[:160]})" if len(said) else ""))


def out_of_time(name: str) -> str:
    """What is said of a series that was not begun."""
    return f"series {name}: {ENDINGS['time']} at {time.strftime('%H:%M:%S')}, and it was not begun"


def _clock(at: float) -> str:
    """An instant of the monotonic clock as the wall's."""
    return "?" if pd.isna(at) else time.strftime("%H:%M:%S", time.localtime(time.time() - time.monotonic() + at))
