"""Client against server: what is called agreement, what a contradiction, and what cannot be compared."""
import asyncio
import math
import uuid

import pandas as pd
import pytest

from lib import reconcile, records, telemetry, workloads
from lib.reconcile import DECODE, E2E, ITL, PREFILL, QUEUE, TPOT, TTFT
from lib.snapshot import Histogram, Snapshot

EDGES = (0.02, 0.04, 0.1, 0.5, 1.0, math.inf)


def histogram(values):
    return Histogram(sum(values), len(values), {e: sum(v <= e for v in values) for e in EDGES})


def series(ttft=(0.050, 0.070), decode=(0.190, 0.190), tokens=(20, 20), prompt=(30, 31)):
    """Records of answered requests; the first is the warm-up."""
    rows = [records.Record("s", i, "measure" if i else "warmup", sent=10.0 + i, first=10.0 + i + t, last=10.0 + i + t + d,
                           done=10.1 + i + t + d, prompt_tokens=p, output_tokens=n, finish="length")
            for i, (t, d, n, p) in enumerate(zip(ttft, decode, tokens, prompt))]
    return records.to_frame(rows)


def server_says(ttft=(0.0495, 0.0695), decode=(0.190, 0.190), tokens=(20, 20), prompt=61, answered=2, restarted=False):
    """What vLLM would have counted and timed for such a series."""
    seconds = {
        TTFT: ttft, DECODE: decode, E2E: [t + d for t, d in zip(ttft, decode)], QUEUE: [0.001] * len(ttft),
        PREFILL: [0.030] * len(ttft), TPOT: [d / (n - 1) if n > 1 else 0.0 for d, n in zip(decode, tokens)],
        ITL: [d / (n - 1) for d, n in zip(decode, tokens) for _ in range(n - 1)],
    }
    values = {(reconcile.PROMPT, ()): prompt, (reconcile.GENERATED, ()): sum(tokens),
              (reconcile.ANSWERED, (("finished_reason", "length"),)): answered}
    return Snapshot(values, {(name, ()): histogram(list(v)) for name, v in seconds.items()}, restarted=restarted)


def table(frame, happened):
    return reconcile.reconcile(frame, happened).set_index("quantity")


def test_both_sides_of_an_honest_series_agree_in_every_row():
    found = table(series(), server_says())
    parts = found.index.str.contains("of it")
    assert found.loc[~parts, "judgement"].str.startswith("agree").all(), found["judgement"]
    assert found.at["TTFT, mean", "client"] == pytest.approx(60) and found.at["TTFT, mean", "server"] == pytest.approx(59.5)
    assert found.at["TTFT, mean", "difference"] == pytest.approx(0.5)
    assert found.at["TPOT, mean", "server"] == pytest.approx(10)
    assert found.at["TTFT, median", "server_range"] == "40 to 100"
    assert found["measures"].str.len().gt(0).all()


def test_the_parts_of_the_servers_ttft_add_up_to_it():
    found = table(series(), server_says())["server"]
    assert found["TTFT, of it queue"] == pytest.approx(1) and found["TTFT, of it prefill"] == pytest.approx(30)
    assert found[["TTFT, of it queue", "TTFT, of it prefill", "TTFT, of it rendering"]].sum() == pytest.approx(found["TTFT, mean"])


def test_what_the_client_sees_more_is_said_with_its_size():
    judged = table(series(ttft=(0.1505, 0.1705)), server_says())["judgement"]
    assert judged["TTFT, mean"].startswith("client sees more: 101 ms outside the server's clock")
    assert judged["TTFT, median"].startswith("client sees more"), "beyond the server's bucket"
    assert judged["TPOT, mean"] == "agree"


@pytest.mark.parametrize("decode, late", [((0.190, 0.190), False), ((0.193, 0.193), False), ((0.195, 0.195), True), ((0.300, 0.300), True),
                                          ((0.150, 0.150), False)])
def test_tokens_that_came_more_than_two_percent_later_than_they_were_made_are_told_by_how_much(decode, late):
    pct = reconcile.delivered_late_pct(reconcile.reconcile(series(decode=decode), server_says()))
    assert (pct == pytest.approx(100 * (decode[0] / 0.190 - 1))) if late else math.isnan(pct)


def test_without_the_servers_word_nothing_is_called_late():
    failed = records.to_frame([records.Record("s", 0, "measure", sent=1.0, error="reset", done=2.0)])
    tables = (pd.DataFrame(), reconcile.reconcile(failed, server_says()), reconcile.reconcile(series(decode=(0.3, 0.3)), Snapshot()))
    assert all(math.isnan(reconcile.delivered_late_pct(t)) for t in tables)


def test_a_server_that_says_more_than_the_client_waited_is_impossible():
    judged = table(series(ttft=(0.010, 0.012)), server_says())["judgement"]
    for quantity in ("TTFT, mean", "TTFT, median", "whole answer, mean"):
        assert judged[quantity] == "impossible: server says more than the client waited", quantity


def test_a_first_token_late_on_its_way_explains_a_shorter_decode_but_no_more_than_that():
    late = table(series(ttft=(0.090, 0.110), decode=(0.150, 0.150)), server_says())["judgement"]
    for quantity in ("decode, mean", "TPOT, mean", "ITL, mean"):
        assert late[quantity].startswith("client sees less: its first tokens were longer on their way"), quantity
    wrong = table(series(decode=(0.150, 0.150)), server_says())["judgement"]
    for quantity in ("decode, mean", "TPOT, mean", "ITL, mean"):
        assert wrong[quantity].startswith("impossible"), quantity


def test_token_totals_must_be_exactly_equal_warm_up_included():
    assert table(series(), server_says())["judgement"]["prompt tokens"] == "agree"
    found = table(series(), server_says(prompt=60, tokens=(20, 22)))
    assert found["judgement"]["prompt tokens"] == "token totals differ by +1"
    assert found["judgement"]["generated tokens"] == "token totals differ by -2"


def test_a_request_of_one_token_has_no_tpot_and_does_not_dilute_the_mean():
    found = table(series(decode=(0.190, 0.0), tokens=(20, 1)), server_says(decode=(0.190, 0.0), tokens=(20, 1)))
    assert found.at["TPOT, mean", "client"] == pytest.approx(10) and found.at["TPOT, mean", "server"] == pytest.approx(10)
    assert found.at["TPOT, median", "judgement"].startswith("agree")


def test_steps_of_several_tokens_make_the_servers_gaps_another_thing():
    happened = server_says()
    happened.histograms[(ITL, ())] = histogram([0.038] * 10)
    found = table(series(), happened)
    assert found.at["ITL, mean", "judgement"].startswith("not comparable: 10 gaps at the server, 38 tokens")
    assert found.at["TPOT, mean", "judgement"] == "agree"


def failed_series():
    frame = series()
    frame.loc[1, "error"] = "timeout"
    return frame


@pytest.mark.parametrize("frame, happened, why", [
    (failed_series(), server_says(), "1 of 2 requests failed (1 timeout)"),
    (series(), server_says(answered=5), "the server ended 5 requests, the client 2"),
    (series(), server_says(restarted=True), "the server was restarted"),
    (series(), Snapshot(), "the server shows no such metrics"),
    (records.to_frame([]), Snapshot(), "the server shows no such metrics"),
])
def test_what_cannot_be_compared_is_not_judged(frame, happened, why):
    found = table(frame, happened)
    assert len(found) > 10
    assert found["judgement"].str.startswith(f"not comparable: {why}").all(), found["judgement"]


# -- evidence -----------------------------------------------------------------------------------
def test_evidence_tells_cache_preemptions_peaks_and_what_held_the_gpus_down():
    values = {(f"vllm:{name}_total", ()): n for name, n in {
        "prompt_tokens": 200, "prompt_tokens_cached": 50, "generation_tokens": 90, "num_preemptions": 3,
        "mm_cache_queries": 8, "mm_cache_hits": 6}.items()}
    values |= {(reconcile.ANSWERED, (("finished_reason", reason),)): n for reason, n in {"length": 4, "abort": 0}.items()}
    samples = pd.DataFrame({
        "running": [0, 4, math.nan], "waiting": [0, 1, math.nan], "kv_usage": [0, 0.5, math.nan],
        "gpu0.power_w": [100, 300, 200], "gpu1.power_w": [100, 500, 200], "gpu0.throttle": ["", "power cap; sync boost", None],
        "gpu1.throttle": ["", "power cap", ""], "gpu0.memory_gib": [10, 11, 11], "gpu1.memory_gib": [10, 12, 11],
        "gpu0.temperature_c": [40, 60, 61], "gpu1.temperature_c": [40, 70, 60]})
    found = reconcile.evidence(Snapshot(values), samples)
    assert (found.prompt_tokens, found.cached_tokens, found.cached_share) == (200, 50, 0.25)
    assert (found.pictures, found.cached_pictures, found.preemptions, found.requests) == (8, 6, 3, {"length": 4})
    assert (found.running_max, found.waiting_max, found.kv_usage_max, found.samples) == (4, 1, 0.5, 3)
    assert found.throttle_reasons == {"power cap": 1 / 3, "sync boost": 1 / 3}
    assert found.power_w_mean == pytest.approx(1400 / 3) and found.gpu_memory_gib_max == 23
    assert found.temperature_c_max == 70


def test_evidence_from_a_silent_server_is_none_not_zero(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"time": 1.0}\n')
    found = reconcile.evidence(Snapshot(), telemetry.read(tmp_path / "s.jsonl"))
    assert found == reconcile.ServerEvidence(samples=1)


# -- the real server ----------------------------------------------------------------------------
def drive(server, path, requests, streams):
    """The requests at that many streams, the first two as warm-up -> their records, what watched them."""
    waiting, done = list(enumerate(requests)), []

    async def run():
        async with telemetry.watch(server, path, 0.2) as watched, server.client() as client:
            async def worker():
                while waiting:
                    index, request = waiting.pop(0)
                    done.append(await client.chat(request, "s", index, "warmup" if index < 2 else "measure"))

            await asyncio.gather(*(worker() for _ in range(streams)))
        return watched

    watched = asyncio.run(run())
    return records.to_frame(done), watched


@pytest.mark.parametrize("streams", [1, 8])
def test_the_real_server_and_this_client_count_the_same_tokens_and_contradict_each_other_nowhere(server, tmp_path, streams):
    requests = workloads.explain_ai(3 * streams + 3, 32, 0.0, seed=streams)
    frame, watched = drive(server, tmp_path / "s.jsonl", requests, streams)
    found = table(frame, watched.happened)
    print(found.drop(columns="measures").to_string())  # seen when it fails
    totals = found.loc[["prompt tokens", "generated tokens", "requests answered"]]
    assert (totals["judgement"] == "agree").all() and totals.at["generated tokens", "server"] == 32 * len(requests)
    assert not found["judgement"].str.contains("impossible|not comparable").any(), found["judgement"]
    assert found.loc[["TTFT, mean", "TPOT, mean", "ITL, mean", "whole answer, mean"], "server"].gt(0).all()


def test_a_prompt_sent_again_is_seen_to_come_from_the_real_servers_cache(server, tmp_path):
    requests = workloads.explain_ai(1, 4, 0.0, seed=0)
    # Of two blocks and more (a block is 128 tokens on a CPU), and never sent before.
    requests[0].messages = [{"role": "user", "content": f"{uuid.uuid4()} " + "one blue star and a red circle. " * 60}]
    for share in (0.0, 0.5):
        frame, watched = drive(server, tmp_path / "s.jsonl", requests, 1)
        found = reconcile.evidence(watched.happened, watched.frame())
        assert found.prompt_tokens == frame.at[0, "prompt_tokens"] > 256
        assert found.cached_share == 0 if share == 0 else found.cached_share >= share
    assert found.requests == {"length": 1} and found.preemptions == 0
