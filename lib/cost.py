"""What it costs: a price per hour and measured rates -> money, with the rates' own intervals. Pure.

    cost of a million tokens = price per hour / 3600 / (tokens/s) * 1,000,000        likewise of 1,000 pictures
    break-even of two machines: the dearer one pays where its rate is as many times higher as its price
"""
import math
from dataclasses import asdict, dataclass

import pandas as pd

from lib import roofline, tables
from lib.errors import UserError
from lib.hiding import real
from lib.limits import Limit, Model
from lib.rundir import read_json
from lib.stats import Estimate

NO_PRICE = "No price given: with -p price_per_hour 6.5 -p currency yuan this says what the tokens and pictures cost."
LEVEL = r"concurrency\.[0-9]+"  # series of 04: so many users at once, and nothing but the server in their way
TABLE = "cost"  # the figures' table in the report


@dataclass(frozen=True)
class Price:
    """per_hour: of everything that serves, in any currency."""

    per_hour: float
    currency: str = ""

    def of(self, rate: Estimate, units: float) -> Estimate:
        """`units` pieces at `rate` pieces a second; the fastest end of the rate is the cheapest."""
        value, low, high = (self.per_hour / 3600 * units / end if end > 0 else math.nan for end in (rate.value, rate.high, rate.low))
        return Estimate(value, low, high, rate.n, rate.effective_n)

    def shown(self, money: float) -> str:
        return f"{tables.number(money)} {self.currency}".strip()


def given(per_hour: float, currency: str = "") -> Price | None:
    """The price as parameters give it; 0 is none. Raises UserError for one that cannot be."""
    if not (per_hour >= 0 and math.isfinite(per_hour)):
        raise UserError(f"price_per_hour {per_hour:g}: give what an hour costs, a number above 0, or 0 for no price")
    return Price(float(per_hour), str(currency).strip()) if per_hour else None


def of_server(desk, per_hour: float = 0.0, currency: str = "") -> Price | None:
    """The price of lib.bench.Bench's server: as given, which the run keeps, else as an earlier notebook of the run had it."""
    price = given(per_hour, currency)
    if price:
        desk.run.update_info(price=asdict(price) | {"server": desk.server.url})
    kept = desk.run.info().get("price") or {}
    return Price(kept["per_hour"], kept["currency"]) if real(kept.get("server") or "") == desk.server.url else None


def enter(desk, price: Price | None, what: str, rate: Estimate, units: int, verdict: str, series) -> None:
    """Enter what `units` pieces at `rate` a second cost as a figure of the run; nothing without a price."""
    if price:
        desk.run.publish(f"cost.{'_'.join(what.replace(',', '').split())}", f"{what}, cost", price.of(rate, units),
                         price.currency or "(currency not told)", verdict, desk.notebook, series.name, counts=series.counts,
                         table=TABLE, formula=f"{tables.number(price.per_hour)} an hour / 3600 / rate × {units:,}")


def words(price: Price | None, rates: dict[str, tuple[Estimate, int]]) -> str:
    """What things cost, in a sentence. rates: name -> (pieces a second, how many are priced)."""
    if price is None:
        return NO_PRICE
    if not rates:
        return f"What serves costs {price.shown(price.per_hour)} an hour."
    parts = [f"{what} cost {tables.with_interval(price.of(rate, units))} {price.currency}".strip() for what, (rate, units) in rates.items()]
    return f"At {price.shown(price.per_hour)} an hour {' and '.join(parts)}, if the machine is kept as busy as it was."


def break_even(ratio: Estimate, first: Price | None = None, second: Price | None = None) -> str:
    """What a second machine may cost beside a first, in a sentence: at that price the same work costs as much on both.
    ratio: of the second's rate to the first's."""
    if first is None or (second and second.currency != first.currency):
        return f"the second costs as much for the same work at {tables.with_interval(ratio)} times the hourly price of the first"
    worth = ratio.scaled(first.per_hour)
    told = f"beside {first.shown(first.per_hour)} an hour for the first, the second is worth up to {tables.with_interval(worth)} {first.currency}".strip()
    if second is None:
        return told
    asked = f"{told}; it costs {second.shown(second.per_hour)}: "
    if worth.low <= second.per_hour <= worth.high or not math.isfinite(worth.low):
        return f"{asked}no difference in cost shown"
    return f"{asked}for this work the {'second' if second.per_hour < worth.value else 'first'} is cheaper"


def between(rows: pd.DataFrame, runs: list) -> str:
    """`break_even` of compared runs, by the throughput of one series that both have: a level of 04 against which nothing speaks, else any
    such series, else a doubtful one; of these, that in which both got most. rows, runs: lib.compare_runs'."""
    told = []
    for run in runs[1:]:
        of = rows[(rows["run"] == run.name) & (rows["unit"] == "tokens/s") & rows["ratio"].notna()] if len(rows) else rows
        if len(of):
            sure = of[of["doubt"].eq("") & of["low"].notna()]
            like = next(part for part in (sure[sure["series"].str.fullmatch(LEVEL)], sure, of) if len(part))
            row = like.loc[(like["a"] * like["b"]).idxmax()]
            ratio = Estimate(row["ratio"], row["low"], row["high"], int(min(row["n_a"], row["n_b"])))
            told.append(f"{runs[0].name} (first) and {run.name} (second), by the throughput of {row['series']} on both"
                        f"{' (doubtful: ' + row['doubt'] + ')' if row['doubt'] else ''}: {break_even(ratio, _of_run(runs[0]), _of_run(run))}.")
    return "\n\n".join(told) or "Break-even: these runs have no throughput in common."


def _of_run(run) -> Price | None:
    kept = read_json(run.path / "run.json", {}).get("price") if run.path.is_dir() else None
    return Price(kept["per_hour"], kept["currency"]) if kept else None


def elsewhere(model: Model, dtype: str, streams: int, context: float, prompt: int, price: Price | None, here: str = "T4") -> pd.DataFrame:
    """What the GPUs of data/gpus.yaml could do with a model at most, and at which price per hour each would cost as much as
    `here` (at `price`, else as a ratio): by decoding for `streams` users, and by reading prompts of `prompt` tokens."""
    cards = [Limit(model, dtype, roofline.datasheet(name)) for name in roofline.datasheets()]
    start = Limit(model, dtype, roofline.datasheet(here))
    unit = f"{price.currency} an hour".strip() if price else f"times the price of a {here}"
    rows = []
    for limit in cards:
        decoding = limit.tokens_per_s(streams, context) / start.tokens_per_s(streams, context)
        prefilling = start.prefill(prompt).seconds / limit.prefill(prompt).seconds
        rows.append({
            "GPU": limit.machine.name, "tokens of context that fit": limit.kv_room(),
            f"tokens/s for {streams} users at most": limit.tokens_per_s(streams, context),
            f"worth for decoding, {unit}": decoding * (price.per_hour if price else 1),
            f"worth for prompts, {unit}": prefilling * (price.per_hour if price else 1)})
    return pd.DataFrame(rows)


def section(info: dict, figures: dict) -> list[tuple[str, str]]:
    """The report's lines on cost, (what, how much), from what a run folder says of the run; empty without a price."""
    price = info.get("price")
    if not price:
        return []
    price = Price(price["per_hour"], price["currency"])
    lines = [("an hour", price.shown(price.per_hour))]
    if info.get("seconds"):
        lines.append((f"this run, {info['seconds'] / 3600:.2g} hours", price.shown(price.per_hour * info["seconds"] / 3600)))
    for figure in figures.values():
        if figure.get("table") == TABLE:
            value, low, high = (math.nan if end is None else end for end in (figure["value"], *figure["interval"]))
            lines.append((figure["name"].rpartition(", ")[0], f"{tables.with_interval(Estimate(value, low, high, figure['n']))} {price.currency}"
                          + ("" if figure["verdict"] == "valid" else f" ({figure['verdict']})")))
    return lines
