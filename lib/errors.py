"""What a user is meant to read of what went wrong."""
import asyncio
import sys
import time
from collections.abc import Callable

from lib.hiding import hide


LONGEST = 1500  # characters: it is to be read


class UserError(Exception):
    """Something that the user can mend: one line that says what is wrong and what to do.

    The command line prints the line and exits with a status that is not 0; a notebook shows the line in
    place of a traceback.
    """

    def __str__(self):  # it may repeat what somebody typed, or what a server said
        text = super().__str__()
        return hide(text) if len(text) <= LONGEST else f"{hide(text[:LONGEST])}…"

    def _render_traceback_(self):  # IPython's hook for exceptions that draw themselves
        return [f"{type(self).__name__}: {self}"]


class OutOfTime(UserError):
    """A server for which a run's time was over before it answered; nothing was wrong with it until then."""


def in_one_line(keep: Callable[[], object]) -> None:
    """In a notebook: show what a server or the network did wrong, and what a check has found, as one line in place of a
    traceback. Elsewhere nothing. keep: called whatever a cell fails with, to save what the notebook has."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None:
        return
    import httpx2
    import openai

    def show(shell, kind, error, traceback, tb_offset=None):
        try:
            keep()
        except Exception as other:  # a full disk: the first fault is the one to be told
            print(f"what was measured could not be entered as figures ({other}); its records are kept")
        told = None
        if isinstance(error, (httpx2.TransportError, openai.APIError)):
            told = f"the server did not answer as it should, at {time.strftime('%H:%M:%S')} ({kind.__name__}: {error})"
        elif kind is AssertionError and str(error):
            told = f"the check failed: {error}"
        shell.showtraceback((UserError, UserError(told), None) if told else (kind, error, traceback), tb_offset)

    shell.set_custom_exc((Exception, asyncio.CancelledError, KeyboardInterrupt), show)
