"""Somebody else's words, made fit to be shown: what a server replied, or what a run folder says. Pure.

HTML and Markdown are escaped where a page is made; what is left to do is here. Terminal codes, and marks that turn the direction
of writing, would otherwise act on what stands beside them, and a reply may be longer than any page.
"""
import re
import unicodedata

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
LONGEST = 300  # characters of anything that a run folder says in words
LONGEST_REPLY = 2_000  # characters of a reply beside its picture or in a table


def visible(text) -> str:
    """Text without terminal codes, control characters, and marks that turn the direction of writing."""
    text = ANSI.sub("", str(text))
    if text.replace("\n", "").isprintable():  # most are, and a long reply is looked at often
        return text
    return "".join(c for c in text if c in "\n\t\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))


def clean(text, most: int = LONGEST) -> str:
    """Somebody else's words on one line, cut at `most` characters."""
    text = " ".join(visible(str(text)[: 20 * most].replace("\r", "\n")).split())
    return text if len(text) <= most else text[:most].rstrip() + "…"


def fit(text: str, most: int = LONGEST_REPLY) -> str:
    """A reply with its lines, cut at `most` characters; then its whole length is told."""
    shown = visible(text[: 2 * most])[:most]
    return shown if len(text) <= most else f"{shown}… ({len(text):,} characters)"
