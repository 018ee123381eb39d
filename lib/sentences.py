"""Figures -> the blocks of a draft, in English or Chinese. Pure: nothing is read, nothing is written.

The prose is lib/templates/draft.yaml. A placeholder there names a figure by its id, `{single.ttft.mean}`, or something that
run.json holds, `{run:parameters.seed}`; a sentence with a placeholder that has nothing to stand for is left out, and one
whose figures carry another verdict than "valid" says so. What is put in is remembered line by line: lib/provenance.py
holds every number of a line against that.
"""
import re
import unicodedata
from dataclasses import dataclass, field

from lib import stats, verdicts
from lib.tables import number

PLACE = re.compile(r"\{([^{}|]+)(?:\|([\w -]+))?\}")
ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
LEVEL = re.compile(r"concurrency\.(\d+)\.at_once\.throughput_tps")
REASONS = re.compile(rf"; (?=(?:{'|'.join(verdicts.KINDS)}):)")
BETWEEN = {"en": (" (", " to ", ")"), "zh": ("（", "～", "）")}  # value (low to high)
FINDINGS = ("faster", "slower", "higher", "lower", "the same", "equivalent", "no difference shown")  # of comparisons: not doubts
RATIO = "throughput_tps.times-the-baseline"
LONGEST = 300  # characters of anything that a run folder says in words


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


def visible(text) -> str:
    """Text without terminal codes, control characters, and marks that turn the direction of writing."""
    return "".join(c for c in ANSI.sub("", str(text)) if c in "\n\t\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))


def clean(text, most: int = LONGEST) -> str:
    """Somebody else's words on one line, cut at `most` characters."""
    text = " ".join(visible(str(text)[: 20 * most].replace("\r", "\n")).split())
    return text if len(text) <= most else text[:most].rstrip() + "…"


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
    return source.word("names", what) + (("，" if source.lang == "zh" else ", ") + statistic if statistic else "")


def metric_name(source: Source, figure: dict) -> str:
    """`TTFT` of `TTFT, mean`."""
    return source.word("names", clean(figure["name"]).rpartition(", ")[0] or clean(figure["name"]))


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


# -- tables ------------------------------------------------------------------------------------------
def table(source: Source, head: list[str], rows: list[Line], sources: list[str] = ()) -> list[Block]:
    heads = [source.word("phrases", h) for h in head]
    return [Block("table", [Line(heads, list(sources)), *rows])] if rows else []


def listed(source: Source, figures: dict, whose: bool = True) -> list[Block]:
    """A figure a row. whose: say of which series each is."""
    rows = []
    for figure_id, f in figures.items():
        if f["value"] is not None:
            title = f"{owner(source, figure_id, f)}{'：' if source.lang == 'zh' else ': '}{name(source, f)}" if whose else name(source, f)
            rows.append(Line([title, value(source, f), interval(source, f), number(f["n"]), doubt(source, [f["verdict"]])], [figure_id]))
    return table(source, ["figure", "value", "interval", "n", "verdict"], rows, ["method:level"])


def some(source: Source, pattern: str, whose: bool = True) -> list[Block]:
    """The figures whose ids match, a row each."""
    return listed(source, {i: f for i, f in source.figures.items() if re.fullmatch(pattern, i)}, whose)


def of_notebook(source: Source, notebook: str) -> list[Block]:
    """Everything that a notebook entered, but limits and costs."""
    return listed(source, {i: f for i, f in source.figures.items() if f["notebook"] == notebook and not i.startswith(("limit.", "cost."))}, whose=False)


def metrics(source: Source, series: str) -> list[Block]:
    """A metric of a series a row, a statistic a column."""
    statistics = ("mean", "median", "p95", "p99")
    of_series = {i: f for i, f in source.figures.items() if re.fullmatch(rf"{re.escape(series)}\.\w+\.(?:{'|'.join(statistics)})", i)}
    rows = []
    statistics = [s for s in statistics if any(i.endswith(f".{s}") and f["value"] is not None for i, f in of_series.items())]
    for metric in dict.fromkeys(i.rsplit(".", 1)[0] for i in of_series):
        found = {s: of_series[f"{metric}.{s}"] for s in statistics if f"{metric}.{s}" in of_series}
        one = next(iter(found.values()))
        unit = source.word("units", clean(one["unit"]))
        title = metric_name(source, one) + ("，" if source.lang == "zh" else ", ") + unit
        cells = [with_interval(source, found[s], unit=False) if s in found else "–" for s in statistics]
        rows.append(Line([title, *cells, number(one["n"]), doubt(source, [f["verdict"] for f in found.values()])],
                         [f"{metric}.{s}" for s in found]))
    return table(source, ["metric", *statistics, "n", "verdict"], rows, list(of_series))


def levels(source: Source) -> list[Block]:
    """Whole time, throughput, TTFT and TPOT by users at once."""
    rows, wanted = [], ("total", "throughput_tps", "ttft", "tpot")
    for n in concurrency_levels(source.figures):
        found = {m: source.figures.get(f"concurrency.{n}.at_once.{m}") for m in wanted}
        cells = [with_interval(source, f, unit=False) if f else "–" for f in found.values()]
        rows.append(Line([str(n), *cells, doubt(source, [f["verdict"] for f in found.values() if f])],
                         [f"concurrency.{n}.at_once.{m}" for m, f in found.items() if f]))
    return table(source, ["users", *(f"level {m}" for m in wanted), "verdict"], rows)


def _grid(source: Source, pattern: str, columns: tuple, title) -> list[Line]:
    """A row for each `(row).(column)` that the ids have in `pattern`'s two groups. title: figure -> the row's name."""
    rows = {}
    for figure_id, figure in source.figures.items():
        match = re.fullmatch(pattern, figure_id)
        if match and figure["value"] is not None:
            rows.setdefault(match[1], {})[match[2]] = (figure_id, figure)
    lines = []
    for there in rows.values():
        cells = [with_interval(source, there[c][1], unit=c.endswith(("limit", "value"))) if c in there else "–" for c in columns]
        lines.append(Line([title(next(iter(there.values()))[1]), *cells, doubt(source, [f["verdict"] for _, f in there.values()])],
                          [i for i, _ in there.values()]))
    return lines


def consistency(source: Source) -> list[Block]:
    """Conditions of 07: the share of answers that stayed the same, kept their meaning, are right."""
    columns = ("same", "meaning", "right")
    rows = _grid(source, r"(consistency_\w+)\.(same|meaning|right)", columns, lambda f: source.word("names", clean(f["name"]).partition(", ")[2]))
    return table(source, ["condition", *columns, "verdict"], rows)


def limits(source: Source) -> list[Block]:
    """What was reached of the physical limits, and the limits."""
    rows = _grid(source, r"(limit\..+)\.(share|limit)", ("share", "limit"), lambda f: metric_name(source, f))
    return table(source, ["what", "of the limit", "limit", "verdict"], rows)


def tuning(source: Source) -> list[Block]:
    """Configurations of 06: throughput, TTFT and TPOT of each, and the throughput as a multiple of the baseline's."""
    columns = ("throughput_tps.value", RATIO, "ttft_s.value", "tpot_s.value")
    rows = _grid(source, rf"(tuning\.\w+)\.({'|'.join(columns)})", columns, lambda f: source.word("found", clean(f["name"]).partition(": ")[0]))
    for line in rows:
        low, high = next((source.figures[i]["interval"] for i in line.sources if i.endswith(RATIO)), (None, None))
        if low is not None and high is not None and line.cells[-1] == source.word("kinds", "valid"):
            line.cells[-1] = source.word("kinds", "faster" if low > 1 else "slower" if high < 1 else "no difference shown")
    return table(source, ["configuration", "throughput", "times the baseline", "TTFT", "TPOT", "verdict"], rows)


def replies(source: Source, rows: list[dict], most: int = 3) -> list[Block]:
    """Questions about pictures with the model's replies: some that are wrong, then some that are right."""
    wrong, right = ([row for row in rows if bool(row.get("correct")) == judged] for judged in (False, True))
    lines = []
    for row in wrong[:most] + right[: 2 * most - len(wrong[:most])]:
        said = clean(row.get("reply") or row.get("error") or "–", 160)
        quotes = [clean(row.get("question", "–"), 160), said, clean(row.get("expected", "–"), 160)]
        lines.append(Line([*quotes, source.word("phrases", f"judged {'right' if row.get('correct') else 'wrong'}")], [], quotes))
    return table(source, ["question", "reply", "expected", "judged"], lines)
