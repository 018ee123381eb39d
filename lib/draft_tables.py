"""Figures -> the tables of a draft, in English or Chinese, in the manner of lib.sentences. Pure."""
import re

from lib import tuning
from lib.foreign import clean
from lib.sentences import (Block, Line, Source, concurrency_levels, doubt, doubts_of, interval, metric_name, name, owner, value,
                           with_interval)
from lib.tables import number

RATIO = f"throughput_tps.{tuning.RATIO}"


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


def metrics(source: Source, series: str) -> list[Block]:
    """A metric of a series a row, a statistic a column."""
    statistics = ("mean", "median", "p95", "p99")
    of_series = {i: f for i, f in source.figures.items() if re.fullmatch(rf"{re.escape(series)}\.\w+\.(?:{'|'.join(statistics)})", i)}
    rows = []
    statistics = [s for s in statistics if any(i.endswith(f".{s}") and f["value"] is not None for i, f in of_series.items())]
    for metric in dict.fromkeys(i.rsplit(".", 1)[0] for i in of_series):
        found = {s: of_series[f"{metric}.{s}"] for s in statistics if f"{metric}.{s}" in of_series}
        if not found:
            continue
        one = next(iter(found.values()))
        unit = source.word("units", clean(one["unit"]))
        title = metric_name(source, one) + ("，" if source.lang == "zh" else ", ") + unit
        cells = [with_interval(source, found[s], unit=False) if s in found else "–" for s in statistics]
        rows.append(Line([title, *cells, number(one["n"]), doubt(source, [f["verdict"] for f in found.values()])],
                         [f"{metric}.{s}" for s in found]))
    return table(source, ["metric", *statistics, "n", "verdict"], rows, list(of_series))


def levels(source: Source) -> list[Block]:
    """Whole time, throughput, TTFT and TPOT by users at once."""
    rows, wanted = [], {"total": "whole time", "throughput_tps": "throughput", "ttft": "TTFT", "tpot": "TPOT"}
    for n in concurrency_levels(source.figures):
        found = {m: source.figures.get(f"concurrency.{n}.at_once.{m}") for m in wanted}
        cells = [with_interval(source, f, unit=False) if f else "–" for f in found.values()]
        rows.append(Line([str(n), *cells, doubts_of(source, {wanted[m]: f["verdict"] for m, f in found.items() if f})],
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
