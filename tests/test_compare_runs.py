"""Runs held against each other: a known difference is found, none is invented, and what is not the same work is refused."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib import bench, cli, compare_runs, finished, metrics, plots_compare, records, report, rundir
from lib.errors import UserError
from lib.records import Record
from lib.series import Series

FILES = Path(__file__).parent / "data" / "imported"


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    for module in (rundir, finished):
        monkeypatch.setattr(module, "OUTPUTS", tmp_path)
    return tmp_path


def rows(name: str, seed: int, slower: float, n: int, tokens: int, prompts, spread: float) -> list[Record]:
    """Requests one after the other; TTFT grows with the prompt, all times vary by `spread` and are `slower` times as long."""
    rng, at, out = np.random.default_rng(seed), 100.0, []
    for index in range(n):
        prompt = prompts[index % len(prompts)]
        ttft = 0.0005 * prompt * slower * float(rng.lognormal(0, spread))
        gaps = 0.004 * slower * rng.lognormal(0, spread, tokens - 1)
        reads = [[ttft + gap, 1] for gap in [0.0, *np.cumsum(gaps).tolist()]]
        last = at + reads[-1][0]
        out.append(Record(name, index, sent=at, first=at + ttft, last=last, done=last + 1e-4, reads=reads, requested_tokens=tokens,
                          prompt_tokens=prompt, output_tokens=tokens, finish="length", status=200))
        at = last + 2e-4
    return out


def make(name: str, seed: int = 1, slower: float = 1.0, n: int = 80, tokens: int = 12, prompts=(40,), spread: float = 0.1, model: str = "some-model",
         series: str = "single", **info) -> rundir.RunDir:
    """A run folder, written by the functions that write real ones."""
    run = rundir.RunDir(name)
    with records.Sink(run.requests_file(series)) as sink:
        for record in rows(series, seed, slower, n, tokens, prompts, spread):
            sink.write(record)
    frame = metrics.per_request(records.read(run.requests_file(series)))
    window = metrics.steady_window(frame, 1)
    measured = Series(series, metrics.mark_steady(frame, window), "closed loop, 1 in flight", window, streams=1)
    bench.Bench("02_single_request", None, run).publish(measured)
    run.enter_series(series, measured.about())
    run.update_info(model=model, facts={"GPU": "none", "memory": "24 GiB, 20 GiB free"}, parameters={"seed": seed}, **info)
    return run


def compared(*names, **options):
    runs = compare_runs.open_all(list(names), **options)
    return compare_runs.ratios(runs).set_index("metric")


# -- what is found -----------------------------------------------------------------------------------
def test_a_run_that_is_ten_percent_slower_is_called_slower(outputs):
    make("a"), make("b", seed=2, slower=1.1)
    found = compared("a", "b")
    assert set(found.loc[["TTFT", "TPOT", "whole time"], "verdict"]) == {"slower"} and found.loc["throughput", "verdict"] == "slower"
    assert found.loc["TPOT", "low"] < 1.1 < found.loc["TPOT", "high"]
    assert found.loc["throughput", "low"] < 1 / 1.1 < found.loc["throughput", "high"]


def test_equal_servers_are_seldom_called_different(outputs):
    make("a")
    verdicts = [compared("a", make("b", seed=seed).name)["verdict"] for seed in range(2, 22) if not shutil.rmtree(outputs / "b", ignore_errors=True)]
    wrong = sum(v.isin(["faster", "slower"]).sum() for v in verdicts)
    assert wrong <= 12, f"{wrong} of {4 * len(verdicts)}; 4 are expected, and of one series all may be wrong together"


def test_the_same_mixed_requests_are_held_against_each_other_one_by_one(outputs):
    """Prompts from 20 to 2,000 tokens: their mixture is no uncertainty of the ratio."""
    prompts = (20, 2000, 300, 1000, 60)
    make("a", prompts=prompts), make("b", seed=2, slower=1.1, prompts=prompts)
    paired = compared("a", "b").loc["TTFT"]
    (pair,), _ = compare_runs.matched(*compare_runs.open_all(["a", "b"]))
    pair.a.requests = None
    runs = compare_runs.open_all(["a", "b"])
    whole = compare_runs._ratio(*runs, pair, "ttft_s", 0.02)
    assert paired["low"] < 1.1 < paired["high"] and paired["verdict"] == "slower"
    assert paired["high"] / paired["low"] < (whole["high"] / whole["low"]) ** 0.5


def test_the_comparison_turned_round_is_the_inverse(outputs):
    make("a"), make("b", seed=2, slower=1.3)
    forth, back = compared("a", "b"), compared("b", "a")
    assert (forth["ratio"] * back["ratio"]).to_numpy() == pytest.approx(1)
    assert set(forth["verdict"]) == {"slower"} and set(back["verdict"]) == {"faster"}


def test_few_requests_decide_nothing(outputs):
    make("a", n=12), make("b", n=12, seed=2, slower=2)
    found = compared("a", "b")
    assert found.loc["TTFT", "verdict"] == "undecided: fewer than 20 values"


def test_a_doubtful_series_is_marked_in_the_comparison(outputs):
    run = make("a")
    figures = run.figures()
    figures["single.ttft.mean"]["verdict"] = "errors: 9 of 80 requests failed"
    rundir.write_json(run.path / "figures.json", figures)
    make("b", seed=2)
    found = compared("a", "b")
    assert found.loc["TTFT", "doubt"] == "a: errors: 9 of 80 requests failed" and found.loc["TPOT", "doubt"] == ""


def test_settings_that_differ_are_shown_and_what_was_free_just_then_is_none(outputs):
    make("a"), make("b", seed=2)
    info = json.loads((outputs / "b" / "run.json").read_text())
    info["facts"] |= {"memory": "24 GiB, 3 GiB free", "flags": "--enforce-eager"}
    (outputs / "b" / "run.json").write_text(json.dumps(info))
    shown = compare_runs.settings(compare_runs.open_all(["a", "b"])).set_index("setting")
    assert list(shown.index) == ["parameter seed", "flags"] and shown.loc["flags", "a"] == "not told"


def test_three_runs_stand_beside_the_first(outputs):
    make("a"), make("b", seed=2), make("c", seed=3, slower=1.5)
    found = compare_runs.ratios(compare_runs.open_all(["a", "b", "c"]))
    assert set(found["run"]) == {"b", "c"} and set(found["against"]) == {"a"}
    assert plots_compare.forest(found, "a").axes


# -- other tools -------------------------------------------------------------------------------------
def test_other_tools_results_are_compared_and_what_has_no_rows_has_no_interval(outputs):
    found = compared(str(FILES / "guidellm.json"), str(FILES / "aiperf"))
    assert found.loc["TTFT", "low"] < found.loc["TTFT", "ratio"] < found.loc["TTFT", "high"] and found.loc["TTFT", "n_a"] == 64
    assert np.isnan(found.loc["throughput", "low"]) and found.loc["throughput", "verdict"].startswith("no interval")
    assert "have no interval, because only means were kept" in compare_runs.said(found.reset_index())[0]


def test_this_workbooks_run_stands_beside_another_tools(outputs):
    run = make("ours", tokens=200, prompts=(100,), model="metronome", n=30)
    about = run.series()
    about["single"]["shape"] = "closed loop, 8 in flight"  # as the tool's; this test is about the matching
    rundir.write_json(run.path / "series.json", about)
    found = compared("ours", str(FILES / "guidellm.json"))
    assert set(found["series"]) == {"closed loop, 8 in flight"} and np.isfinite(found.loc["TPOT", "low"])
    tools = compare_runs.counted(compare_runs.open_all(["ours", str(FILES / "guidellm.json")]))
    assert list(tools["tool"]) == ["workbook", "GuideLLM"]


# -- what is refused ---------------------------------------------------------------------------------
def edit(run, part, change):
    content = json.loads((run.path / part).read_text())
    change(content)
    (run.path / part).write_text(json.dumps(content))


def drop(*parts):
    return lambda run: [(run.path / part).unlink() for part in parts]


def figure_changed(run):
    edit(run, "figures.json", lambda c: c["single.ttft.mean"].update(value=1.0))


def row_removed(run):
    path = run.requests_file("single")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def line_torn(run):
    with run.requests_file("single").open("ab") as file:
        file.write(b'{"series": "sing')


@pytest.mark.parametrize("damage, words", [
    (drop("run.json"), "half there: it has no run.json"),
    (drop("figures.json"), "half there: it has no figures.json"),
    (drop("series.json", "run.json"), "no run.json and no series.json"),
    (drop("requests/single.jsonl"), "half there: series single has no requests/single.jsonl"),
    (lambda run: (run.path / "run.json").write_text("{"), "run.json in run b is damaged"),
    (lambda run: edit(run, "series.json", lambda c: c["single"].pop("window_s")), "another version of the workbook"),
    (figure_changed, "mean TTFT of series single is 1 in its files"),
    (row_removed, "number of requests"),
    (line_torn, "1 lines of requests/single.jsonl are no records"),
])
def test_a_run_that_is_not_whole_is_refused_in_one_line(damage, words, outputs):
    make("a")
    damage(make("b", seed=2))
    with pytest.raises(UserError, match=words) as told:
        compared("a", "b")
    assert "\n" not in str(told.value) and "run b" in str(told.value)


def test_a_run_whose_requests_are_packed_is_told_with_the_command_that_unpacks_them(outputs):
    make("a"), make("b", seed=2)
    subprocess.run(["tar", "cJf", "requests.tar.xz", "requests", "--remove-files"], cwd=outputs / "b", check=True)
    with pytest.raises(UserError) as told:
        compared("a", "b")
    subprocess.run(str(told.value).split("`")[1], shell=True, check=True)
    assert len(compared("a", "b"))


def test_what_is_not_comparable_is_refused(outputs):
    make("a"), make("longer", seed=2, tokens=24), make("prompts", seed=2, prompts=(400,)), make("other", seed=2, model="another-model")
    make("elsewhere", seed=2, series="endurance")
    shutil.copytree(outputs / "a", outputs / "copy")
    for names, words in (
            (["a"], "at least two"), (["a", "a"], "compared with itself"), (["a", str(outputs / "a")], "compared with itself"),
            (["a", "copy"], "a copy of a run"), (["a", "other"], "--any-model"), (["a", "longer"], "answers of 12 tokens against 24"),
            (["a", "prompts"], "prompts of 40 tokens against 400"), (["a", "elsewhere"], "a has single; elsewhere has endurance.*run --like a "),
            (["a", "nowhere"], "there is no run 'nowhere'"), (["a", "no/such.json"], "there is no file or run")):
        with pytest.raises(UserError, match=words) as told:
            compared(*names)
        assert "\n" not in str(told.value)
    assert len(compared("a", "other", any_model=True))


def test_series_of_other_work_are_left_out_and_named(outputs):
    make("a"), make("b", seed=2)
    make("a", series="endurance"), make("b", seed=2, series="endurance", tokens=24)
    left = compare_runs.left_out(compare_runs.open_all(["a", "b"]))
    assert list(left["left out"]) == ["endurance: answers of 12 tokens against 24"]


def test_starts_of_two_configurations_are_not_compared_because_their_letters_are_the_same(outputs):
    for name, seed, b in (("a", 1, "AWQ"), ("b", 2, "eager")):
        make(name, seed=seed, series="tuning.00-A.alone"), make(name, seed=seed, series="tuning.01-B.alone")
        rundir.write_json(outputs / name / "tuning.json", {"configurations": [
            {"letter": "A", "name": "baseline", "own": [], "model": ""}, {"letter": "B", "name": b, "own": [f"--{b}"], "model": ""}]})
    runs = compare_runs.open_all(["a", "b"])
    assert [pair.name for pair in compare_runs.matched(*runs)[0]] == ["tuning.00-A.alone"]
    assert list(compare_runs.left_out(runs)["left out"]) == ["tuning.01-B.alone: AWQ against eager"]


# -- the command -------------------------------------------------------------------------------------
def test_the_command_writes_a_page_and_enters_every_ratio(outputs, monkeypatch, capsys, run_name):
    a, b = make("a").path, make("b", seed=2, slower=1.2).path
    monkeypatch.undo()  # the notebook's own process writes to the real outputs/
    monkeypatch.setattr(sys, "argv", ["workbook", "compare", str(a), str(b), "--name", run_name])
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr().out
    assert end.value.code == 0 and "slower" in shown and f"{run_name}/html/10_compare.html" in shown
    run = rundir.find(run_name)
    figures = run.figures()
    assert len(figures) == 4 and all((run.path / f["records"]).exists() and f["n"] >= 20 for f in figures.values())
    page = run.path / "html" / "10_compare.html"
    assert "is most clearly slower" in report.as_text(page) and report.loads_from_elsewhere(page) == []


@pytest.mark.parametrize("arguments", [["a"], ["latest", "no-such-run"], [str(FILES / "guidellm.json"), str(FILES / "guidellm.json")], []])
def test_a_bad_comparison_is_one_line_and_a_status(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["workbook", "compare", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
