"""Figures -> the blocks of a draft, in English or Chinese. Pure: nothing is read, nothing is written.

The prose is lib/templates/draft.yaml. A placeholder there names a figure by its id, `{single.ttft.mean}`, or something that
run.json holds, `{run:parameters.seed}`; a sentence with a placeholder that has nothing to stand for is left out, and one
whose figures carry another verdict than "valid" says so. What is put in is remembered line by line: lib/provenance.py
holds every number of a line against that.
"""
import re
from dataclasses import dataclass, field

from lib import stats, verdicts
from lib.foreign import clean
from lib.tables import number

PLACE = re.compile(r"\{([^{}|]+)(?:\|([\w -]+))?\}")
LEVEL = re.compile(r"concurrency\.(\d+)\.at_once\.throughput_tps")
REASONS = re.compile(rf"; (?=(?:{'|'.join(verdicts.KINDS)}):)")
BETWEEN = {"en": (" (", " to ", ")"), "zh": ("（", "～", "）")}  # value (low to high)
FINDINGS = ("faster", "slower", "higher", "lower", "the same", "equivalent", "no difference shown")  # of comparisons: not doubts


@dataclass
class Line:
    """A sentence, or a row of a table. sources: ids of figures, and `run:…` or `method:…`, that its numbers come from.
    quotes: what it repeats word for word."""

    cells: list[str]
    sources: list[str] = field(default_factory=list)
    quotes: list[str] = field(default_factory=list)


@dataclass
class Block:
    """`kind`: title, heading, warning, text, list, table, code, plot. Of a table the first line is its head; `file`: of a
    plot."""

    kind: str
    lines: list[Line]
    file: str = ""


class Missing(Exception):
    """A placeholder has nothing to stand for."""


@dataclass
class Source:
    """What a draft may say. figures: of figures.json; info: of run.json; words: lib/templates/draft.yaml."""

    lang: str
    figures: dict
    info: dict
    words: dict

    def word(self, kind: str, text: str) -> str:
        """A word or name in the draft's language; as it is where it has no other."""
        known = self.words[kind].get(text)
        if known is None:
            return next((re.sub(p, r, text) for p, r in self.words["patterns"][self.lang] if re.fullmatch(p, text)), text)
        return known if isinstance(known, str) else known.get(self.lang, text)


# -- figures in words --------------------------------------------------------------------------------
def kinds(verdict: str) -> list[str]:
    """The kinds of a verdict, without the reasons; none for "valid", and none for what a comparison found."""
    if verdict == "valid" or verdict.startswith(FINDINGS):
        return []
    return [clean(part.partition(":")[0], 80) for part in REASONS.split(verdict)]


def reasons(source: Source, verdict: str) -> str:
    """A verdict with its reasons, in the draft's language."""
    return ("；" if source.lang == "zh" else "; ").join(source.word("kinds", clean(part)) for part in REASONS.split(verdict))


def doubt(source: Source, verdict_of_figures: list[str]) -> str:
    """The kinds of several verdicts, each once; what a comparison found, or "valid", where there are none."""
    found = dict.fromkeys(source.word("kinds", kind) for verdict in verdict_of_figures for kind in kinds(verdict))
    found = found or dict.fromkeys(source.word("kinds", clean(v, 80)) for v in verdict_of_figures if v != "valid")
    return ("、" if source.lang == "zh" else ", ").join(found) or source.word("kinds", "valid")


def doubts_of(source: Source, verdicts: dict[str, str]) -> str:
    """As `doubt`, of several metrics in one row: each kind with those that it is about, unless it is about all."""
    found = {}
    for metric, verdict in verdicts.items():
        for kind in kinds(verdict):
            found.setdefault(source.word("kinds", kind), []).append(re.sub(".*（(.+)）", r"\1", source.word("names", metric)))  # no brackets in brackets
    told = [kind if len(names) == len(verdicts) else kind + bracketed(source, *names) for kind, names in found.items()]
    return ("、" if source.lang == "zh" else ", ").join(told) or doubt(source, list(verdicts.values()))


def interval(source: Source, figure: dict) -> str:
    low, high = figure["interval"]
    return "–" if low is None or high is None else f"{number(low)}{BETWEEN[source.lang][1]}{number(high)}"


def value(source: Source, figure: dict) -> str:
    unit = source.word("units", clean(figure["unit"]))
    return f"{number(figure['value'])}{'' if source.lang == 'zh' and unit == '%' else ' '}{unit}".rstrip()


def with_interval(source: Source, figure: dict, unit: bool = True) -> str:
    return (value(source, figure) if unit else number(figure["value"])) + bracketed(source, interval(source, figure))


def bracketed(source: Source, *parts: str) -> str:
    """What stands behind a value: its interval, and what speaks against it; nothing where there is neither."""
    before, _, after = BETWEEN[source.lang]
    there = [part for part in parts if part not in ("", "–")]
    return f"{before}{('，' if source.lang == 'zh' else ', ').join(there)}{after}" if there else ""


def marked(source: Source, figure: dict) -> str:
    """`doubtful: client-bound`; nothing for a figure that is valid."""
    return source.word("phrases", "doubtful").replace("{kinds}", doubt(source, [figure["verdict"]])) if kinds(figure["verdict"]) else ""


def name(source: Source, figure: dict) -> str:
    """`TTFT, mean` in the draft's language."""
    what, _, statistic = clean(figure["name"]).rpartition(", ")
    if not what:
        return source.word("names", statistic)
    statistic = source.word("statistics", statistic)
    return _named(source, what) + (("，" if source.lang == "zh" else ", ") + statistic if statistic else "")


def metric_name(source: Source, figure: dict) -> str:
    """`TTFT` of `TTFT, mean`."""
    return _named(source, clean(figure["name"]).rpartition(", ")[0] or clean(figure["name"]))


def _named(source: Source, text: str) -> str:
    """A metric in the draft's language, and before it the configuration that it is of, where one is named."""
    whose, colon, what = text.partition(": ")
    if source.lang == "zh" and colon and source.word("names", what) != what:
        return f"{source.word('found', whose)}：{source.word('names', what)}"
    return source.word("names", text)


def owner(source: Source, figure_id: str, figure: dict) -> str:
    """Whose figure it is, in words: of its series, else of its notebook."""
    series = str(figure["records"]).removeprefix("requests/").removesuffix(".jsonl")
    if series in source.words["series"]:
        return source.word("series", series)
    return section_title(source, figure["notebook"])


def section_title(source: Source, notebook: str) -> str:
    found = next((s["title"] for s in source.words["sections"] if s.get("notebook") == notebook), None)
    return found[source.lang] if found else clean(notebook)


# -- sentences ---------------------------------------------------------------------------------------
def sentence(source: Source, template: dict) -> Line | None:
    """A sentence of draft.yaml with its figures; None where one is missing or its condition does not hold."""
    line = Line([""])

    def fill(match) -> str:
        what, how = match[1], match[2] or ""
        if what.startswith("run:"):
            found = clean(of_run(source.info, what[4:])) if how != "date" else of_run(source.info, what[4:])[:10]
            line.sources.append(what)
            return source.word("found", found)
        if what == "method:level":
            line.sources.append(what)
            return f"{stats.LEVEL * 100:.0f}"
        figure_id = alias(source, what)
        figure = source.figures.get(figure_id)
        if figure is None or figure["value"] is None:
            raise Missing(what)
        line.sources.append(figure_id)
        if how == "level":
            return LEVEL.fullmatch(figure_id)[1]
        if how and how not in ("plain", "n"):
            if how not in figure["counts"]:
                raise Missing(what)
            return number(figure["counts"][how])
        if how == "n":
            return number(figure["n"])
        return value(source, figure) + bracketed(source, interval(source, figure) if how != "plain" else "–", marked(source, figure))

    wanted = [re.compile(pattern) for pattern in template.get("needs", [])]
    if not all(any(pattern.fullmatch(figure_id) for figure_id in source.figures) for pattern in wanted):
        return None
    try:
        if not all(holds(source, what, condition) for what, condition in template.get("if", {}).items()):
            return None
        text = PLACE.sub(fill, template[source.lang])
    except Missing:
        return None
    line.cells = [text.replace("） ", "）") if source.lang == "zh" else text]
    return line if text else None


def holds(source: Source, what: str, condition: str) -> bool:
    """`above 0`, `below 100`: the whole interval is; `across 100`: it is not; `valid`: the verdict; `failed`: some requests
    did; `has TEXT`: an entry of run.json does."""
    word, _, limit = condition.partition(" ")
    if word == "has":
        return limit in of_run(source.info, what.removeprefix("run:"))
    figure = source.figures.get(alias(source, what))
    if figure is None:
        raise Missing(what)
    if word in ("valid", "failed"):
        return figure["verdict"] == "valid" if word == "valid" else figure["counts"].get("failed", 0) > 0
    low, high = figure["interval"]
    if low is None or high is None:
        return word == "across"
    return {"above": low > float(limit), "below": high < float(limit), "across": low <= float(limit) <= high}[word]


def alias(source: Source, what: str) -> str:
    """`peak.ttft`, `lowest.ttft` -> the id at the level of the highest throughput, at the fewest users."""
    first, _, rest = what.partition(".")
    if first not in ("peak", "lowest"):
        return what
    levels = concurrency_levels(source.figures)
    if not levels:
        raise Missing(what)
    throughput = {n: source.figures[f"concurrency.{n}.at_once.throughput_tps"]["value"] or 0 for n in levels}
    return f"concurrency.{max(levels, key=throughput.get) if first == 'peak' else min(levels)}.at_once.{rest}"


def concurrency_levels(figures: dict) -> list[int]:
    return sorted(int(m[1]) for m in map(LEVEL.fullmatch, figures) if m)


def leaf(info, path: str):
    """An entry of run.json by its path, `parameters.seed`, whose names may hold dots; None where there is none."""
    if not isinstance(info, dict) or path in info:
        return info[path] if isinstance(info, dict) else None
    cuts = [at for at, c in enumerate(path) if c == "." and path[:at] in info]
    return next((found for at in cuts if (found := leaf(info[path[:at]], path[at + 1:])) is not None), None)


def of_run(info: dict, path: str) -> str:
    found = leaf(info, path)
    if found is None or found == "" or isinstance(found, (dict, list)):
        raise Missing(path)
    return number(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else str(found)


def paragraphs(source: Source, templates: list[list[dict]]) -> list[Block]:
    """Paragraphs of sentences; those that have nothing to say are left out."""
    said = [[line for line in (sentence(source, t) for t in paragraph) if line] for paragraph in templates]
    return [Block("text", lines) for lines in said if lines]
