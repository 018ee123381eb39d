"""Configurations are checked before anything is started, and none is called better than its like."""
import asyncio
import contextlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx2
import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import OUTPUTS, bench, calibration, claim_rules, claims, configurations, launch, machine, pace, plots_tuning, rundir, tables_tuning, time_limit, tuning, tuning_run, tuning_start, verdicts, vllm_flags
from lib.configurations import Configuration
from lib.errors import UserError
from lib.keeper import Keeper
from lib.server import Server, get
from lib.tuning import BASELINE, METRICS, SPEED

RECORDED = Path(__file__).parent / "data" / "tuning_starts.jsonl"  # starts of one command, the embedded model, two cores
SMOKE_PLAN = [*tuning.order(list("bcdef"), 2), *tuning.order(list("bcd"), 2, again=True)]


def labelled(rows: pd.DataFrame, plan: list) -> pd.DataFrame:
    return rows.assign(name=plan, place=range(len(plan)))


def simulated(rng, plan, spread: float, within: float = 0.0, drift: float = 0.0, factors: dict | None = None) -> pd.DataFrame:
    """Starts whose between-start spread, spread within a start, drift over the plan and true ratios are known."""
    noise = rng.normal(0, math.hypot(spread, within), len(plan)) + drift * np.linspace(0, 1, len(plan))
    return pd.DataFrame({"name": plan, "place": range(len(plan)), "tpot_s_error": within,
                         "tpot_s": [0.01 * (factors or {}).get(n, 1.0) * math.exp(e) for n, e in zip(plan, noise)]})


# -- verdicts ----------------------------------------------------------------------------------------
def test_the_same_command_under_two_names_is_called_no_different_in_19_of_20_analyses_of_recorded_starts():
    """Each analysis gives the names of the smoke plan to 14 of the recorded starts, drawn without order: which of equal starts is
    called what is chance. Some of them were disturbed by other work on their two cores."""
    rows = pd.DataFrame(map(json.loads, RECORDED.read_text().splitlines()))
    assert rows["error"].isna().all() and len(rows) >= len(SMOKE_PLAN) + 3
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        starts = labelled(rows.iloc[rng.choice(len(rows), len(SMOKE_PLAN), replace=False)], SMOKE_PLAN)
        wrong += any(tuning.ratios(starts, m).loc["b", "verdict"] not in ("no difference shown", "the same") for m in SPEED)
    assert wrong <= 10


@pytest.mark.parametrize("drift", [0.0, 0.2])
@pytest.mark.parametrize("spread, within", [(0.03, 0.0), (0.02, 0.02), (0.0, 0.03)])
def test_equal_servers_are_rarely_called_different_whatever_differs_between_starts_and_drifts(spread, within, drift):
    rng = np.random.default_rng(1)
    verdicts = [tuning.ratios(simulated(rng, SMOKE_PLAN, spread, within, drift), "tpot_s").loc["b", "verdict"] for _ in range(400)]
    wrong = sum(v != "no difference shown" for v in verdicts)
    assert wrong <= 400 * 0.0167 + 3 * math.sqrt(400 * 0.0167), "each metric's level is 98.3 %"


@pytest.mark.parametrize("loud", [0.03, 0.2])
def test_a_configuration_that_scatters_widens_no_interval_but_its_own(loud):
    """c's starts differ like the baseline's; those of the others as much, or seven times as much."""
    rng, widths, wrong = np.random.default_rng(4), [], 0
    for _ in range(200):
        noise = [rng.normal(0, 0.03 if name in (BASELINE, "c") else loud) for name in SMOKE_PLAN]
        found = tuning.ratios(pd.DataFrame({"name": SMOKE_PLAN, "place": range(len(SMOKE_PLAN)), "tpot_s": np.exp(noise)}), "tpot_s")
        widths.append(math.log(found.loc["c", "high"] / found.loc["c", "low"]) / 2)
        wrong += found.loc["c", "verdict"] != "no difference shown"
    assert np.median(widths) < 0.1 and wrong <= 200 * 0.0167 + 3 * math.sqrt(200 * 0.0167)


def test_a_configuration_with_too_few_starts_for_a_scatter_of_its_own_borrows_that_of_all():
    starts = simulated(np.random.default_rng(5), [BASELINE, "b", BASELINE, "c", "d", BASELINE, "c", "d", BASELINE], 0.03)
    found, (every, about) = tuning.ratios(starts, "tpot_s"), tuning._fitted(starts, "tpot_s", tuning.LEVEL)
    assert about["df"] == 4 and all(found.loc[name].to_dict() == every[name] for name in "bcd")


def uneven(rng, plan, spread: float, effect: float, factors: dict | None = None, blur: float = 0.02) -> pd.DataFrame:
    """Starts on a machine whose pace jumps by half: effect 1 is a server that only waits for its processors. blur: error of the pace."""
    slow = rng.choice([0.0, 0.45], len(plan))
    starts = simulated(rng, plan, spread, factors=factors)
    return starts.assign(pace_us=300 * np.exp(slow + rng.normal(0, blur, len(plan))), tpot_s=starts["tpot_s"] * np.exp(effect * slow))


@pytest.mark.parametrize("effect, blur, seen_at_least", [(0.0, 0.02, 0.95), (0.6, 0.02, 0.95), (0.6, 0.1, 0.4)])
def test_a_machine_whose_pace_jumps_neither_hides_a_fifth_nor_makes_a_difference_of_none(effect, blur, seen_at_least):
    rng = np.random.default_rng(5)
    found = [tuning.ratios(uneven(rng, SMOKE_PLAN, 0.02, effect, {"c": 1.2}, blur), "tpot_s") for _ in range(300)]
    wrong, seen = (sum(f.loc[name, "verdict"] != "no difference shown" for f in found) for name in "bc")
    assert wrong <= 300 * 0.0167 + 3 * math.sqrt(300 * 0.0167) and seen >= seen_at_least * 300
    effects = [math.log(e.value) for f in found if (e := f.attrs["pace_effect"])]
    assert np.median(effects) == pytest.approx(effect * 0.45, abs=0.1) and len(effects) > 200


def test_a_pace_that_only_told_configurations_apart_moves_no_value():
    """The one slow start is that of b: whether b or the machine is slow cannot be known, and noise must not decide."""
    plan, found = [BASELINE, "b", "c", BASELINE, "d", BASELINE, "d", "c", BASELINE], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        starts = simulated(rng, plan, 0.03)
        found.append(tuning.ratios(starts.assign(pace_us=300 * np.exp((starts["name"] == "b") * 0.45 + rng.normal(0, 0.02, 9))), "tpot_s").loc["b", "ratio"])
    assert np.std(np.log(found)) < 0.08


def test_a_pace_that_is_even_or_not_known_of_every_start_takes_nothing_from_the_others():
    starts = simulated(np.random.default_rng(6), SMOKE_PLAN, 0.03)
    plain = tuning.ratios(starts, "tpot_s")
    for pace in ([300.0] * 14, [300.0, 301.0] * 7, [300.0] * 6 + [None] + [450.0] * 7):
        found = tuning.ratios(starts.assign(pace_us=pace), "tpot_s")
        assert found.attrs["pace_effect"] is None and found.attrs["df"] == plain.attrs["df"]
        pd.testing.assert_frame_equal(found, plain, check_like=True)


@pytest.mark.parametrize("starts, fitted", [(7, True), (6, False)])
def test_the_pace_is_not_paid_for_with_the_last_degrees_of_freedom(starts, fitted):
    plan = [BASELINE, "b"] * 4
    found = tuning.ratios(uneven(np.random.default_rng(8), plan[:starts], 0.02, 0.6), "tpot_s")
    assert (found.attrs["pace_effect"] is not None) is fitted and found.attrs["df"] >= 3


def test_the_pace_is_told_where_it_was_measured():
    starts = uneven(np.random.default_rng(7), SMOKE_PLAN, 0.02, 0.6)
    starts = starts.assign(error=None, answers=None, met=10, due=10, goodput=1.0, **{m: starts["tpot_s"] for m in METRICS if m != "tpot_s"})
    todo = [Configuration(n, letter=n.upper()[:1]) for n in dict.fromkeys(SMOKE_PLAN)]
    told = tables_tuning.noise(tuning.summary(todo, starts, {}))
    assert "times as long at one start as at another" in told and "and the pace explain" in told and "at the slowest pace it is ×" in told
    assert "pace" not in tables_tuning.noise(tuning.summary(todo, starts.drop(columns="pace_us"), {}))


def test_measuring_the_pace_leaves_the_process_the_cores_it_had(monkeypatch):
    monkeypatch.setattr(pace, "SECONDS", 0.02)
    had = os.sched_getaffinity(0)
    assert 0 < pace.now() < 1e6 and os.sched_getaffinity(0) == had
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: (_ for _ in ()).throw(OSError("not permitted")))
    assert pace.now() > 0 and len(pace.by_core()) == 1


def test_requests_within_one_start_alone_show_nothing():
    """One start each and thousands of requests: how starts differ is not known, so there is no verdict."""
    found = tuning.ratios(simulated(np.random.default_rng(2), [BASELINE, "b"], 0.0, 1e-4, factors={"b": 1.05}), "tpot_s")
    assert found.loc["b", "verdict"] == "no difference shown" and math.isnan(found.loc["b", "low"])


def test_a_true_ratio_lies_in_its_interval():
    rng, inside = np.random.default_rng(3), 0
    for _ in range(300):
        row = tuning.ratios(simulated(rng, SMOKE_PLAN, 0.03, 0.01, 0.1, {"c": 1.4}), "tpot_s").loc["c"]
        inside += row["low"] <= 1.4 <= row["high"]
    assert inside >= 300 * 0.983 - 3 * math.sqrt(300 * 0.017)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-1, 1))
@settings(max_examples=30)
def test_neither_unit_nor_a_steady_drift_changes_a_ratio(seed, unit, drift):
    starts = simulated(np.random.default_rng(seed), SMOKE_PLAN, 0.03)
    other = starts.assign(tpot_s=starts["tpot_s"] * unit * np.exp(drift * starts["place"]))
    one, two = tuning.ratios(starts, "tpot_s"), tuning.ratios(other, "tpot_s")
    assert np.allclose(one[["ratio", "low", "high"]], two[["ratio", "low", "high"]], rtol=1e-6)
    assert list(one["verdict"]) == list(two["verdict"])


def test_what_does_not_vary_is_the_same_or_shown_at_once():
    starts = pd.DataFrame({"name": SMOKE_PLAN, "place": range(14), "kv_tokens": [5000 if n == "c" else 10000 for n in SMOKE_PLAN]})
    found = tuning.ratios(starts, "kv_tokens")
    assert found.loc["b", "verdict"] == "the same" and found.loc["c", "verdict"] == "lower"
    assert found.loc["c", "low"] == found.loc["c", "high"] == pytest.approx(0.5)


def test_a_drift_is_seen():
    found = tuning.ratios(simulated(np.random.default_rng(4), SMOKE_PLAN, 0.01, drift=0.3), "tpot_s")
    drift = found.attrs["drift"]
    assert drift.low > 1 and drift.low < math.exp(0.3) < drift.high


def bench_of(run_name: str, server=None) -> bench.Bench:
    return bench.Bench("06_tuning", server or Server("http://127.0.0.1:9", "metronome"), rundir.RunDir(run_name))


class Beating:
    """A metronome as tuning_run starts servers: known timing, and a stop."""

    def __init__(self, step_ms: float):
        self._end = contextlib.ExitStack()
        metronome = self._end.enter_context(calibration.metronome(step_ms))
        self.url, self.model, self.api_key, self.stop = metronome.url, metronome.model, None, self._end.close


def test_a_server_slowed_by_a_known_tenth_is_called_slower_and_its_like_is_not(run_name, monkeypatch):
    monkeypatch.setattr(pace, "SECONDS", 0.05)
    step = {BASELINE: 5.0, "the same": 5.0, "slowed by 10 %": 5.5}
    load = tuning_run.Load(streams=4, seconds=1.5, questions=0)
    work = tuning_run.Tuning(bench_of(run_name), [Configuration(n, letter=c) for n, c in zip(step, "ABC")], load, "metronome")
    asyncio.run(tuning_run.carry_out(work, rounds=2, apart=1, start=lambda c: Beating(step[c.name])))
    found = work.summary()
    assert [r["name"] for r in work.rows] == [BASELINE, "the same", BASELINE, "slowed by 10 %", BASELINE, "slowed by 10 %", BASELINE, "the same", BASELINE]
    slowed, same = found.loc["slowed by 10 %"], found.loc["the same"]
    assert slowed["tpot_s.verdict"] == slowed["throughput_tps.verdict"] == "slower"
    assert slowed["tpot_s.low"] < 1.1 < slowed["tpot_s.high"] or slowed["tpot_s.ratio"] == pytest.approx(1.1, rel=0.02)
    assert same["tpot_s.verdict"] in ("no difference shown", "the same") or abs(same["tpot_s.ratio"] - 1) < 0.02, "chance, in one of 60 runs"
    rows = (OUTPUTS / run_name / "requests" / f"{tuning_run.SERIES}.jsonl").read_text().splitlines()
    assert len(rows) == 9, "every start is a row on disk"
    assert (work.starts["pace_us"] > 0).all(), "the comparison needs the pace at each"


# -- the plan, halving, the choice -------------------------------------------------------------------
def test_the_baseline_stands_between_the_others_and_at_both_ends():
    assert tuning.order(["b", "c"]) == [BASELINE, "b", BASELINE, "c", BASELINE]
    assert tuning.order(["b", "c", "d"], 2) == [BASELINE, "b", "c", BASELINE, "d", BASELINE]
    assert tuning.order(["b", "c"], 1, again=True) == ["c", BASELINE, "b", BASELINE]


def rows_of(**more) -> pd.DataFrame:
    """A start of each of nine configurations, the later the slower."""
    names = [BASELINE, *"bcdefghi"]
    frame = pd.DataFrame({"name": names, "place": range(9), "error": None, "answers": "1" * 20, "met": 100, "due": 100,
                          "goodput": np.arange(20.0, 11, -1), "throughput_tps": np.arange(200.0, 110, -10)})
    return frame.assign(**{m: np.nan for m in METRICS if m != "throughput_tps"}, **more)


def test_the_worse_half_is_dropped_with_the_reason():
    starts = rows_of()
    starts.loc[2, "error"] = "no room"
    starts.loc[3, "answers"] = "0" * 20
    kept, dropped = tuning.halve(starts, list("bcdefghi"))
    assert kept == ["b", "e", "f"] and set(dropped) == set("cdghi")
    assert "did not start" in dropped["c"] and "answers are worse" in dropped["d"] and "place 6 of 6" in dropped["i"]
    assert tuning.halve(rows_of(), list("bcd"))[0] == list("bcd"), "a short list stays"


@pytest.mark.parametrize("own, verdict", [("1" * 20, "no difference shown"), ("0" * 5 + "1" * 15, "no difference shown"), ("0" * 6 + "1" * 14, "worse")])
def test_answers_are_compared_question_by_question(own, verdict):
    starts = pd.DataFrame({"name": [BASELINE, "b"], "answers": ["1" * 20, own]})
    assert tuning.quality(starts)["b"]["verdict"] == verdict


def found_of(**cells) -> pd.DataFrame:
    columns = {"letter": list("ABC"), "state": "measured", "share": 1.0, "starts": 2, "answers.verdict": "no difference shown",
               "throughput_tps.value": [100.0, 150.0, 200.0], "throughput_tps.ratio": [1, 1.5, 2.0], "throughput_tps.low": [1, 1.3, 1.5],
               "throughput_tps.high": [1, 1.7, 2.5], "throughput_tps.verdict": ["–", "faster", "faster"]}
    return pd.DataFrame(columns | cells, index=pd.Index([BASELINE, "b", "c"], name="name"))


@pytest.mark.parametrize("cells, choice, words", [
    ({}, "c", "2.00"),
    ({"answers.verdict": ["–", "no difference shown", "worse"]}, "b", "1.50"),
    ({"share": [1.0, 1.0, 0.5]}, "b", "1.50"),
    ({"throughput_tps.verdict": ["–", "no difference shown", "slower"]}, BASELINE, "Keep"),
    ({"share": [0.5, 0.97, 0.2]}, "b", "too few"),
    ({"share": [0.5, 0.9, 0.2]}, None, "comes nearest"),
    ({"share": math.nan}, None, "No configuration"),
])
def test_the_choice_follows_from_targets_answers_and_what_was_shown(cells, choice, words):
    chosen, why = tuning.recommend(found_of(**cells))
    assert chosen == choice and words in why


def test_the_front_holds_what_nothing_beats_in_both():
    found = found_of(**{"tpot_s.value": [1.0, 3.0, 2.0]})
    assert list(tuning.front(found, "tpot_s")) == [True, False, True]


@pytest.mark.parametrize("lost", [["tpot_s"], ["tpot_s", "ttft_s"], ["throughput_tps"], list(METRICS)])
def test_what_no_start_measured_takes_nothing_else_along(lost):
    """A server that becomes slow in the middle may leave no request of a load in its steady window."""
    plan = [BASELINE, "b", "c", BASELINE]
    rows = pd.DataFrame(map(json.loads, RECORDED.read_text().splitlines())).iloc[:len(plan)]
    starts = labelled(rows, plan).assign(**{m: math.nan for m in METRICS if m in lost or m not in rows})
    found = tuning.summary([Configuration(n, letter=x) for n, x in zip((BASELINE, "b", "c"), "ABC")], starts, {})
    assert len(plots_tuning.pareto(found, 200, 50).axes) == 2
    tables = [f(found) for f in (tables_tuning.values, tables_tuning.against, tables_tuning.answers, tables_tuning.not_measured)]
    assert [len(t) for t in tables] == [3, 2, 3, 0] and tuning.METRICS[lost[0]].name not in "".join(tables[0])
    assert "nan" not in tables_tuning.noise(found) + tables_tuning.stands_out(found) + tuning.recommend(found)[1]


@pytest.mark.parametrize("low, high, shown", [(0.91, 1.12, "1.00 [0.91, 1.12]"), (1.0011, 1.0042, "1.003 [1.001, 1.004]"), (0.99992, 0.99996, "0.9999 [0.9999, 1.0000]"),
                                              (0.9991, 1.0012, "1.000 [0.999, 1.001]"), (math.nan, math.nan, "1.00")])
def test_a_ratio_has_the_digits_that_show_on_which_side_of_one_its_interval_lies(low, high, shown):
    row = {"s.ratio": 1.0 if math.isnan(low) else {1.0011: 1.0027, 0.99992: 0.99994}.get(low, 1.0), "s.low": low, "s.high": high, "s.verdict": "so"}
    assert tables_tuning._ratio(row, "s") == f"{shown} so"


# -- bad input ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("listed, words", [
    ([], "empty"), ([{"name": "a"}, {"name": "a"}], "two configurations are named 'a'"), (["nosuch"], "no list of configurations"),
    ([{"flags": "--enforce-eager"}], "a mapping with a `name`"), ([3], "a mapping with a `name`"), ([{"name": 3}], "wrong kind"),
    ([{"name": "a", "flag": ""}], "'flag' is unknown"), ([{"name": "a", "flags": "--x '"}], "mend the quotes"),
])
def test_a_list_that_cannot_be_is_told_in_one_line(listed, words):
    with pytest.raises(UserError) as error:
        configurations.read(listed)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("flags, words", [
    ("--no-such-flag 3", "no flag of this vLLM version"), ("--max-num-seq 3", "did you mean --max-num-seqs?"), ("stray", "no flag"),
    ("--dtype float7", "choose one of auto"), ("--dtype", "needs a value"), ("--enforce-eager yes", "takes no value"),
    ("--max-num-seqs 1 --max_num_seqs=2", "contradict"), ("--enable-prefix-caching --no-enable-prefix-caching", "contradict"),
    ("--enforce-eager --compilation-config.mode 3", "contradict"), ("--quantization awq", "not quantized with awq"),
    ("--tensor-parallel-size 2 --data-parallel-size 2", "4 parallel ranks need 4 devices"), ("--port 80", "set by the workbook"),
    ("--api-key secret", "set by the workbook"),
])
def test_flags_that_cannot_be_are_told_before_the_first_start(flags, words):
    found = configurations.read([{"name": "mine", "flags": flags}])
    with pytest.raises(UserError) as error:
        configurations.checked(found, [], vllm_flags.known(), 1, str(launch.EMBEDDED))
    assert words in str(error.value) and str(error.value).startswith("mine: ") and "\n" not in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("flags", ["--port 80 --max_model_len=4096", "-O3", "-O 2", "-tp 2", "--api-key secret --no-enable-prefix-caching",
                                   "--compilation-config.mode 3", "--middleware my.module", "--max-num-seqs 4 --max-num-seqs 8",
                                   """--limit-mm-per-prompt '{"image":4}'"""])
def test_flags_of_the_runs_own_server_that_vllm_takes_pass(flags):
    configurations.check_flags(launch.words(flags), vllm_flags.known())


@pytest.mark.parametrize("name", [p.stem for p in configurations.FOLDER.glob("*.yaml")])
def test_the_lists_that_ship_are_known_to_this_vllm_and_fit_any_machine(name):
    found = configurations.checked(configurations.read([name]), ["--api-key", "***", "--max-num-seqs", "64"], vllm_flags.known(), 1,
                                   "Qwen/Qwen3-VL-2B-Instruct")
    assert found[0].flags == ("--max-num-seqs", "64") and len({c.letter for c in found}) == len(found) >= 3
    for c in found:
        assert bool(c.left_out) == (c.gpus > 1) and c.why
        assert c.flags.count("--max-num-seqs") == 1, "a configuration's flag takes the place of the baseline's"


def test_another_checkpoint_is_left_out_beside_another_model():
    listed = configurations.read([{"name": "AWQ", "model": "x/Model-AWQ", "instead_of": "Model"}])
    left_out = [configurations.checked(listed, [], {}, 1, spec)[1].left_out for spec in ("me/model", "me/other")]
    assert left_out == ["", "left out: it stands in for Model"]


def test_without_a_baseline_nothing_else_is_started(run_name):
    def refuse(configuration):
        raise UserError("not enough memory: stop what else uses it")

    todo = [Configuration(BASELINE, letter="A"), Configuration("b", letter="B")]
    work = tuning_run.Tuning(bench_of(run_name), todo, tuning_run.Load(), "metronome")
    with pytest.raises(UserError, match="baseline cannot be measured.*not enough memory") as error:
        asyncio.run(tuning_run.carry_out(work, start=refuse))
    assert len(work.rows) == 1 and "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["embedded", "shape:Qwen3-VL-2B-Instruct"])
def test_a_configuration_has_the_flags_that_were_asked_for_and_none_twice_of_those_that_every_start_adds(run_name, spec):
    server = Server("http://127.0.0.1:9", "a model", spec=spec, flags=[*launch.added_flags(spec), "--max-num-batched-tokens", "512"])
    work = tuning_run.prepare(bench_of(run_name, server), ["smoke"], tuning_run.Load())
    assert work.configurations[0].flags == ("--max-num-batched-tokens", "512")


def test_a_users_server_makes_room_and_the_run_starts_it_again(run_name, tmp_path):
    """The server that makes room is any process under the guard that owns servers."""
    process = launch.GuardedProcess([sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ), tmp_path / "log")
    desk = bench_of(run_name, Server("http://127.0.0.1:9", "a model", process=None))
    rundir.write_json(desk.run.path / "server.json", {"url": desk.server.url, "pid": os.getpid()})
    tuning_run._make_room(desk)
    assert process.alive(), "only the run's own server, never another process"
    rundir.write_json(desk.run.path / "server.json", {"url": desk.server.url, "pid": process.pid})
    tuning_run._make_room(desk)
    assert not process.alive()
    again = Server("http://127.0.0.1:10", "a model")
    ended = Server("http://127.0.0.1:9", "a model", process=process)
    assert Keeper(ended, desk.run, lambda: again).server("06_tuning", made_room=True) is again
    assert "events" not in desk.run.info(), "it is no mishap"


def test_a_time_that_does_not_last_ends_the_plan_and_what_was_measured_stands(run_name, monkeypatch):
    """The servers are metronomes, the third of which does not come up before the time is over."""
    todo = [Configuration(BASELINE, letter="A"), Configuration("b", letter="B"), Configuration("late", letter="C"), Configuration("d", letter="D")]
    work = tuning_run.Tuning(bench_of(run_name), todo, tuning_run.Load(streams=2, seconds=0.5, questions=0), "metronome")

    def start(configuration):
        if configuration.name == "late":
            monkeypatch.setenv(time_limit.DEADLINE, str(time.monotonic()))
            raise UserError("vLLM gave no answer within 9 s")
        return Beating(5.0)

    asyncio.run(tuning_run.carry_out(work, apart=3, start=start))
    found = work.summary()
    assert list(found["state"]) == ["measured", "measured", "not started", "not started"]
    assert "time did not last" in found.loc["late", "cause"] and found.loc["late", "cause"] == found.loc["d", "cause"], "it is not to blame"
    assert "after 2 starts, " in work.ended and "3 more (late, d, baseline)" in work.ended
    tuning_run.publish(work, found)
    assert "tuning.B.throughput_tps.value" in work.desk.run.figures()
    told = tables_tuning.section(rundir.read_json(work.desk.run.path / "tuning.json", None))
    assert "Ended early after 2 starts" in told["words"], "the report says so, too"


def test_a_plan_that_is_interrupted_keeps_the_figures_of_the_starts_it_had(run_name):
    """Somebody's Ctrl-C, in the fourth start."""
    todo = [Configuration(BASELINE, letter="A"), Configuration("b", letter="B"), Configuration("c", letter="C")]
    work = tuning_run.Tuning(bench_of(run_name), todo, tuning_run.Load(streams=2, seconds=0.5, questions=0), "metronome")

    def start(configuration):
        if configuration.name == "c":
            raise KeyboardInterrupt
        return Beating(5.0)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(tuning_run.carry_out(work, start=start))
    figures, kept = work.desk.run.figures(), rundir.read_json(work.desk.run.path / "tuning.json", None)
    assert {"tuning.A.throughput_tps.value", "tuning.B.throughput_tps.value"} <= set(figures) and "tuning.C.throughput_tps.value" not in figures
    assert "Cut off after 3 starts" in tables_tuning.section(kept)["words"]
    assert [c["state"] for c in kept["summary"]] == ["measured", "measured", "not started"]


@pytest.mark.parametrize("errors, words", [([None, None], "too slow for this load: no request began and ended in it with all 2 in flight"),
                                           (["timeout", None], "never answered 2 requests at once: 1 of 2 requests failed"),
                                           (["timeout", "timeout"], "answered nothing: 2 of 2 requests failed")])
def test_a_load_that_gave_no_number_says_whether_the_server_failed_or_was_only_slow(errors, words):
    series = SimpleNamespace(streams=2, frame=pd.DataFrame({"error": errors, "message": errors}))
    assert words in tuning_start._why_no_answers(SimpleNamespace(), series)


def test_a_start_is_not_begun_where_the_time_left_is_shorter_than_starts_took(run_name, monkeypatch):
    """After the first start, which took seconds, half a second is left."""
    todo = [Configuration(BASELINE, letter="A"), Configuration("b", letter="B")]
    work = tuning_run.Tuning(bench_of(run_name), todo, tuning_run.Load(streams=2, seconds=0.5, questions=0), "metronome")
    started = []

    def start(configuration):
        started.append(configuration.name)
        server = Beating(5.0)
        stop, server.stop = server.stop, lambda: (stop(), monkeypatch.setenv(time_limit.DEADLINE, str(time.monotonic() + 0.5)))
        return server

    asyncio.run(tuning_run.carry_out(work, start=start))
    assert started == [BASELINE] and "after 1 start, " in work.ended


@pytest.mark.parametrize("left, name, too_little", [(60, "a", False), (40, "a", True), (60, "slow", True), (60, "new", True), (200, "new", False),
                                                   (140, "compiled", False), (60, "quick", False)])
def test_what_a_start_takes_is_known_from_starts_of_its_own_command_before_those_of_others(left, name, too_little, monkeypatch):
    monkeypatch.setenv(time_limit.DEADLINE, str(time.monotonic() + left))
    took = {"a": [50.0, 52.0], "slow": [130.0, 128.0], "compiled": [190.0], "quick": [55.0]}
    assert tuning_run._no_time(took, name) is too_little


@pytest.mark.parametrize("doubts, verdict", [
    (["valid"] * 5, "valid"), (["valid"] * 4 + ["unstable: it rises"], "valid"), (["valid", "unstable: it rises"], "unstable: it rises (in 1 of 2 starts)"),
    (["warming up: x", "unstable: y", "valid"], "warming up: x (in 2 of 3 starts)"),
    (["unstable: y", "valid", "valid", "throttled: z; unstable: y"], "throttled: z; unstable: y (in 1 of 4 starts)"),
    (["valid", "valid", "disturbed: others"], "disturbed: others (in 1 of 3 starts)")])
def test_one_uneven_start_does_not_doubt_a_configuration_and_one_that_measured_something_else_does(doubts, verdict):
    assert tuning_run._of_its_starts(pd.Series(doubts)) == verdict and set(verdicts.COURSE) <= set(verdicts.KINDS)


# -- real servers ------------------------------------------------------------------------------------
def test_a_server_that_dies_under_load_is_a_row_with_its_cause_and_what_was_measured_stays(run_name):
    """The stand-in for the dying server is an address at which nobody listens."""
    todo = [Configuration(BASELINE, letter="A"), Configuration("dies", letter="B")]
    work = tuning_run.Tuning(bench_of(run_name), todo, tuning_run.Load(streams=2, seconds=0.5, questions=0), "metronome")
    gone = Beating(5.0)
    gone.stop()
    asyncio.run(tuning_run.carry_out(work, start=lambda c: gone if c.name == "dies" else Beating(5.0)))
    found = work.summary()
    assert list(found["state"]) == ["measured", "cannot start"] and "answered nothing" in found.loc["dies", "cause"]
    tuning_run.publish(work, found)
    assert "dies" in str(tables_tuning.section(rundir.read_json(work.desk.run.path / "tuning.json", None))["tables"]), "the report has it, too"


def test_the_notebook_starts_measures_and_compares_real_servers(finished_run):
    """In the whole run, whose list of configurations is a file (tests/conftest.py)."""
    run, _ = finished_run
    told = json.loads((run.path / "tuning.json").read_text())
    states = {row["name"]: (row["state"], row["cause"]) for row in told["summary"]}
    assert states[BASELINE] == states["half the context"] == ("measured", "")
    assert states["too small"][0] == "cannot start" and "KV cache" in states["too small"][1]
    measured = {h.claim.id: h.reasons for h in claim_rules.hold(claims.load(), run) if h.verdict == "fails"}
    assert "half the context: KV cache" in measured["max-len-kv"][0] and "too small did not start" in measured["chunked"][0], "by measuring"
    shown = tables_tuning.section(told)
    assert shown["words"] and "api_server" in shown["command"] and "too small" in str(shown["tables"]), "the report shows what came out"
    starts = [row for row in told["starts"] if row["error"] is None]
    assert len(starts) == 3 and all(row[m] > 0 for row in starts for m in METRICS), "every metric of a server that is started here is known"
    assert told["recommended"] in (BASELINE, "half the context"), "the latter in one of 100 runs"
    page = nbformat.read(run.path / "notebooks" / "06_tuning.ipynb", 4)
    text = "".join(o.get("text", "") for c in page.cells if c.cell_type == "code" for o in c.outputs)
    assert "python -m vllm.entrypoints.openai.api_server --model data/models/tiny-qwen3-vl" in text and "workbook serve embedded" in text
    started = [json.loads(path.read_text()) for path in run.path.glob("tuning/*/server.json")]
    assert len(started) == 3 and not [known for known in started if guarded(known["pid"]) or answers(known["url"])], "none is left"


def test_a_server_that_died_under_its_load_has_no_memory_and_its_row_is_kept(monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    monkeypatch.setattr(machine, "gpus", list)
    assert math.isnan(tuning_start.memory_gib(SimpleNamespace(process=dead)))


def guarded(pid: int) -> bool:
    try:
        return "lib.guard" in psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return False


def answers(url: str) -> bool:
    try:
        return get(url, "/health", None, 2).status_code > 0
    except httpx2.TransportError:
        return False


def test_a_server_of_somebody_else_is_measured_and_left_as_it_is(server, run_name):
    foreign = Server(server.url, server.model, server.api_key)
    work = tuning_run.prepare(bench_of(run_name, foreign), ["smoke"], tuning_run.Load(seconds=4.0, questions=8))
    assert work.spec is None and "-p tuning_model" in tuning_run.scope(work)
    asyncio.run(tuning_run.carry_out(work))
    found = work.summary()
    assert list(found.index) == [BASELINE] and found["throughput_tps.value"].notna().all() and server.alive()
    tables = [tables_tuning.values(found), tables_tuning.against(found), tables_tuning.answers(found), tables_tuning.not_measured(found)]
    assert [len(t) for t in tables] == [1, 0, 1, 0] and plots_tuning.pareto(found, 200, 50).axes
    assert "no difference can be shown" in tables_tuning.noise(found) and tables_tuning.stands_out(found) == ""
    assert "Nothing was compared" in tuning.recommend(found)[1] and "not known here" in tuning_run.command(work, BASELINE)
