"""The benchmark: its rows say what was sent, its errors are right, and what cannot run is a line."""
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks import environments, errors, levels, measure, metronome, step
from benchmarks.__main__ import Benchmark, processors
from benchmarks.clients import CLIENTS
from lib import ROOT


def test_a_row_tells_what_was_sent(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--clients", "raw,ours,openai", "--streams", "4", "--rounds", "3", "--tokens", "20",
         "--long", "0", "--out", tmp_path / "out"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "table.csv").set_index("client")
    assert list(table.index) == ["raw", "ours", "openai"], done.stdout
    assert (table["requests"] == 12).all() and (table["failed"] == 0).all() and (table["sent_tokens"] == 240).all()
    assert (table["tokens_per_s"] > 0).all() and (table["cpu_s"] > 0).all() and (table["peak_mib"] > 0).all()
    printed = (tmp_path / "out" / "table.md").read_text()
    assert printed in done.stdout and printed.count("|       4 |") == 3


def test_errors_are_differences_to_the_truth_of_the_same_requests():
    streams, rounds, tokens, step = 2, 300, 11, 0.01
    rows, found = [], []
    for i in range(streams * rounds):
        arrived = i // streams * 0.2 + i % streams * 0.001
        at = arrived + 0.005 + step * np.arange(tokens)
        rows.append({"arrived": arrived, "first": at[0], "last": at[-1], "tokens": tokens, "at": at, "ttft_ms": 5.0, "tpot_ms": 10.0,
                     "itl_ms": np.diff(at) * 1000})
        found.append({"started": arrived, "ttft_ms": 8.0, "tpot_ms": 10.1, "itl_ms": np.full(tokens - 1, 11.0)})
    usage = measure.Usage(1.0, 1.0, [(0.0, 0.0, 10, 0.0, 0.0), (100.0, 50.0, 30, 10.0, 1.0)])
    row = errors.compare(streams, pd.DataFrame(rows), pd.DataFrame(found), usage)
    for prefix in ("", "steady_"):
        assert row[f"{prefix}ttft_error_ms"] == pytest.approx(3) and row[f"{prefix}ttft_error_p99_ms"] == pytest.approx(3)
        assert row[f"{prefix}tpot_error_pct"] == pytest.approx(1) and row[f"{prefix}itl_error_pct"] == pytest.approx(10)
    assert row["tokens_per_s"] == pytest.approx(streams * tokens / 0.2, rel=0.01)
    assert row["cpu_share"] == pytest.approx(0.5) and row["others_share"] == pytest.approx(0.1) and row["peak_mib"] == 30


def test_too_few_requests_have_no_p99():
    frame = pd.DataFrame({"ttft_ms": [1.0] * 20, "tpot_ms": [1.0] * 20, "itl_ms": [np.ones(5)] * 20})
    found = errors._errors(frame, frame)
    assert found["ttft_error_ms"] == 0 and np.isnan(found["ttft_error_p99_ms"])


@pytest.fixture
def bench(tmp_path):
    return Benchmark(tmp_path, 5)


def test_a_folder_that_cannot_be_made_is_a_line(bench, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "file")
    assert list(bench.available([CLIENTS["aiperf"], CLIENTS["raw"]])) == ["raw"]
    assert bench.notes == ["skipped: AIPerf 0.13.0: no environment could be made (File exists)"]
    assert bench.notes[0] in capsys.readouterr().out


def test_an_unreachable_network_is_a_line(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "envs")
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "",
                        "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    assert bench.available([CLIENTS["aiperf"]]) == {}
    assert len(bench.notes) == 1 and "could not be installed" in bench.notes[0] and "is the network up?" in bench.notes[0]


@pytest.mark.parametrize("program, words", [
    ("raise ValueError('no such flag')", "ended with status 1: ValueError: no such flag"),
    ("pass", "its results cannot be read"),
])
def test_what_fails_is_a_line(bench, program, words):
    client = replace(CLIENTS["raw"], command=lambda python, load: [python, "-c", program])
    assert bench.measure(client, sys.executable, 2, 4) is None
    assert bench.rows == [] and len(bench.notes) == 1 and words in bench.notes[0]
    assert "nothing was measured" in bench.finish()


def test_what_does_not_end_is_ended(tmp_path):
    cpu, _ = processors()
    with metronome.running(5, cpu) as server, pytest.raises(measure.Unavailable, match="had not ended"):
        measure.run([sys.executable, "-c", "import time; time.sleep(60)"], [cpu], server, {}, tmp_path / "log.txt", 0.5)


def test_a_traced_step_is_told_by_kinds_of_kernels_and_only_steps_that_decode_count():
    def event(cat, name, ts, dur):
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur}

    found = step.steps({"traceEvents": [
        event("gpu_user_annotation", "execute_context_1(116)_generation_0(0)", 0, 90), event("kernel", "nvjet_x", 10, 80_000),
        event("gpu_user_annotation", "execute_context_0(0)_generation_2(2)", 100, 90), event("kernel", "nvjet_sm90", 110, 1000),
        event("kernel", "flash_fwd", 120, 500), event("gpu_user_annotation", "execute_context_0(0)_generation_2(2)", 200, 90)]})
    text = step.table(found, 1, 2.0)
    assert "2 to 2 streams, 1 steps" in text and "| matrices | 1.00 |" in text and "| the GPU waits | 0.50 |" in text
    assert "3 streams" in step.table(found, 3, None)


def test_levels_stand_beside_the_first_configuration_and_a_peer_without_a_figure_has_a_dash():
    row = {"streams": 8, "load": "at once", "failed": 0, "tokens_per_s": 200.0, "tpot_ms": 2.0, "client": "this client"}
    text = levels.table([row | {"configuration": "default"}, row | {"configuration": "other", "tokens_per_s": 300.0, "verdict": "valid"},
                         row | {"configuration": "default", "client": "vllm bench serve"}])
    assert "| 8 | at once | other | this client | 0 | 300 | 1.5 |" in text and text.rstrip().endswith("| – |")
    assert [levels.count(n) for n in (1, 8, 64, 512)] == [10, 64, 384, 2048]
