"""Files that somebody else wrote: read within bounds, whatever they hold, and what is wrong with them is one line.

No tag of YAML makes an object of Python. An alias is refused: a few lines of them become gigabytes.
"""
import json
from pathlib import Path

import yaml

LARGEST_YAML, LARGEST_JSON, LARGEST_LINE = 2_000_000, 256_000_000, 64_000_000  # bytes
DEEPEST = 50  # lists and mappings in each other
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unreadable(ValueError):
    """What is wrong with a file's content, in a line."""


def yaml_text(text: str):
    """YAML -> what it says. Raises Unreadable."""
    if len(text) > LARGEST_YAML:
        raise Unreadable(f"{len(text):,} characters are too many: at most {LARGEST_YAML:,}")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if getattr(event, "anchor", None) is not None:
                raise Unreadable(f"an anchor or alias ({event.anchor[:40]}) is not taken: write it out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise Unreadable(f"more than {DEEPEST} lists or mappings in each other")
        return yaml.load(text, Loader=_Loader)
    except Unreadable:
        raise
    except Exception as error:  # YAML's own errors, and what its dates and numbers raise
        raise Unreadable(f"not readable as YAML: {' '.join(str(error).split())[:160]}") from None


def yaml_file(path: Path):
    """The same of a file. Raises Unreadable, or OSError where there is none."""
    return yaml_text(_text(path, LARGEST_YAML))


def json_file(path: Path):
    """JSON -> what it says. Raises Unreadable, or OSError where there is no file."""
    text = _text(path, LARGEST_JSON)
    try:
        return json.loads(text)
    except RecursionError:
        raise Unreadable("too many lists or objects in each other") from None
    except ValueError as error:
        raise Unreadable(str(error)[:160]) from None


def _text(path: Path, most: int) -> str:
    path = Path(path)
    try:
        size = path.stat().st_size
    except ValueError:  # a name that no file can have
        raise FileNotFoundError(str(path)) from None
    if not path.is_file():  # a pipe would be waited for, and a device never ends
        raise Unreadable("it is no file")
    if size > most:
        raise Unreadable(f"{size / 1e6:,.0f} MB are too many: at most {most / 1e6:,.0f}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8: {error.reason} at byte {error.start}") from None
