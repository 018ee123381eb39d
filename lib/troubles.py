"""Known ways in which a vLLM server fails: how one knows them, and the remedy. The table itself is data/troubles.yaml.

Used by lib.launch when a server dies, by `workbook doctor`, and by the page in 01_health_check.
"""
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lib import DATA
from lib.errors import UserError
from lib.machine import Check

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Trouble:
    """One entry of the table; what its fields mean stands there. `kind`: start, request or running."""

    kind: str
    name: str
    remedy: str
    pattern: str = ""
    article: bool = False
    provoke: dict = field(default_factory=dict, hash=False)
    request: dict = field(default_factory=dict, hash=False)
    not_here: str = ""
    line: str = ""  # as vLLM wrote it when it was provoked
    sign: str = ""
    see: str = ""

    def found_in(self, log: str) -> str | None:
        match = re.search(self.pattern, log) if self.pattern else None
        return None if match is None else (match[1] if match.re.groups else "")


@cache
def table() -> tuple[Trouble, ...]:
    """All entries, in the order in which they are looked for."""
    content = yaml.safe_load((DATA / "troubles.yaml").read_text(encoding="utf-8"))
    return tuple(Trouble(kind, **entry) for kind, entries in content.items() for entry in entries)


def of_kind(kind: str) -> list[Trouble]:
    return [trouble for trouble in table() if trouble.kind == kind]


def remedy(name: str) -> str:
    """The remedy for the trouble of that name."""
    return next(trouble.remedy for trouble in table() if trouble.name == name)


def shown(kind: str) -> "pd.DataFrame":
    """The entries of one kind for readers, those that the article names first."""
    import pandas as pd  # takes a second, which a mistyped command is to be told without

    rows = [{"cause": t.name + (" (in the article)" if t.article else ""), "how one knows it": t.line or t.sign, "remedy": t.remedy,
             **({"more in": t.see} if kind == "running" else
                {"provoked": f"no: {t.not_here}" if t.not_here else "yes"})}
            for t in sorted(of_kind(kind), key=lambda t: not t.article)]
    return pd.DataFrame(rows)


ANSI = re.compile(r"\x1b\[[0-9;]*m")


def find(log: str) -> tuple[Trouble, str] | None:
    """The first known trouble in a server's log, and its detail."""
    log = ANSI.sub("", log)
    found = ((trouble, trouble.found_in(log)) for trouble in of_kind("start"))
    return next(((trouble, _short(detail)) for trouble, detail in found if detail is not None), None)


def diagnose(log: str) -> str | None:
    """One line, "cause (detail): remedy", for the first known trouble in a server's log; else None."""
    found = find(log)
    return found and f"{_named(*found)}: {found[0].remedy}"


def check(log: Path) -> Check:
    """What `workbook doctor` says of a server's log."""
    try:
        found = find(log.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"{log} cannot be read ({error.strerror}): name a server's log, such as outputs/RUN/server.log")
    return Check(log.name, found is None, _named(*found) if found else "no known trouble", found[0].remedy if found else "")


def _named(trouble: Trouble, detail: str) -> str:
    return f"{trouble.name}{f' ({detail})' if detail else ''}"


def last_error(log: str) -> str:
    """The last line of a log that looks like an error, for troubles that nobody has met before."""
    lines = [line for line in ANSI.sub("", log).splitlines() if re.search(r"\b\w*(Error|Exception)\b: ", line)]
    return _short(lines[-1]) if lines else "its log names no error"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "..."
