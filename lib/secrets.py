"""What must not be published: keys, tokens, home folders, host names. Pure: text in, findings out."""
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

_VALUE = r"[A-Za-z0-9_.~+/=-]"
PATTERNS = {  # kind -> what gives it away; the group `secret`, or all of it, is what must not be seen
    "an API key": rf"\b(?:sk|rk|pk|nvapi|glpat|xox[abprs]|gsk)-{_VALUE}{{16,}}|\bAKIA[0-9A-Z]{{16}}\b|\bAIza[\w-]{{30,}}|"
                  r"(?i:(?<![a-z])(?:api[-_ ]?key|access[-_ ]?key|secret|password|passwd)[\"']?\s{0,3}[:=\s]\s{0,3}[\"']?"
                  r"(?P<secret>(?=[a-z_.~+/=-]{0,60}\d)[\w.~+/=-]{8,}))",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{16,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})",
    "a bearer token": rf"(?i:\bbearer\s{{1,3}})(?P<secret>(?=[A-Za-z_.~+/=-]{{0,60}}\d){_VALUE}{{8,}})",
    "a signed token": r"\beyJ[\w-]{8,2000}\.[\w-]{8,4000}\.[\w-]{8,}",
    "a private key": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----",
    "a password in a URL": r"://[^\s/@:]{0,60}:(?P<secret>(?!\*{3}@)[^\s/@\"'<>]{1,200})@",
    "a token in a URL": r"(?i:[?&](?:token|key|api_?key|access_token|auth|sig|signature|password)=)(?P<secret>(?!\*{3})[^\s&\"'<>]{4,})",
    "a home folder": r"(?<![\w.~])/(?:home|Users)/[^\s/\"'<>]+|(?<![\w./-])/root(?=/|\b(?![\w.]))|\b[A-Za-z]:\\+Users\\+[^\s\\\"'<>]+",
    "an address": r"(?<![\w.])(?!127\.|0\.0\.0\.0)(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.])",
    "a host name": r"(?i:\b[\w-]{1,63}(?:\.[\w-]{1,63}){0,6}\.(?:local|internal|intranet|lan|corp|localdomain)\b)|"
                   r"(?i:\b(?:https?|ray|tcp|wss?|ssh)://(?:[^\s/@]{1,200}@)?(?P<secret>(?!(?:localhost|host(?:-[0-9a-f]{6})?)(?![\w-]))[a-z][\w-]{0,62})(?=[:/\s\"'<]|$)(?![^\s/]{0,260}@))",
}
_KINDS = {kind: re.compile(pattern) for kind, pattern in PATTERNS.items()}
_HINTS = {  # without one of these there is none of the kind: a search for words costs a hundredth of the pattern's
    "an API key": ("sk-", "rk-", "pk-", "nvapi-", "glpat-", "xox", "gsk-", "akia", "aiza", "key", "secret", "passw"),
    "a Hugging Face token": ("hf_",), "a GitHub token": ("gh", "github_pat_"), "a bearer token": ("bearer",),
    "a signed token": ("eyj",), "a private key": ("private key",), "a password in a URL": ("://",), "a token in a URL": ("?", "&"),
    "a home folder": ("/home/", "/users/", "/root", "\\users\\"),
    "a host name": ("://", ".local", ".internal", ".intranet", ".lan", ".corp")}
WORDS = ("vllm", "llm", "gpu", "server", "model", "api")
OURSELVES = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "")
HIDDEN = re.compile(r"host(?:-[0-9a-f]{6})?")  # what lib.hiding has put in a host's place: names nobody


@dataclass(frozen=True)
class Finding:
    """`line`: counted from 1. `secret`: what was found; print `shown` instead."""

    kind: str
    line: int
    secret: str

    @property
    def shown(self) -> str:
        """Enough to find it again by, too little to use."""
        return f"{self.secret[:3]}…, {len(self.secret)} characters"


def find(text: str, hosts: tuple = (), values: tuple = ()) -> list[Finding]:
    """What must not be seen, in the order of the lines. hosts: names that are known to be somebody's; values: keys
    that are known, such as those in the environment."""
    kinds = [*_possible(text).items(), *known(hosts, values)]
    return [Finding(kind, number, match.groupdict().get("secret") or match[0])
            for number, line in enumerate(text.splitlines() or [""], 1)
            for kind, pattern in kinds for match in pattern.finditer(line)]


def known(hosts: tuple = (), values: tuple = (), sparing: bool = False) -> Iterator[tuple[str, re.Pattern]]:
    """The patterns of what is known: (kind, pattern). A host's name that is a word of every draft (`vllm`), or with `sparing` any
    that might be a word, is looked for only where it stands as a host's does."""
    names = [rf"(?i:(?<![\w-]){re.escape(h)}(?![\w-]))" if re.search(r"[\d._:-]", h) or not (sparing or h.lower() in WORDS) else
             rf"(?i:(?:(?<=//)|(?<=@)|(?<=host=['\"])){re.escape(h)}(?![\w-]))|(?i:(?<![\w-]){re.escape(h)}(?=:\d))"
             for h in hosts if h.lower() not in OURSELVES]
    if names:
        yield "a host name of this run", re.compile("|".join(names))
    if keys := [re.escape(v) for v in sorted(values, key=len, reverse=True) if len(v) >= 8]:
        yield "a key of this environment", re.compile("|".join(keys))


def replace(text: str, marks: dict, kinds: Iterator[tuple[str, re.Pattern]] = ()) -> str:
    """`text` with a mark in place of each secret. marks: kind -> what is put there, or a function of the secret; "***" for the
    others. kinds: what is known besides."""
    def put(kind, match):
        mark = marks.get(kind, "***")
        start, end = match.span("secret") if match.groupdict().get("secret") else match.span()
        start, end = start - match.start(), end - match.start()
        return match[0][:start] + (mark if isinstance(mark, str) else mark(match[0][start:end])) + match[0][end:]

    for kind, pattern in [*kinds, *_possible(text).items()]:
        text = pattern.sub(lambda match: put(kind, match), text)
    return text


def _possible(text: str) -> dict[str, re.Pattern]:
    """The kinds that a text may hold."""
    folded = text.casefold()
    return {kind: pattern for kind, pattern in _KINDS.items() if kind not in _HINTS or any(hint in folded for hint in _HINTS[kind])}


def host(address: str) -> str:
    """The host that a URL, or HOST:PORT, names; "" where it names none, this machine, or one that is hidden already."""
    try:
        named = urlsplit(address if "://" in address else f"//{address}")
        found = (named.port, named.hostname or "")[1]  # a port that is no number raises: `shape:MODEL` names no host
    except ValueError:
        return ""
    return "" if found in OURSELVES or found.startswith("127.") or HIDDEN.fullmatch(found) else found
