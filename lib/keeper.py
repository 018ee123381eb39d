"""Keeps a run's server going between its notebooks, and writes down what happened to it (`events` in run.json).

A server that the run started is started again once if it has died or answers no more. One that was only connected to is
waited for once: whoever runs it may be starting it again.
"""
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import httpx2
from tqdm import tqdm

from lib import time_limit, troubles
from lib.errors import UserError
from lib.hiding import hide
from lib.rundir import RunDir
from lib.server import Server

BACK_S = 180.0  # how long a server of somebody else's is waited for
ANSWER_S = 15.0  # a server that does not say that it is well for so long is not


class Keeper:
    """`start`: starts the run's server and returns it, for servers that are ours. `server`: None where no notebook will ask for it."""

    def __init__(self, server: Server | None, folder: RunDir, start: Callable[[], Server]):
        self._server, self._folder, self._start = server, folder, start
        self._helped = False

    def server(self, after: str, made_room: bool = False) -> Server:
        """The server for the next notebook. after: the last one, "" before the first. made_room: that one stops the server
        of its own accord, to have its memory."""
        server = self._server
        if not server.alive() and made_room:
            self._again(after, "")
        elif not server.alive():
            self._restart(after, f"the server ended ({_why(server)})")
        elif after and self._folder.info()["notebooks"][after]["status"] != "done" and not answers(server):
            if server.process is None:
                self._wait(after)
            else:
                self._restart(after, f"the server was there and did not answer for {ANSWER_S:g} s")
        return self._server

    def _restart(self, after: str, what: str) -> None:
        if self._helped:
            self._say(after, f"{what}, the second time in this run: it is not started again")
            return
        self._helped = True
        self._server.stop()
        self._again(after, what)

    def _again(self, after: str, what: str) -> None:
        began, log = time.monotonic(), self._server.log
        if log and log.exists():  # it says why
            log.rename(log.with_name(f"server.older-{len(list(log.parent.glob('server.older-*.log'))) + 1}.log"))
        try:
            self._server = self._start()
            os.environ["WORKBOOK_API_KEY"] = self._server.api_key or ""
        except UserError as error:
            self._say(after, f"{what or 'the server was stopped to make room'} and does not start again: {error}")
            return
        if what:
            self._say(after, f"{what} and was started again, once, in {time.monotonic() - began:.0f} s")

    def _wait(self, after: str) -> None:
        if self._helped:
            return
        self._helped, began = True, time.monotonic()
        tqdm.write(f"the server does not answer: it is waited for, {BACK_S:g} s at most", file=sys.stderr)
        while not (back := answers(self._server)) and time.monotonic() - began < BACK_S and not time_limit.is_over():
            time.sleep(1.0)
        waited = time.monotonic() - began
        self._say(after, f"the server did not answer any more; it was waited for, and answered again after {waited:.0f} s" if back else
                  f"the server did not answer any more, nor did it within {waited:.0f} s of waiting")

    def _say(self, after: str, what: str) -> None:
        say(self._folder, after, what)


def say(folder: RunDir, after: str, what: str) -> None:
    """Enter what happened to a run's server, and tell it. after: the last notebook, "" before the first."""
    event = {"at": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"), "notebook": after, "what": what}
    folder.update_info(events=[*folder.info().get("events", []), event])
    tqdm.write(hide(f"{event['at'][11:19]} {f'after {after}: ' if after else ''}{what}"), file=sys.stderr)


def answers(server: Server) -> bool:
    """Does it say that it is well? What it answers does not matter where it knows no /health."""
    try:
        return server.get("/health", ANSWER_S).status_code < 500
    except httpx2.TransportError:
        return False


def _why(server: Server) -> str:
    code = getattr(server.process, "code", lambda: None)()
    how = f"signal {code - 128}" if code and code > 128 else f"status {code}"
    text = Path(server.log).read_text(encoding="utf-8", errors="replace") if server.log and Path(server.log).exists() else ""
    known = troubles.diagnose(text) or ("" if code and code > 128 else troubles.last_error(text))  # who is killed writes no last error
    return f"{how}; {known}" if text and known else how
