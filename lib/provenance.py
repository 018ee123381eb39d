"""No number is published that was not measured: every number of a draft, held against the run's figures. Pure.

A line of a draft names the figures that it is made of (lib.sentences.Line). Here the finished words are read again, without
knowing how they were put together, and each number in them must be the value, an end of the interval, the sample size or a
count of one of those figures, in the tables' format and with the figure's own unit; or stand in a name that is quoted.
"""
import re
from collections.abc import Iterator

from lib import stats
from lib.errors import UserError
from lib.sentences import Block, Line, clean, leaf
from lib.tables import number

NUMBER = re.compile(r"(?:(?<![\w.)])[-−])?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")


def check(blocks: list[Block], figures: dict, info: dict, units: dict[str, str], quotable: set[str] = frozenset()) -> int:
    """How many numbers the blocks hold, each of which is published. units: as drafts write a unit -> as figures.json does.
    quotable: what may be repeated word for word, with whatever numbers it has.

    Raises UserError for the first that is not, with the line it stands in.
    """
    seen = 0
    for line in (line for block in blocks for line in block.lines):
        if not quotable.issuperset(line.quotes):
            raise UserError(f"the draft quotes {next(q for q in line.quotes if q not in quotable)[:60]!r}, which nobody said: nothing was written")
        free, united = published(line, figures, info)
        for found, unit in numbers(line, units):
            seen += 1
            if found not in free and (found, unit) not in united:
                words = " ".join(line.cells)
                raise UserError(f"the draft says {found}{' ' * bool(unit)}{unit} in {words[:100]!r}, which is none of "
                                f"the figures that it stands for ({', '.join(line.sources) or 'none'}): nothing was written")
    return seen


def said(line: Line, figures: dict, info: dict) -> bool:
    """Whether the sources of a line carry all its numbers, whatever their units."""
    free, united = published(line, figures, info)
    return {found for found, _ in numbers(line, {})} <= free | {n for n, _ in united}


def numbers(line: Line, units: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Each number of a line with the unit that follows it, "" if none does; quoted words are skipped."""
    text = "\n".join(line.cells)
    for quote in sorted(filter(None, line.quotes), key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(quote)}(?!\w|\.\d)", "\0", text)
    longest_first = sorted(filter(None, units), key=len, reverse=True)
    after = re.compile(rf" ?({'|'.join(map(re.escape, longest_first)) or '(?!)'})(?![A-Za-z/])")
    for match in NUMBER.finditer(text):
        unit = after.match(text, match.end())
        yield match[0], units[unit[1]] if unit else ""


def published(line: Line, figures: dict, info: dict) -> tuple[set[str], set[tuple[str, str]]]:
    """What the sources of a line allow: numbers that may stand alone or before any unit, and numbers with the one unit that
    they may have; "" is none."""
    free, united = set(), set()
    for source in line.sources:
        if source == "method:level":
            united.add((f"{stats.LEVEL * 100:.0f}", "%"))
        elif source.startswith("run:"):  # a parameter's unit is in its name, if anywhere
            free |= _said(leaf(info, source[4:]))
        else:
            figure = figures[source]
            values = {number(v) for v in (figure["value"], *figure["interval"]) if v is not None}
            united |= {(v, unit) for v in values for unit in (figure["unit"], "")}
            united |= {(number(n), "") for n in (figure["n"], *figure["counts"].values())}
            free |= _said(source) | _said(figure["name"]) | _said(figure["verdict"])
    return free, united


def _said(found) -> set[str]:
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        return {number(found)}
    return set(NUMBER.findall(clean(found, 10_000)))


def all_numbers(*texts: str) -> set[str]:
    return {n for text in texts for n in NUMBER.findall(text)}
