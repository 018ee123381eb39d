"""What must not be published: keys, tokens, home folders, host names. Pure: text in, findings out."""
import re
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
    "a password in a URL": r"://[^\s/@:]{0,60}:(?P<secret>[^\s/@]{1,200})@",
    "a token in a URL": r"(?i:[?&](?:token|key|api_?key|access_token|auth|sig|signature|password)=)(?P<secret>[^\s&\"'<>]{4,})",
    "a home folder": r"(?<![\w.])/(?:home|Users)/[^\s/\"'<>]+|(?<![\w./-])/root(?=/|\b(?![\w.]))|\b[A-Za-z]:\\+Users\\+[^\s\\\"'<>]+",
    "an address": r"(?<![\w.])(?!127\.|0\.0\.0\.0)(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.])",
    "a host name": r"(?i:\b[\w-]{1,63}(?:\.[\w-]{1,63}){0,6}\.(?:local|internal|intranet|lan|corp|localdomain)\b)|"
                   r"(?i:\b(?:https?|ray|tcp|wss?|ssh)://(?:[^\s/@]{1,200}@)?(?P<secret>(?!(?:localhost|host)(?![\w-]))[a-z][\w-]{0,62})(?=[:/\s\"'<]|$)(?![^\s/]{0,260}@))",
}
_KINDS = {kind: re.compile(pattern) for kind, pattern in PATTERNS.items()}
OURSELVES = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "")


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
    known = _KINDS | {kind: re.compile("|".join(found)) for kind, found in (
        ("a host name of this run", [rf"(?i:(?<![\w-]){re.escape(h)}(?![\w-]))" for h in hosts if h.lower() not in OURSELVES]),
        ("a key of this environment", [re.escape(v) for v in values if len(v) >= 8])) if found}
    return [Finding(kind, number, match.groupdict().get("secret") or match[0])
            for number, line in enumerate(text.splitlines() or [""], 1)
            for kind, pattern in known.items() for match in pattern.finditer(line)]


def host(address: str) -> str:
    """The host that a URL, or HOST:PORT, names; "" where it names none, or this machine."""
    try:
        found = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    except ValueError:
        return ""
    return "" if found in OURSELVES or found.startswith("127.") else found
