"""What the server's /metrics and the machine tell, and that listening to them never harms a series."""
import asyncio
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import reconcile, snapshot, telemetry, workloads
from lib.server import Server
from lib.snapshot import Histogram, parse
from lib.telemetry import watch

# Cut from what vLLM 0.32 really sends, with a second engine and a second model put beside the first.
TEXT = """\
# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79544376e+09
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
vllm:num_requests_running{engine="1",model_name="tiny"} 3.0
vllm:num_requests_running{engine="0",model_name="other"} 40.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.75
# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 1.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 20.0
vllm:request_success_total{engine="1",finished_reason="length",model_name="tiny"} 5.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="other"} 700.0
# HELP vllm:request_success_created Count of successfully processed requests.
# TYPE vllm:request_success_created gauge
vllm:request_success_created{engine="0",finished_reason="stop",model_name="tiny"} 1.795443794570509e+09
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.01",model_name="tiny"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.02",model_name="tiny"} 3.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="tiny"} 3.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="tiny"} 3.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="tiny"} 0.04
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.01",model_name="tiny"} 0.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.02",model_name="tiny"} 0.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf",model_name="tiny"} 1.0
vllm:time_to_first_token_seconds_count{engine="1",model_name="tiny"} 1.0
vllm:time_to_first_token_seconds_sum{engine="1",model_name="tiny"} 0.16
"""
TTFT = "vllm:time_to_first_token_seconds"


# -- snapshots ----------------------------------------------------------------------------------
def test_engines_are_taken_together_and_other_models_left_out():
    snapshot = parse(TEXT, "tiny")
    assert snapshot.get("vllm:num_requests_running") == 5
    assert snapshot.get("vllm:kv_cache_usage_perc") == 0.75, "a share is not summed: the fullest engine counts"
    assert snapshot.get("vllm:request_success_total") == 26
    assert snapshot.by("vllm:request_success_total", "finished_reason") == {"length": 25, "stop": 1}
    assert snapshot.histogram(TTFT) == Histogram(0.2, 4, {0.01: 1, 0.02: 3, math.inf: 4})
    assert snapshot.histogram(TTFT).mean == pytest.approx(0.05)
    assert not any(name.endswith("_created") for name, _ in snapshot.values)


def test_a_single_model_counts_under_whatever_name_and_several_only_under_theirs():
    alone = "\n".join(line for line in TEXT.splitlines() if '"other"' not in line) + "\n"
    assert parse(alone, "renamed-by-a-proxy").get("vllm:request_success_total") == 26
    assert parse(TEXT, "renamed-by-a-proxy").get("vllm:request_success_total") is None


def test_a_difference_says_what_happened_in_between():
    later = (TEXT.replace('"length",model_name="tiny"} 20.0', '"length",model_name="tiny"} 32.0')
             .replace('_sum{engine="0",model_name="tiny"} 0.04', '_sum{engine="0",model_name="tiny"} 0.07')
             .replace('le="0.02",model_name="tiny"} 3.0', 'le="0.02",model_name="tiny"} 5.0')
             .replace('le="+Inf",model_name="tiny"} 3.0', 'le="+Inf",model_name="tiny"} 5.0')
             .replace('_count{engine="0",model_name="tiny"} 3.0', '_count{engine="0",model_name="tiny"} 5.0')
             .replace('running{engine="0",model_name="tiny"} 2.0', 'running{engine="0",model_name="tiny"} 1.0'))
    happened = parse(later, "tiny") - parse(TEXT, "tiny")
    assert happened.by("vllm:request_success_total", "finished_reason") == {"length": 12, "stop": 0}
    assert happened.histogram(TTFT).mean == pytest.approx(0.015)
    assert happened.histogram(TTFT).buckets == {0.01: 0, 0.02: 2, math.inf: 2}
    assert happened.get("vllm:num_requests_running") == 4, "a gauge is what it is afterwards"
    assert not happened.restarted


@pytest.mark.parametrize("change", [
    ('"length",model_name="tiny"} 20.0', '"length",model_name="tiny"} 3.0'),  # a counter fell
    ("seconds 1.79544376e+09", "seconds 1.79549999e+09"),  # all counters rose, in another process
])
def test_a_server_restarted_in_between_is_noticed(change):
    assert (parse(TEXT.replace(*change), "tiny") - parse(TEXT, "tiny")).restarted


@given(st.lists(st.floats(0.0011, 90), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_range_of_a_quantile_holds_the_quantile_of_the_values_themselves(values, q):
    edges = [0.001, 0.01, 0.1, 0.25, 1, 5, 10, 60, math.inf]
    counted = Histogram(sum(values), len(values), {e: sum(v <= e for v in values) for e in edges})
    low, high = counted.quantile_range(q)
    assert low <= np.quantile(values, q) <= high


def test_a_histogram_without_observations_has_no_mean_and_no_quantile():
    assert math.isnan(Histogram().mean) and all(math.isnan(end) for end in Histogram().quantile_range(0.5))


@pytest.mark.parametrize("text", ["", "<html><body>404 {not metrics}</body></html>", "{\"detail\": 1}", "a{b=\"c} 1\n"])
def test_what_is_no_metrics_is_an_empty_snapshot(text):
    assert parse(text).get("vllm:num_requests_running") is None
    assert parse(text).histogram(TTFT) is None


# -- watching -----------------------------------------------------------------------------------
class StandIn:
    """Answers every GET with what `reply(path)` gives: (status, text)."""

    def __init__(self, reply):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                status, text = reply(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server = Server(f"http://127.0.0.1:{self._http.server_port}", "tiny")
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()


async def until(condition):
    async with asyncio.timeout(60):  # a failure, not a hang
        while not condition():
            await asyncio.sleep(0.005)


def samples(path):
    return path.read_text().count("\n")


IDLE = TEXT.replace('model_name="tiny"} 2.0', 'model_name="tiny"} 0.0').replace(
    'running{engine="1",model_name="tiny"} 3.0', 'running{engine="1",model_name="tiny"} 0.0')


@pytest.mark.parametrize("reply", [(404, "no such page"), (200, "<html>{a page}</html>"), (200, "go_threads 7\n"), (500, "")])
def test_a_server_without_metrics_is_watched_without_them(reply, tmp_path):
    asked = []

    async def series(server):
        async with watch(server, tmp_path / "s.jsonl", 0.01) as watched:
            await until(lambda: samples(tmp_path / "s.jsonl") > 3)
        return watched

    with StandIn(lambda path: (asked.append(path), reply)[1]) as stand_in:
        watched = asyncio.run(series(stand_in.server))
    frame = watched.frame()
    assert len(frame) > 4 and frame["time"].is_monotonic_increasing
    assert frame[list(telemetry.COLUMNS)].isna().all(axis=None)
    assert frame["cpu_pct"].iloc[1:].between(0, 100).any()
    assert watched.happened.get("vllm:prompt_tokens_total") is None
    assert len(asked) == 2, "before and after; in between it is left in peace"


def test_a_server_that_dies_leaves_the_rows_up_to_there(tmp_path):
    async def series(stand_in):
        async with watch(stand_in.server, tmp_path / "s.jsonl", 0.01) as watched:
            await until(lambda: samples(tmp_path / "s.jsonl") > 3)
            stand_in.__exit__()
            dead = samples(tmp_path / "s.jsonl")
            await until(lambda: samples(tmp_path / "s.jsonl") > dead + 3)
        return watched

    watched = asyncio.run(series(StandIn(lambda path: (200, IDLE))))
    frame = watched.frame()
    assert frame["running"].notna().sum() >= 4 and frame["running"].isna().sum() >= 3
    assert watched.before and not watched.after and not watched.happened


def test_waiting_for_a_slow_reply_leaves_the_event_loop_free(tmp_path):
    """Every reply waits until the loop lets it go: were the loop blocked meanwhile, that would never happen."""
    held, released = [], []

    def reply(path):
        held.append(threading.Event())
        released.append(held[-1].wait(4))
        return 200, IDLE

    async def let_go():
        while True:
            for event in held:
                event.set()
            await asyncio.sleep(0.005)

    async def series(server):
        letting_go = asyncio.create_task(let_go())
        async with watch(server, tmp_path / "s.jsonl", 0.01):
            await until(lambda: len(released) > 2)
        letting_go.cancel()

    with StandIn(reply) as stand_in:
        asyncio.run(series(stand_in.server))
    assert len(released) > 3 and all(released)


def test_a_snapshot_waits_for_the_last_requests_numbers(tmp_path):
    replies = [IDLE, TEXT, TEXT, IDLE]  # before; after: still two requests running, twice

    async def series(server):
        async with watch(server, tmp_path / "s.jsonl", 60) as watched:
            pass
        return watched

    with StandIn(lambda path: (200, replies.pop(0))) as stand_in:
        watched = asyncio.run(series(stand_in.server))
    assert watched.after.get("vllm:num_requests_running") == 0 and replies == []


def test_a_series_that_fails_keeps_its_exception_and_its_samples(tmp_path):
    async def series(server):
        async with watch(server, tmp_path / "s.jsonl", 60):
            raise RuntimeError("the load broke")

    with StandIn(lambda path: (200, IDLE)) as stand_in, pytest.raises(RuntimeError, match="the load broke"):
        asyncio.run(series(stand_in.server))
    assert len(telemetry.read(tmp_path / "s.jsonl")) == 2
    assert parse((tmp_path / "s.after.prom").read_text(), "tiny").get("vllm:request_success_total") == 26


def test_a_torn_last_line_is_left_out(tmp_path):
    (tmp_path / "s.jsonl").write_text(json.dumps({"time": 1.0, "gpu0.power_w": 300}) + '\n{"time": 2.0, "run')
    frame = telemetry.read(tmp_path / "s.jsonl")
    assert frame["time"].tolist() == [1.0] and frame["gpu0.power_w"].tolist() == [300]
    assert frame["running"].isna().all()


# -- the real server ----------------------------------------------------------------------------
def test_the_installed_vllm_shows_every_number_that_is_asked_for(server):
    snapshot = parse(server.get("/metrics").text, server.model)
    assert [name for name in reconcile.MEASURES if snapshot.histogram(name) is None] == []
    wanted = [*telemetry.COLUMNS.values(), *reconcile.COUNTS, "vllm:prompt_tokens_cached_total",
              "vllm:mm_cache_queries_total", "vllm:mm_cache_hits_total", "process_start_time_seconds"]
    assert [name for name in wanted if snapshot.get(name) is None] == []
    assert set(snapshot.by("vllm:request_success_total", "finished_reason")) >= {"stop", "length", "abort"}


def test_the_small_reading_during_a_series_tells_what_the_whole_text_tells(server):
    metrics = telemetry._Metrics(server)
    whole_text, whole = metrics.settled()
    few = metrics.few()
    assert {name: few.get(name) for name in telemetry.COLUMNS.values()} == {
        name: whole.get(name) for name in telemetry.COLUMNS.values()}
    assert metrics._few != "/metrics", "vLLM answers the small question"
    assert len(metrics.text(metrics._few)) < len(whole_text) / 10


def test_a_real_series_is_seen_while_it_runs(server, tmp_path):
    async def series():
        async with watch(server, tmp_path / "s.jsonl", 0.05) as watched, server.client() as client:
            sent = await asyncio.gather(*(client.chat(r) for r in workloads.explain_ai(4, 64, 0.0, 11)))
        return watched, sent

    watched, sent = asyncio.run(series())
    frame = watched.frame()
    assert all(r.error is None for r in sent)
    assert frame["time"].iloc[0] < min(r.sent for r in sent) and max(r.last for r in sent) < frame["time"].iloc[-1]
    assert frame["running"].max() == 4 and frame["running"].iloc[[0, -1]].tolist() == [0, 0]
    assert frame["generation_tokens"].is_monotonic_increasing
    assert frame["generation_tokens"].iloc[-1] - frame["generation_tokens"].iloc[0] == 4 * 64


# -- GPU ----------------------------------------------------------------------------------------
def test_what_holds_a_gpu_down_is_told_in_words():
    assert telemetry.throttle_words(0x0) == "" and telemetry.throttle_words(0x1) == "", "an idle GPU is not held down"
    assert telemetry.throttle_words(0x4 | 0x40) == "power cap; heat, by the hardware"
    assert telemetry.throttle_words(0x1000 | 0x80) == "power brake; reason 0x1000", "a newer driver's bit is not lost"


def test_the_words_follow_the_installed_nvml():
    import pynvml

    for name, bit in {"SwPowerCap": 0x4, "HwSlowdown": 0x8, "SyncBoost": 0x10, "SwThermalSlowdown": 0x20,
                      "HwThermalSlowdown": 0x40, "HwPowerBrakeSlowdown": 0x80, "DisplayClockSetting": 0x100,
                      "ApplicationsClocksSetting": 0x2, "GpuIdle": 0x1}.items():
        assert getattr(pynvml, f"nvmlClocksEventReason{name}") == bit
    assert pynvml.nvmlClocksEventReasonAll == 0x1 | sum(telemetry.THROTTLE_WORDS)


def test_a_gpu_that_refuses_a_question_still_answers_the_others():
    class NVMLError(Exception):
        pass

    def refused(*_):
        raise NVMLError("Not Supported")

    nvml = SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetCount=lambda: 2, nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=refused, nvmlDeviceGetUtilizationRates=refused, nvmlDeviceGetTemperature=lambda *_: 61,
        nvmlDeviceGetPowerUsage=lambda gpu: 350_000 + gpu, nvmlDeviceGetClockInfo=lambda gpu, clock: 1000 * clock,
        nvmlDeviceGetCurrentClocksEventReasons=lambda gpu: 0x4 if gpu else 0x1,
    )
    row = telemetry.Gpus(nvml).sample()
    assert (row["gpu0.throttle"], row["gpu1.throttle"]) == ("", "power cap")
    assert (row["gpu1.power_w"], row["gpu1.sm_mhz"], row["gpu1.memory_mhz"]) == (350.001, 1000, 2000)
    assert "gpu0.memory_gib" not in row and "gpu0.utilisation_pct" not in row
