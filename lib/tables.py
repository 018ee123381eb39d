"""Numbers -> tables fit to be read: units in the heads, intervals beside the values."""
import math

import pandas as pd
from pandas.io.formats.style import Styler

from lib.foreign import fit
from lib.metrics import METRICS
from lib.stats import Estimate


def number(value: float | None) -> str:
    """Four significant digits, thousands set off; a dash for what could not be known."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def with_interval(estimate: Estimate) -> str:
    """`12.3 [12.1, 12.6]`; the value alone where there is no interval."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def show(frame: pd.DataFrame) -> Styler:
    """A table for readers: no index, text at the left and wrapped, numbers at the right with four digits. Of one without rows
    it says so: heads alone look like something that failed."""
    text = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    wrapped = {"text-align": "left", "white-space": "normal", "overflow-wrap": "anywhere", "min-width": "5em",
               "max-width": "36em"}
    heads = [{"selector": "th", "props": "text-align: left"}, {"selector": "td", "props": "vertical-align: top"}]
    said = frame.assign(**{c: frame[c].map(lambda cell: fit(cell) if isinstance(cell, str) else cell) for c in text})
    shown = (said.style.hide().format(number, subset=[c for c in frame if c not in text], na_rep="–")
             .format(escape="html", subset=text)  # a cell may hold what a server replied
             .set_properties(subset=text, **wrapped).set_table_styles(heads))
    return shown if len(frame) else shown.set_caption("none").set_table_styles(
        [{"selector": "caption", "props": "caption-side: bottom; text-align: left; padding: 0.3em 0.5em"}], overwrite=False)


def metrics_table(summaries: dict[str, dict[str, Estimate]]) -> pd.DataFrame:
    """Rows mean, median, …; one column per metric. `summaries`: metric -> row -> Estimate (table units)."""
    columns = {f"{METRICS[m][0]}, {METRICS[m][1]}": {row: with_interval(e) for row, e in rows.items()}
               for m, rows in summaries.items()}
    return pd.DataFrame(columns)


def formulas(metrics: list[str] = tuple(METRICS)) -> pd.DataFrame:
    """How each metric is defined: printed where the figures are shown."""
    return pd.DataFrame([{"metric": METRICS[m][0], "unit": METRICS[m][1], "formula": METRICS[m][3]} for m in metrics])


def calibration(levels: pd.DataFrame) -> pd.DataFrame:
    """lib.calibration's levels for readers: measured beside true, errors in the unit of the metric."""
    return pd.DataFrame({
        "streams": levels["streams"], "requests": levels["requests"], "failed": levels["failed"],
        "tokens/s": levels["tokens_per_s"], "true tokens/s": levels["offered_tokens_per_s"],
        "TPOT, ms": levels["tpot_ms"], "true TPOT, ms": levels["true_tpot_ms"],
        "TTFT late, median, ms": levels["ttft_error_ms"], "TTFT late, p99, ms": levels["ttft_error_p99_ms"],
        "processor used": [f"{share:.0%}" for share in levels["cpu_share"]],
        "believed": ["yes" if ok else "NO" for ok in levels["believed"]],
    })


def facts(pairs: dict) -> Styler:
    """Names and values, one pair a row."""
    return show(pd.DataFrame({"what": list(pairs), "value": [str(v) for v in pairs.values()]}))
