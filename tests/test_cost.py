"""What it costs: money follows the rates and their intervals, and a price that cannot be is refused."""
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import cost, preflight, rundir, served
from lib.cost import Price
from lib.errors import UserError
from lib.imported import Run
from lib.stats import Estimate

RATE = Estimate(100.0, 80.0, 125.0, 40)


def test_a_million_tokens_cost_the_hours_that_they_take():
    found = Price(7.2, "yuan").of(RATE, 1_000_000)
    assert (found.value, found.low, found.high) == pytest.approx((20, 16, 25)), "the fastest end is the cheapest"
    assert Price(3.6).of(Estimate(2.0, float("nan"), float("nan"), 5), 1000).value == pytest.approx(0.5)


@given(price=st.floats(0.01, 1e4), value=st.floats(0.1, 1e6), spread=st.floats(1, 3))
def test_the_interval_holds_the_cost_and_twice_the_price_is_twice_the_cost(price, value, spread):
    rate = Estimate(value, value / spread, value * spread, 30)
    once, twice = (Price(p).of(rate, 1000) for p in (price, 2 * price))
    assert once.low <= once.value * (1 + 1e-9) and once.value <= once.high * (1 + 1e-9)
    assert twice.value == pytest.approx(2 * once.value)


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_that_cannot_be_is_refused_in_one_line(price):
    for check in (cost.given, lambda p: preflight.check(price_per_hour=p)):
        with pytest.raises(UserError, match="price_per_hour") as refusal:
            check(price)
        assert "\n" not in str(refusal.value)


def test_without_a_price_the_page_says_how_to_give_one():
    assert cost.given(0.0) is None and "-p price_per_hour" in cost.words(None, {"1,000 pictures": (RATE, 1000)})
    assert cost.section({"seconds": 100}, {}) == []


def test_words_carry_price_currency_and_interval():
    said = cost.words(Price(7.2, "yuan"), {"1,000,000 output tokens": (RATE, 1_000_000)})
    assert "7.2 yuan an hour" in said and "20 [16, 25] yuan" in said


@pytest.mark.parametrize("second, words", [(8.0, "the second is cheaper"), (12.0, "the first is cheaper"), (10.0, "no difference in cost shown")])
def test_the_dearer_machine_pays_where_its_rate_is_as_many_times_higher(second, words):
    twice = Estimate(2.0, 1.9, 2.1, 40)
    assert words in cost.break_even(twice, Price(5.0, "yuan"), Price(second, "yuan"))
    assert "worth up to 10 [9.5, 10.5] yuan" in cost.break_even(twice, Price(5.0, "yuan"))
    assert "2 [1.9, 2.1] times the hourly price" in cost.break_even(twice) == cost.break_even(twice, Price(5.0, "yuan"), Price(second, "dollars"))


def test_two_runs_break_even_by_a_level_of_both_that_nothing_speaks_against_with_the_prices_they_keep(tmp_path):
    runs = [Run(name, "workbook", "m", {}, {}, tmp_path / name) for name in "ab"]
    for run, price in zip(runs, (5.0, 30.0)):
        run.path.mkdir()
        rundir.write_json(run.path / "run.json", {"price": {"per_hour": price, "currency": "yuan"}})
    rows = pd.DataFrame([
        {"run": "b", "series": series, "unit": unit, "a": a, "b": a * ratio, "ratio": ratio, "low": ratio * 0.9, "high": ratio * 1.1, "n_a": 30,
         "n_b": 30, "doubt": doubt}
        for series, unit, a, ratio, doubt in (("concurrency.8", "tokens/s", 40, 9.0, ""), ("concurrency.64", "tokens/s", 200, 4.0, ""),
                                              ("turns_thinking", "tokens/s", 300, 1.0, ""), ("concurrency.128", "tokens/s", 400, 0.1, "b: unstable"),
                                              ("concurrency.64", "ms", 900, 0.2, ""))])
    said = cost.between(rows, runs)
    assert "throughput of concurrency.64 on both: " in said and "20 [18, 22] yuan" in said and "the first is cheaper" in said
    assert "throughput of turns_thinking on both: " in cost.between(rows.iloc[2:], runs)
    assert "throughput of concurrency.128 on both (doubtful: b: unstable): " in cost.between(rows.iloc[3:], runs)
    assert "no throughput in common" in cost.between(rows.iloc[4:], runs) and "no throughput in common" in cost.between(pd.DataFrame(), runs)


def test_gpus_are_worth_the_ratio_of_their_limits():
    table = cost.elsewhere(served.article_model(), "fp16", 1, 100, 1000, Price(6.0, "yuan")).set_index("GPU")
    decoding = next(c for c in table if c.startswith("worth for decoding"))
    assert "yuan" in decoding and table.loc["NVIDIA T4", decoding] == pytest.approx(6.0)
    assert table.loc["NVIDIA A10", decoding] == pytest.approx(6.0 * 600 / 320), "one user: bandwidth decides"


def test_a_run_keeps_the_price_for_its_server_alone_and_figures_carry_intervals(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "OUTPUTS", tmp_path)

    class Desk:
        run, notebook = rundir.RunDir("r"), "04_concurrency"
        server = served.Server("http://a.example", "m")

    class Series:
        name, counts = "s", {"sent": 3}

    assert cost.of_server(Desk, 0.0) is None
    price = cost.of_server(Desk, 6.5, "yuan")
    assert cost.of_server(Desk) == price == Price(6.5, "yuan")
    cost.enter(Desk, price, "1,000 pictures, read", RATE, 1000, "valid", Series)
    (figure,) = Desk.run.figures().values()
    assert figure["unit"] == "yuan" and figure["interval"][0] < figure["value"] < figure["interval"][1] and figure["table"] == cost.TABLE
    lines = dict(cost.section(Desk.run.info() | {"seconds": 7200}, Desk.run.figures()))
    assert lines["an hour"] == "6.5 yuan" and lines["this run, 2 hours"] == "13 yuan" and "[" in lines["1,000 pictures, read"]
    Desk.server = served.Server("http://b.example", "m")
    assert cost.of_server(Desk) is None
    cost.enter(Desk, None, "x", RATE, 1, "valid", Series)
    assert len(Desk.run.figures()) == 1
