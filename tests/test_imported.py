"""Other tools' results are read as the tools meant them. The files were made by the tools themselves, with a metronome for
a server (one token each 5 ms, 8 streams, 200 tokens), and only cut: texts, gaps and unused figures are left out."""
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from lib import imported
from lib.errors import UserError

FILES = Path(__file__).parent / "data" / "imported"
TOOLS = {"vllm bench serve": FILES / "vllm_bench_serve.json", "GuideLLM": FILES / "guidellm.json", "AIPerf": FILES / "aiperf"}


@pytest.fixture(params=TOOLS)
def tool(request):
    return request.param, imported.read(TOOLS[request.param])


def only(run):
    (series,) = run.series.values()
    return series


def test_the_tool_model_and_load_are_recognised(tool):
    name, run = tool
    series = only(run)
    assert (run.tool, run.model, series.shape, series.output_tokens) == (name, "metronome", "closed loop, 8 in flight", 200)
    assert series.counts == {"sent": 64, "failed": 0}


def test_rows_have_the_means_and_medians_that_the_tool_told(tool):
    name, run = tool
    series = only(run)
    for metric, values in series.values.items():
        if metric in series.told:
            assert np.mean(values) == pytest.approx(series.told[metric]["mean"], rel=1e-6), metric
            # GuideLLM's is the lower of the two values in the middle
            assert np.median(values) == pytest.approx(series.told[metric]["median"], rel=0.02 if name == "GuideLLM" else 1e-6), metric
    assert series.values["ttft_s"].size == 64


def test_seconds_are_seconds(tool):
    """A token each 5 ms: a factor of a thousand cannot hide."""
    series = only(tool[1])
    assert 0.004 < np.median(series.values["tpot_s"]) < 0.006 and 0.9 < np.median(series.values["total_s"]) < 1.2
    assert 1300 < series.told["throughput_tps"]["mean"] < 1700


def changed(source: Path, target: Path, change) -> Path:
    content = json.loads(source.read_text())
    change(content)
    target.write_text(json.dumps(content))
    return target


def test_without_rows_means_and_medians_are_left(tmp_path):
    def bare_vllm(c):
        for name in ("ttfts", "latencies", "start_times", "output_lens", "input_lens", "errors"):
            del c[name]

    def bare_guidellm(c):
        c["benchmarks"][0]["requests"] = {"successful": []}

    alone = tmp_path / "aiperf.json"
    shutil.copy(TOOLS["AIPerf"] / "profile_export_aiperf.json", alone)
    for path in (changed(TOOLS["vllm bench serve"], tmp_path / "v.json", bare_vllm), changed(TOOLS["GuideLLM"], tmp_path / "g.json", bare_guidellm), alone):
        series = only(imported.read(path))
        assert not series.values and series.told["ttft_s"]["mean"] > 0


def test_failed_requests_are_no_values(tmp_path):
    def fail_one(c):
        c["errors"][0], c["completed"], c["failed"] = "timeout", 63, 1

    series = only(imported.read(changed(TOOLS["vllm bench serve"], tmp_path / "v.json", fail_one)))
    assert len(series.values["ttft_s"]) == 63 and series.counts == {"sent": 64, "failed": 1}


def test_older_forms_of_guidellm_and_aiperf_are_read(tmp_path):
    """As their documentation shows them: GuideLLM 0.3 said args and run_stats, AIPerf before 0.13 loadgen and model_names."""
    def guidellm_03(c):
        level = c["benchmarks"][0]
        config = level.pop("config")
        level["args"] = {"strategy": {"type_": "concurrent", "streams": 8}}
        level["worker"] = {"backend": config["backend"]}
        level["run_stats"] = {"requests_made": level["metrics"].pop("request_totals")}
        for row in level["requests"]["successful"]:
            row["start_time"] = row.pop("request_start_time")
        del c["metadata"]

    def aiperf_older(c):
        c["input_config"] = {"endpoint": {"model_names": ["metronome"]}, "loadgen": {"concurrency": 8}}

    for source, change in ((TOOLS["GuideLLM"], guidellm_03), (TOOLS["AIPerf"] / "profile_export_aiperf.json", aiperf_older)):
        old, new = imported.read(changed(source, tmp_path / "old.json", change)), imported.read(source)
        assert old.model == new.model and only(old).shape == only(new).shape and only(old).told == only(new).told


def test_an_open_loop_is_named_as_this_workbook_names_it(tmp_path):
    def rate(c):
        c |= {"request_rate": 4.0, "max_concurrency": None}

    assert only(imported.read(changed(TOOLS["vllm bench serve"], tmp_path / "v.json", rate))).shape == "open loop, 4 requests/s, poisson"


def test_unknown_lengths_are_not_numbers(tmp_path):
    def nothing(c):
        c |= {"completed": 0, "errors": ["x"] * 64}

    with pytest.raises(UserError, match="no request that was answered"):
        imported.read(changed(TOOLS["vllm bench serve"], tmp_path / "v.json", nothing))
    assert math.isnan(imported.Measured("x", math.nan, math.nan).prompt_tokens)


@pytest.mark.parametrize("content, words", [
    ("{", "not whole JSON"), ("[1, 2]", "of no kind"), ('{"a": 1}', "of no kind"), ('{"benchmarks": []}', "no request that was answered"),
    ('{"benchmarks": [{}]}', "in a form that is not"), ('{"ttfts": [1]}', "in a form that is not"), ('{"time_to_first_token": {}}', "in a form that is not"),
])
def test_what_is_no_result_is_one_line(content, words, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(UserError, match=words) as told:
        imported.read(path)
    assert "\n" not in str(told.value) and "result.json" in str(told.value)


def test_a_folder_without_or_with_several_results_is_told(tmp_path):
    with pytest.raises(UserError, match="no result file"):
        imported.read(tmp_path)
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="more than one"):
        imported.read(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        imported.read(tmp_path / "none.json")
