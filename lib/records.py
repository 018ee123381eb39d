"""The record: one row per request that was sent, whatever became of it. JSONL in, DataFrame out."""
import dataclasses
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import pandas as pd

from lib.reading import LARGEST_LINE

log = logging.getLogger(__name__)

# What a record may say in `error`. An error is a row, never an exception that ends the run.
ERROR_KINDS = {
    "refused": "no connection could be made",
    "reset": "the connection broke before or while the reply came",
    "timeout": "silence for longer than the time limit",
    "http": "the server answered with an HTTP error status",
    "stream": "an error object came inside a reply with status 200",
    "truncated": "the reply ended without its end marker",
    "garbage": "the reply was not the event stream that was asked for",
    "aborted": "this side broke it off, because the series was stopped",
    "no_usage": "the reply did not say how many tokens it holds",
}


@dataclass
class Record:
    """One request and its reply. Times are seconds on this machine's monotonic clock; those of a request that
    another host sent were its own and are carried over, give or take `clock_error_s`.

    `reads` holds one pair per read that brought tokens: seconds after `sent`, tokens that it brought. `sent_at`
    holds, per read, when the server sent its first token, where the server tells (the metronome does).
    """

    series: str
    index: int
    phase: str = "measure"  # or "warmup": sent, kept, and left out of every figure
    sent: float | None = None  # the request's last byte went to the socket
    first: float | None = None  # the read that brought the first output token
    last: float | None = None  # the read that brought the last output token
    done: float | None = None  # the end of the reply, or of the attempt
    reads: list = field(default_factory=list)
    sent_at: list = field(default_factory=list)
    scheduled: float | None = None  # open loop: when the request was to be sent
    clock_error_s: float | None = None  # sent from another host: how far its times may be off (see lib.remote)
    turn: int | None = None  # of the conversation `index`, from 1
    requested_tokens: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int = 0
    finish: str | None = None
    status: int | None = None
    error: str | None = None  # a key of ERROR_KINDS
    message: str | None = None
    text: str = ""


FIELDS = [f.name for f in dataclasses.fields(Record)]


def encoded(record: Record) -> bytes:
    """A record's line in the file."""
    return msgspec.json.encode(record) + b"\n"


class Sink:
    """Appends records to a JSONL file as they end, so that a cut-off run keeps what it has. Several processes may
    append to one file: a line is one write. A disk that is full may take a part of one: that raises OSError, and the next line,
    if there is room again, begins on a new one."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a+b", buffering=0)

    def write(self, record: Record) -> None:
        self.append(encoded(record))

    def append(self, lines: bytes) -> None:
        """Records that were `encoded` elsewhere."""
        end = os.fstat(self._file.fileno()).st_size
        torn = end and os.pread(self._file.fileno(), 1, end - 1) != b"\n"
        data = memoryview(b"\n" + lines if torn else lines)
        while data:  # the rest of a part raises, and says why
            data = data[self._file.write(data):]

    def close(self) -> None:
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def lines(path: Path, start: int = 0, say: bool = True) -> tuple[list[dict], int]:
    """The objects of a JSONL file from byte `start` on, and how many lines are none: the last one of a writer that was cut off
    is torn. `say`: what is left out is told in one line on stderr, which is a notebook's too."""
    rows, torn = [], 0
    with Path(path).open("rb") as file:
        file.seek(start)
        for line in iter(lambda: file.readline(LARGEST_LINE), b""):
            row = _object(line)
            if row is not None:
                rows.append(row)
            elif line.strip():
                torn += 1
    if torn and say:
        log.warning("%s", torn_words(path, torn, len(rows)))
    return rows, torn


def _object(line: bytes) -> dict | None:
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            row = json.loads(line)  # takes NaN too, as some tools write it
        except (ValueError, RecursionError):
            return None
    return row if isinstance(row, dict) else None


# A row as `read` takes it: somebody may have written another.
_COUNT = Annotated[int, msgspec.Meta(ge=-2**53, le=2**53)]
_COUNTS = ("index", "turn", "status", "requested_tokens", "prompt_tokens", "output_tokens")
_TYPES = {"reads": list[tuple[float, float]], "sent_at": list[float]} | dict.fromkeys(_COUNTS, _COUNT) | dict.fromkeys(
    ("series", "phase", "finish", "error", "message", "text"), str)
_Row = msgspec.defstruct("_Row", [(name, _TYPES.get(name, float) | None, None) for name in FIELDS])


def _typed(row: dict) -> dict | None:
    try:
        return msgspec.structs.asdict(msgspec.convert(row, _Row))
    except (msgspec.ValidationError, OverflowError):
        return None


def torn_words(path: Path, torn: int, whole: int) -> str:
    """What is said of a file with lines that are no records."""
    what = "a line is torn: whoever wrote it was cut off" if torn == 1 else f"{torn} lines are torn or no records"
    return f"{Path(path).name}: {what}; left out, and {whole} whole ones are kept"


def read(path: Path, start: int = 0, say: bool = True) -> pd.DataFrame:
    """The records of a JSONL file from byte `start` on, one row each. A torn last line (a run cut off) is left out, said (see
    `lines`) and counted in `frame.attrs["torn_lines"]`."""
    found, torn = lines(path, start, say)
    rows = [row for row in map(_typed, found) if row is not None]
    frame = to_frame(rows)
    frame.attrs["torn_lines"] = torn + len(found) - len(rows)
    return frame


def to_frame(rows: list) -> pd.DataFrame:
    """Records or dicts -> DataFrame with one column per field, in the order of sending."""
    rows = [dataclasses.asdict(r) if isinstance(r, Record) else r for r in rows]
    frame = pd.DataFrame(rows, columns=FIELDS)
    # Pairs as lists of lists take ten times the memory of an array.
    frame["reads"] = [np.asarray(r if r is not None else [], dtype=float).reshape(-1, 2) for r in frame["reads"]]
    numeric = ["index", "turn", "scheduled", "sent", "first", "last", "done", "requested_tokens", "prompt_tokens", "output_tokens",
               "clock_error_s"]
    frame[numeric] = frame[numeric].apply(pd.to_numeric, errors="coerce")
    return frame.sort_values(["sent", "index"], na_position="last", ignore_index=True)
