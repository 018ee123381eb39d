"""Results of other load generators, so that old measurements can stand beside new ones. Pure: files in, runs out.

A file is known by what is in it. Where the tool kept a row for each request, the rows are taken; where it kept only means
and medians, those are, and a comparison with them has no interval.

    vllm bench serve   the JSON of --save-result; its rows with --save-detailed
    GuideLLM           benchmarks.json, version 0.3 and later; rows unless it was told to keep fewer
    AIPerf             profile_export_aiperf.json; its rows from profile_export.jsonl beside it
"""
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lib import reading
from lib.errors import UserError
from lib.shapes import Closed, Open

COUNTS = {  # how each tool's words differ from the definitions in lib.metrics
    "workbook": "TTFT from the request's last byte; TPOT between first and last token; throughput while all streams were busy",
    "vllm bench serve": "TTFT from before the request is handed to HTTP; TPOT to the last chunk of the stream; throughput "
                        "over the whole run, start and drain included",
    "GuideLLM": "TTFT from the start of the request's handling; TPOT between first and last token (its inter-token latency); "
                "throughput over the whole run",
    "AIPerf": "TTFT from the start of the request's handling; TPOT between first and last token (its inter-token latency); "
              "throughput over the whole run",
}
KNOWN = "results of vllm bench serve, GuideLLM (JSON) and AIPerf are known"


@dataclass
class Measured:
    """One series of a run, as it can be held against another.

    shape: of the load, in words. prompt_tokens, output_tokens: median per request; NaN if not told. values: metric of
    lib.metrics -> values in the order of sending, in its unit (s, tokens/s). told: metric -> {"mean", "median"} where
    no values were kept. counts: requests. verdicts: metric -> "valid", or why not; empty if nobody judged. requests:
    index, turn and prompt_tokens of each value of a metric that has one a request, where they are known.
    """

    shape: str
    prompt_tokens: float
    output_tokens: float
    values: dict[str, np.ndarray] = field(default_factory=dict)
    told: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    requests: pd.DataFrame | None = None


@dataclass
class Run:
    """What can be compared: `tool` that measured, `model`, the `settings` that a reader should see, series by name."""

    name: str
    tool: str
    model: str
    settings: dict[str, str]
    series: dict[str, Measured]
    path: Path


def read(path: Path) -> Run:
    """A result file, or the folder that holds one. Raises UserError, in one line, for what cannot be read."""
    path = Path(path)
    file = _result_in(path) if path.is_dir() else path
    try:
        found = reading.json_file(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})")
    except reading.Unreadable as error:
        raise UserError(f"{file} is not whole JSON ({error}): {KNOWN}")
    readers = {"ttfts": _vllm, "mean_ttft_ms": _vllm, "benchmarks": _guidellm, "time_to_first_token": _aiperf}
    reader = next((r for key, r in readers.items() if isinstance(found, dict) and key in found), None)
    if reader is None:
        raise UserError(f"{file} is of no kind that can be compared: {KNOWN}")
    try:
        run = reader(found, file)
    except Exception as error:  # whatever another form, or a hand, makes of it
        raise UserError(f"{file} looks like a result that is known, but is in a form that is not "
                        f"({type(error).__name__}: {' '.join(str(error).split())[:160]}): {KNOWN}")
    if not run.series:
        raise UserError(f"{file} holds no request that was answered")
    return run


def _result_in(folder: Path) -> Path:
    names = ("profile_export_aiperf.json", "benchmarks.json", "result.json")
    found = [folder / name for name in names if (folder / name).exists()] or sorted(folder.glob("*.json"))
    if len(found) != 1:
        raise UserError(f"{folder} holds {'no' if not found else 'more than one'} result file: name the file ({KNOWN})")
    return found[0]


def _values(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """rows: start, ttft_s, tpot_s, total_s -> the values in the order of sending."""
    rows = rows.sort_values("start")
    return {metric: rows[metric].to_numpy(dtype=float) for metric in ("ttft_s", "tpot_s", "total_s")}


def _summary(mean, median, factor: float = 1.0) -> dict[str, float]:
    return {"mean": math.nan if mean is None else mean * factor, "median": math.nan if median is None else median * factor}


def _load(streams, rate, arrivals: str = "poisson", burstiness: float = 1.0) -> str:
    """The shape of a load in the words of lib.shapes."""
    finite = rate not in (None, "inf") and math.isfinite(float(rate))
    if finite:
        return str(Open(float(rate), arrivals, burstiness)) + (f", at most {streams} in flight" if streams else "")
    return str(Closed(int(streams))) if streams else "all requests at once"


def _vllm(found: dict, file: Path) -> Run:
    burstiness = float(found.get("burstiness") or 1)
    load = _load(found.get("max_concurrency"), found.get("request_rate"), "poisson" if burstiness == 1 else "gamma", burstiness)
    n, failed = found["completed"], found.get("failed", 0)
    told = {f"{name}_s": _summary(found.get(f"mean_{key}_ms"), found.get(f"median_{key}_ms"), 1e-3)
            for name, key in (("ttft", "ttft"), ("tpot", "tpot"), ("total", "e2el")) if f"mean_{key}_ms" in found}
    told["throughput_tps"] = _summary(found["output_throughput"], None)
    values = {}
    if found.get("ttfts") and found.get("latencies"):
        names = ("start_times", "ttfts", "latencies", "output_lens", "errors")
        rows = pd.DataFrame({name: found[name] for name in names}).query("errors == '' and output_lens > 1")
        tpot = (rows["latencies"] - rows["ttfts"]) / (rows["output_lens"] - 1)
        values = _values(pd.DataFrame({"start": rows["start_times"], "ttft_s": rows["ttfts"], "tpot_s": tpot, "total_s": rows["latencies"]}))
    series = Measured(load, found["total_input_tokens"] / n if n else math.nan, found["total_output_tokens"] / n if n else math.nan,
                      values, told, {"sent": n + failed, "failed": failed})
    settings = {"date": found.get("date", ""), "endpoint": found.get("backend") or found.get("endpoint_type") or ""}
    return Run(f"{file.parent.name}/{file.name}", "vllm bench serve", found["model_id"], settings, {load: series} if n else {}, file)


def _guidellm(found: dict, file: Path) -> Run:
    series, model = {}, ""
    for level in found["benchmarks"]:
        config = level.get("config") or level["args"]  # 0.3 called it args
        strategy, metrics = config["strategy"], level["metrics"]
        kind = strategy.get("type_", "")
        streams = 1 if kind == "synchronous" else strategy.get("streams") or strategy.get("max_concurrency")
        rate = strategy.get("rate") if kind in ("constant", "poisson") else None
        load = _load(None if rate else streams, rate, kind if rate else "poisson")
        model = (config.get("backend") or level.get("worker", {}).get("backend", {})).get("model") or model
        told = {name: _summary(metrics[key]["successful"]["mean"], metrics[key]["successful"]["median"], factor) for name, key, factor in (
            ("ttft_s", "time_to_first_token_ms", 1e-3), ("tpot_s", "inter_token_latency_ms", 1e-3), ("total_s", "request_latency", 1))}
        told["throughput_tps"] = _summary(metrics["output_tokens_per_second"]["successful"]["mean"], None)
        totals = metrics.get("request_totals") or level["run_stats"]["requests_made"]
        n, kept = totals["successful"], (level.get("requests") or {}).get("successful") or []
        rows = pd.DataFrame([{
            "start": r.get("request_start_time", r.get("start_time")), "ttft_s": r["time_to_first_token_ms"] / 1000,
            "tpot_s": r["inter_token_latency_ms"] / 1000, "total_s": r["request_latency"]}
            for r in kept if r.get("time_to_first_token_ms") is not None and r.get("inter_token_latency_ms") is not None])
        if n:
            series[load] = Measured(
                load, metrics["prompt_token_count"]["successful"]["median"], metrics["output_token_count"]["successful"]["median"],
                _values(rows) if len(rows) else {}, told, {"sent": totals["total"], "failed": totals["errored"]})
    settings = {"version": str((found.get("metadata") or {}).get("guidellm_version") or "")}
    return Run(f"{file.parent.name}/{file.name}", "GuideLLM", model, settings, series, file)


def _aiperf(found: dict, file: Path) -> Run:
    config = found["input_config"]
    phases = [p for p in config.get("phases", []) if p.get("kind") == "profiling"]
    plan = phases[0] if phases else config["loadgen"]  # before 0.13
    models = config.get("models", {}).get("items")
    model = models[0]["name"] if models else config["endpoint"]["model_names"][0]
    load = _load(plan.get("concurrency"), plan.get("request_rate") or plan.get("rate"))
    told = {name: _summary(found[key].get("avg"), found[key].get("p50"), 1e-3) for name, key in (
        ("ttft_s", "time_to_first_token"), ("tpot_s", "inter_token_latency"), ("total_s", "request_latency"))}
    told["throughput_tps"] = _summary(found["output_token_throughput"]["avg"], None)
    rows = _aiperf_rows(file.with_name(file.name.removesuffix("_aiperf.json") + ".jsonl"))
    failed = sum(e["count"] for e in found.get("error_summary") or [])
    n = int(found["request_count"]["avg"])
    series = Measured(load, found["input_sequence_length"]["p50"], found["output_sequence_length"]["p50"],
                      _values(rows) if len(rows) else {}, told, {"sent": n + failed, "failed": failed})
    settings = {"version": str(found.get("aiperf_version", "")), "date": found.get("start_time", "")}
    return Run(f"{file.parent.name}/{file.name}", "AIPerf", model, settings, {load: series} if n else {}, file)


def _aiperf_rows(file: Path) -> pd.DataFrame:
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        row = json.loads(line)
        if row.get("error") or row["metadata"]["benchmark_phase"] != "profiling":
            continue
        value = {name: metric["value"] for name, metric in row["metrics"].items()}
        rows.append({"start": row["metadata"]["request_start_ns"] / 1e9, "ttft_s": value["time_to_first_token"] / 1e3,
                     "tpot_s": value["inter_token_latency"] / 1e3, "total_s": value["request_latency"] / 1e3})
    return pd.DataFrame(rows)
