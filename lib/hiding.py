"""The way out for text: what goes to files, pages, logs and messages passes `hide`.

lib.secrets knows how secrets look. Here is known which ones there are: keys in the environment, this host's name, the
hosts of the servers that are asked. A key becomes `***`, a home folder `~`, a host that nobody asks `host`. A server's
host becomes `host-3fa2c1`, by which this machine finds it again (in outputs/.hosts, for its owner's eyes only), so that a
command which a run has written down can be given again here, and says nothing elsewhere.
"""
import fcntl
import os
import re
import secrets as random
import socket
from functools import cache

from lib import OUTPUTS, secrets

KEYS = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)$")  # names of environment variables that hold one
ADDRESSES = ("WORKBOOK_SERVER", "WORKBOOK_LOAD")  # those that hold an address
MARK = re.compile(r"\bhost-[0-9a-f]{6}\b")  # what stands for the host of a server
IN_ONE_PIECE = re.compile(r"(data:image/[\w+.-]+;base64,[A-Za-z0-9+/=]+)")
_learned: dict[str, set] = {"hosts": set(), "values": set()}


def learn(address: str = "", *keys: str | None) -> None:
    """From now on the host of this address (a URL, or HOST:PORT) and these keys are hidden in this process."""
    _learned["hosts"] |= {secrets.host(address)} - {""}
    _learned["values"] |= set(filter(None, keys))
    known.cache_clear()
    _home.cache_clear()


@cache
def known() -> tuple[tuple, tuple]:
    """(hosts, keys) that must not be seen: those of the environment, as it was at the last `learn`, and what was learned."""
    hosts = _learned["hosts"] | {secrets.host(os.environ.get(name, "")) for name in ADDRESSES}
    keys = {v for k, v in os.environ.items() if KEYS.search(k.upper()) and not v.startswith(("/", "~", "."))}
    return tuple(sorted((hosts | {_this_host()}) - {"", "auto", "ray"})), tuple(sorted(_learned["values"] | keys))


def hide(text: str) -> str:
    """The text with a mark in place of whatever must not be seen; pictures in it are left as they are."""
    if len(text) > 10_000 and ";base64," in text:
        return "".join(part if n % 2 else _hide(part) for n, part in enumerate(IN_ONE_PIECE.split(text)))
    return _hide(text)


def _hide(text: str) -> str:
    hosts, keys = known()
    text = _home().sub("~", text)
    return secrets.replace(text, {"a home folder": "~", "an address": _mark, "a host name": _mark, "a host name of this run": _mark},
                           _patterns(hosts, keys))


@cache
def _patterns(hosts: tuple, keys: tuple) -> tuple:
    return tuple(secrets.known(hosts, keys, sparing=True))


def hide_in(content):
    """The same for all strings in lists and dicts. What is a picture in a notebook stays."""
    if isinstance(content, dict):
        return {hide(k) if isinstance(k, str) else k: v if str(k).startswith("image/") else hide_in(v) for k, v in content.items()}
    if isinstance(content, (list, tuple)):
        return [hide_in(entry) for entry in content]
    return hide(content) if isinstance(content, str) else content


@cache
def _home() -> re.Pattern:
    """The home folder, wherever it lies; what matches nothing where there is none of one's own."""
    path = os.path.expanduser("~").rstrip("/")
    return re.compile(rf"(?<![\w.~/-]){re.escape(path)}(?![\w.-])" if path.startswith("/") else r"(?!)")


# -- hosts -------------------------------------------------------------------------------------------
@cache
def _this_host() -> str:
    """This machine's name; "" where it could be a word of any text."""
    name = socket.gethostname()
    return name if re.search(r"[\d._-]", name) else ""


def _mark(name: str) -> str:
    """What stands for a host."""
    if name.lower() not in _learned["hosts"]:
        return "host"
    return _marks().get(name.lower()) or _enter(name.lower())


def real(address: str) -> str:
    """An address with the hosts that it means in place of their marks, on the machine that gave them."""
    names = {mark: name for name, mark in _marks().items()} if MARK.search(address) else {}
    return MARK.sub(lambda match: names.get(match[0], match[0]), address)


def _marks() -> dict[str, str]:
    """Host -> its mark."""
    try:
        lines = (OUTPUTS / ".hosts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name: mark for mark, _, name in reversed([line.partition(" ") for line in lines])}


def _enter(name: str) -> str:
    """A new mark for a host; the first that was given counts."""
    try:
        OUTPUTS.mkdir(parents=True, exist_ok=True)
        with open(os.open(OUTPUTS / ".hosts", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as book:
            fcntl.flock(book, fcntl.LOCK_EX)
            if name not in _marks():
                book.write(f"host-{random.token_hex(3)} {name}\n")
                book.flush()
    except OSError:
        return "host"
    return _marks().get(name, "host")
