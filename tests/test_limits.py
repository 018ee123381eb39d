"""The physical limit: parameters are counted as transformers counts them, bounds hold, and what is unknown is said."""
import json
import math
import os
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import DATA, ROOT, bench, efficiency, launch, limits, machine, metrics, plausible, preflight, roofline, rundir, served
from lib.errors import UserError
from lib.limits import Limit, Machine
from lib.series import Series
from lib.stats import Estimate

TINY = DATA / "models" / "tiny-qwen3-vl"
T4 = roofline.datasheet("T4")
SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
         "intermediate_size": 96, "vocab_size": 512, "max_position_embeddings": 128}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 80, "num_heads": 2, "patch_size": 16, "spatial_merge_size": 2,
          "temporal_patch_size": 2, "in_channels": 3, "out_hidden_size": 64, "num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1]}


@pytest.fixture(scope="module")
def two_b():
    return served.article_model()


# -- counting ----------------------------------------------------------------------------------------
def test_the_embedded_models_parameters_are_exactly_those_of_its_weights():
    with (TINY / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    stored = sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    assert limits.read(json.loads((TINY / "config.json").read_text())).parameters == stored


@pytest.mark.parametrize("name", served.published())
def test_published_models_have_the_published_number_of_parameters(name):
    assert served.model_published(name).parameters == served.published()[name]["parameters"]


FAMILIES = [
    ("llama", {"tie_word_embeddings": True}), ("llama", {"attention_bias": True, "mlp_bias": True}), ("mistral", {}), ("qwen2", {}),
    ("qwen3", {"attention_bias": True}), ("qwen3", {"tie_word_embeddings": True}), ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ("qwen3_moe", EXPERTS | {"mlp_only_layers": [0]}), ("qwen3_moe", EXPERTS | {"decoder_sparse_step": 2}),
    ("qwen3_vl", {"text_config": SMALL, "vision_config": VISION}),
    ("qwen3_vl_moe", {"text_config": SMALL | EXPERTS, "vision_config": VISION}),
]
COUNT = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
for model_type, options in json.loads(sys.argv[1]):
    config = AutoConfig.for_model(model_type, **options)
    make = AutoModelForImageTextToText if "vision_config" in options else AutoModelForCausalLM
    with torch.device("meta"):
        model = make.from_config(config)
    print(json.dumps([sum(p.numel() for p in model.parameters()), config.to_dict()], default=str))
"""


def test_parameters_are_counted_as_transformers_counts_them():
    cases = [(kind, more if "text_config" in more else SMALL | more) for kind, more in FAMILIES]
    done = subprocess.run([sys.executable, "-c", COUNT, json.dumps(cases)], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"PYTHONPATH": str(ROOT / "lib" / "server_site")})  # which mends torchvision
    assert done.returncode == 0, done.stderr[-2000:]
    for (kind, _), line in zip(FAMILIES, done.stdout.splitlines(), strict=True):
        count, config = json.loads(line)
        assert limits.read(config).parameters == count, (kind, config)


def test_an_expert_that_is_not_asked_is_stored_but_not_read():
    dense, mixed = (limits.read({"model_type": "qwen3_moe"} | SMALL | {"num_experts_per_tok": k, "num_experts": 8, "moe_intermediate_size": 48})
                    for k in (8, 2))
    assert mixed.stored == dense.stored == dense.active and mixed.active < dense.active
    assert mixed.read_bytes("fp16") < dense.read_bytes("fp16") and mixed.weight_bytes("fp16") == dense.weight_bytes("fp16")


def test_tied_embeddings_are_stored_once_and_read_as_the_head(two_b):
    text = two_b.parameters - two_b.vision.parameters
    assert two_b.read_bytes("bf16") == 2 * text, "all of a dense decoder is read, its embedding as the head"
    assert two_b.weight_bytes("fp32") == 2 * two_b.weight_bytes("fp16")


def test_quantized_weights_are_smaller_by_what_is_quantized(two_b):
    sizes = [two_b.weight_bytes(dtype) for dtype in ("fp32", "bf16", "fp8", "awq-int4")]
    assert sizes == sorted(sizes, reverse=True)
    assert two_b.weight_bytes("fp16") - two_b.weight_bytes("int8") == two_b.stored
    assert limits.dtype_named("int8_per_channel_weight_only") == "int8" and limits.dtype_named("torch.bfloat16") == "bf16"


# -- bounds ------------------------------------------------------------------------------------------
@given(streams=st.integers(1, 512), context=st.integers(1, 30_000), more=st.integers(1, 1000))
def test_more_users_and_longer_contexts_never_shorten_a_step_nor_lower_the_throughput(streams, context, more):
    limit = Limit(served.article_model(), "fp16", T4)
    step = limit.decode(streams, context)
    assert step.seconds == max(step.memory_s, step.compute_s)
    assert limit.decode(streams + more, context).seconds >= step.seconds
    assert limit.decode(streams, context + more).seconds >= step.seconds
    assert limit.tokens_per_s(streams + more, context) >= limit.tokens_per_s(streams, context) * (1 - 1e-9)


@given(tokens=st.integers(2, 20_000), share=st.floats(0, 0.99))
def test_a_prompt_computed_in_two_parts_is_as_much_work_as_in_one(tokens, share):
    model, cached = served.article_model(), int(tokens * share)
    whole = model.prefill_flops(tokens)
    parts = (model.prefill_flops(cached) if cached else 2 * model.embedding) + model.prefill_flops(tokens, cached)
    assert parts == pytest.approx(whole + 2 * model.embedding)


def test_decoding_token_by_token_computes_what_the_prompt_would(two_b):
    # Each decoded token needs the head, of a prompt only the last one does.
    by_token = sum(two_b.flops(context) for context in range(1, 101))
    assert by_token == pytest.approx(two_b.prefill_flops(100) + 99 * 2 * two_b.embedding)


def test_a_picture_costs_its_patches_and_its_tokens(two_b):
    vision, (width, height) = two_b.vision, (1024, 768)
    patches = width * height // 16**2
    assert vision.tokens(width, height) == patches // 4
    assert vision.flops(width, height) > 2 * patches * vision.a_patch
    limit = Limit(two_b, "fp16", T4)
    assert limit.prefill(800, pictures=((width, height),)).seconds > limit.prefill(800).seconds
    assert vision.flops(2048, 1536) > 4 * vision.flops(1024, 768), "every patch looks at every other"


def test_a_sliding_window_bounds_what_is_read():
    windowed = limits.read({"model_type": "mistral", "sliding_window": 32} | SMALL)
    assert Limit(windowed, "fp16", T4).decode(1, 1000).bytes == Limit(windowed, "fp16", T4).decode(1, 32).bytes
    assert limits.read({"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": False} | SMALL).window is None


def test_a_working_set_in_a_cache_is_bounded_by_the_caches_bandwidth():
    cached = Machine("m", ((1e6, 90e9), (4e6, 100e9), (16e6, 60e9), (64e6, 20e9)), {"fp32": 1e11}, True)
    assert cached.bandwidth(1.5e6) == 100e9, "a slower smaller set does not lower the bound"
    assert [cached.bandwidth(size) for size in (5e6, 16e6, 63e6, 1e12)] == [100e9, 60e9, 60e9, 20e9]


def test_gpus_share_and_copies_multiply(two_b):
    one, pair, copies = (Limit(two_b, "fp16", T4, shards=s, replicas=r) for s, r in ((1, 1), (2, 1), (1, 2)))
    assert pair.decode(4, 100).seconds == pytest.approx(one.decode(4, 100).seconds / 2)
    assert copies.tokens_per_s(8, 100) == pytest.approx(2 * one.tokens_per_s(4, 100))
    assert copies.kv_room() == 2 * one.kv_room() and pair.kv_room() > 2 * one.kv_room()


@pytest.mark.parametrize("config, words", [
    ({}, "'nameless' model"), ({"model_type": "mamba2"}, "'mamba2' model"), ({"model_type": "llama"}, "no usable 'hidden_size'"),
    ({"model_type": "llama"} | SMALL | {"num_hidden_layers": "3"}, "num_hidden_layers"),
    ({"model_type": "llama"} | SMALL | {"vocab_size": -1}, "vocab_size"),
    ({"model_type": "qwen3_moe"} | SMALL | {"num_experts": 4}, "num_experts_per_tok"),
    ({"model_type": "qwen3_vl", "text_config": SMALL, "vision_config": {}}, "vision tower"),
])
def test_a_config_that_cannot_be_counted_is_told_in_one_line(config, words):
    with pytest.raises(UserError, match="^limit unknown, because .*" + words) as refusal:
        limits.read(config)
    assert "\n" not in str(refusal.value)


# -- machines ----------------------------------------------------------------------------------------
def test_every_datasheet_is_whole_and_names_its_source():
    for name, sheet in roofline.datasheets().items():
        card = roofline.datasheet(name)
        assert sheet["source"] and sheet["tdp"] > 0 and card.memory > card.bandwidth(0) / 1e3
        assert {"fp32", "fp16"} <= set(sheet["tflops"]) <= set(limits.BYTES)
        assert card.peak("fp16") > card.peak("fp32")
        assert all(roofline.datasheet_of(theirs) == card for theirs in sheet["matches"])
    assert roofline.datasheet("rtx 3060") == roofline.datasheet("RTX-3060")
    assert roofline.datasheet_of("NVIDIA GeForce RTX 3060 Ti") is None


@pytest.mark.parametrize("gpu", ["T5", "H-1000", "a gpu"])
def test_an_unknown_gpu_is_refused_before_anything_starts_naming_the_known(gpu):
    with pytest.raises(UserError, match="T4, A10, L4, V100.*RTX-4090") as refusal:
        preflight.check(gpu=gpu)
    assert "\n" not in str(refusal.value)


def test_16_bits_are_computed_where_a_gpu_lacks_the_dtype():
    assert T4.peak("bf16") == T4.peak("fp16") and T4.peak("awq-int4") == T4.peak("fp16") < T4.peak("int8")


def test_this_machine_is_measured_and_a_failure_is_one_line(monkeypatch):
    found = roofline.measure("fp32", 1)
    here = roofline.measured(found)
    assert here.measured and all(row["per_s"] >= row["median_per_s"] > 0 for row in found["reads"] + found["multiplies"])
    assert here.bandwidth(1e6) >= here.bandwidth(1e12) > 1e8 and here.peak("fp32") > 1e8
    assert len(efficiency.machine_table(found)) == len(found["reads"]) + len(found["multiplies"])
    monkeypatch.setattr(roofline.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="not measurable here"):
        roofline.measure("fp32", 1)


# -- how a server serves -----------------------------------------------------------------------------
@pytest.mark.parametrize("flags, config, found", [
    ([], {}, ("bf16", "", 1, 1)), ([], {"torch_dtype": "float32"}, ("bf16", "", 1, 1)), (["--dtype", "float32"], {}, ("fp32", "", 1, 1)),
    (["--dtype=half", "--dtype", "auto"], {"dtype": "float16"}, ("fp16", "", 1, 1)),
    (["--quantization", "fp8", "--kv-cache-dtype=fp8"], {}, ("fp8", "fp8", 1, 1)), (["-q", "awq"], {}, ("awq-int4", "", 1, 1)),
    (["-tp", "2", "--data-parallel-size", "4"], {}, ("bf16", "", 2, 4)),
    ([], {"quantization_config": {"quant_method": "compressed-tensors",
                                  "config_groups": {"0": {"weights": {"num_bits": 8, "type": "int"}}}}}, ("int8", "", 1, 1)),
])
def test_flags_and_config_say_how_large_a_weight_is(flags, config, found):
    assert served.serving(flags, config)[:4] == found


@pytest.mark.parametrize("flags, words", [(["--speculative-config", "{}"], "several tokens"), (["--speculative_config.method=ngram"], "several tokens"),
                                           (["-q", "mxfp4"], "'mxfp4' is not known")])
def test_what_breaks_the_bound_is_said(flags, words):
    with pytest.raises(UserError, match=f"limit unknown, because .*{words}"):
        served.serving(flags, {})


class Desk:
    """A lib.bench.Bench as far as limits look at it: no server need run for them."""

    def __init__(self, run, url, model="tiny-qwen3-vl", flags=()):
        self.run, self.notebook = run, "02_single_request"
        self.server = served.Server(url, model, flags=list(flags))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "OUTPUTS", tmp_path)
    monkeypatch.setattr(served, "models", lambda url, key: [{"id": "tiny-qwen3-vl"}, {"id": "org/other", "root": "org/other"}])
    return rundir.RunDir("r")


def test_a_server_elsewhere_has_no_limit_unless_its_gpu_is_named_and_the_run_keeps_the_name(run):
    desk = Desk(run, "http://far.example:8000")
    unknown = served.yardstick(desk)
    assert unknown.limit is None and "another machine" in unknown.why and "gpu" in unknown.why and "\n" not in unknown.why
    named = served.yardstick(desk, "l4")
    assert named.limit.machine.name == "NVIDIA L4" and served.yardstick(desk).limit == named.limit
    assert served.yardstick(Desk(run, "http://other.example")).limit is None, "a name belongs to one server"


def test_the_machine_is_measured_once_a_run_with_the_servers_dtype_and_threads(run, monkeypatch):
    asked = []

    def measure(dtype, threads):
        asked.append((dtype, threads))
        row = [{"size": 1e6, "per_s": 1e11, "median_per_s": 1e11, "repeats": 3}]
        return {"device": "some processor", "threads": threads, "dtype": dtype, "reads": row, "multiplies": row}

    monkeypatch.setattr(roofline, "measure", measure)
    started = Desk(run, "http://127.0.0.1:1", flags=["--dtype", "float32"])
    started.server.started_in_s = 12.0
    yards = [served.yardstick(started), served.yardstick(started)]
    assert asked == [("fp32", launch.cpu_threads())] and yards[0] == yards[1] and yards[0].limit.dtype == "fp32"
    served.yardstick(started, anew=True)
    served.yardstick(Desk(run, "http://localhost:1"))  # not started here: its flags and threads are not known
    assert asked[1:] == [asked[0], ("bf16", machine.usable_cores())]


def test_overridden_config_counts_and_a_quantized_server_is_held_against_the_same_machine(run, monkeypatch):
    asked = []
    row = [{"size": 1e6, "per_s": 1e11, "median_per_s": 1e11, "repeats": 3}]
    monkeypatch.setattr(roofline, "measure", lambda dtype, threads: asked.append(dtype) or {
        "device": "some processor", "threads": threads, "dtype": dtype, "reads": row, "multiplies": row})
    plain = served.yardstick(Desk(run, "http://127.0.0.1:1")).limit
    awq = served.yardstick(Desk(run, "http://127.0.0.1:1", flags=[
        "--hf-overrides", '{"quantization_config": {"quant_method": "awq", "bits": 4}, "text_config": {"num_hidden_layers": 1}}'])).limit
    assert awq.dtype == "awq-int4" and awq.model.layers == 1 < plain.model.layers and awq.model.heads == plain.model.heads
    assert asked == ["bf16"], "of two configurations in turn the machine is measured once"


@pytest.mark.parametrize("flags, found", [
    ([], {}), (["--hf-overrides", '{"a": {"b": 1}, "c": "d"}'], {"a": {"b": 1}, "c": "d"}), (["--hf_overrides={\"a\": 1}"], {"a": 1}),
    (["--hf-overrides.a.b", "1", "--hf-overrides.a.c=word", "--dtype", "half"], {"a": {"b": 1, "c": "word"}}), (["--hf-overrides", "{"], {}),
])
def test_overrides_are_read_whole_and_in_parts(flags, found):
    assert served.overrides(flags) == found


def test_a_model_whose_config_is_not_here_has_no_limit_and_the_notebook_goes_on(run):
    yard = served.yardstick(Desk(run, "http://127.0.0.1:1", "org/other"))
    assert yard.limit is None and yard.why.startswith("limit unknown, because the config.json of other")
    series = a_series()
    shares = efficiency.decoding(yard, series) + efficiency.first_token(yard, series) + efficiency.throughput(yard, series, "t")
    assert shares == [] and yard.why in efficiency.words(yard, shares)
    assert efficiency.table(yard, shares)["limit"].iloc[0] == efficiency.expected(yard, [1], 10)["limit"].iloc[0] == yard.why
    assert efficiency.of_machine(yard).startswith("Limit unknown")


# -- measured beside it ------------------------------------------------------------------------------
def a_series(tpot_s=0.02, ttft_s=0.1, prompt=20, n=50, requests=30):
    """One stream, each request's instants known."""
    rows, at = [], 0.0
    for index in range(requests):
        first, last = at + ttft_s, at + ttft_s + (n - 1) * tpot_s
        reads = np.array([[first - at + i * tpot_s, 1] for i in range(n)])
        rows.append({"phase": "measure", "sent": at, "scheduled": None, "first": first, "last": last, "done": last, "error": None, "index": index,
                     "prompt_tokens": prompt, "output_tokens": n, "reads": reads})
        at = last
    import pandas as pd
    frame = metrics.per_request(pd.DataFrame(rows))
    window = (0.0, at)
    return Series("s", metrics.mark_steady(frame, window), "1 at once", window, streams=1)


def test_shares_are_the_bound_over_the_time(two_b, run):
    yard = served.Yardstick(Limit(two_b, "fp16", T4))
    step, prefill = yard.limit.decode(1, 20 + 25).seconds, yard.limit.prefill(20).seconds
    series = a_series(tpot_s=2 * step, ttft_s=4 * prefill)
    (speed,), (first,), (through,) = (efficiency.decoding(yard, series), efficiency.first_token(yard, series),
                                      efficiency.throughput(yard, series, "throughput"))
    assert speed.percent.value == pytest.approx(50) and first.percent.value == pytest.approx(25)
    assert speed.utilization(speed.bound.memory_s) == pytest.approx(50), "MBU"
    assert speed.utilization(speed.bound.compute_s) == pytest.approx(100 * speed.bound.compute_s / (2 * step)), "MFU"
    assert through.percent.value < 50.1 and efficiency.verdict(speed) == "possible"
    desk = Desk(run, "http://127.0.0.1:1")
    efficiency.publish(desk, series, [speed, first])
    kept = run.figures()["limit.decode_speed_of_one_user.share"]
    assert kept["value"] == pytest.approx(50) and kept["table"] == efficiency.TABLE and kept["interval"][0] <= kept["value"]


def test_what_is_faster_than_the_machine_is_called_impossible_and_not_valid(two_b, run):
    yard = served.Yardstick(Limit(two_b, "fp16", T4))
    series = a_series(tpot_s=yard.limit.decode(1, 45).seconds / 2)
    shares = efficiency.decoding(yard, series)
    efficiency.publish(Desk(run, "http://127.0.0.1:1"), series, shares)
    assert shares[0].percent.value == pytest.approx(200)
    assert run.figures()["limit.decode_speed_of_one_user.share"]["verdict"].startswith("impossible")
    assert "impossible" in efficiency.words(yard, shares)


@pytest.mark.parametrize("slower, words", [(1.2, "Settings can bring little more"), (3, "neither reading nor computing at full speed"),
                                           (50, "Faster memory would not help")])
def test_the_words_follow_the_share(two_b, slower, words):
    yard = served.Yardstick(Limit(two_b, "fp16", T4))
    series = a_series(tpot_s=slower * yard.limit.decode(1, 45).seconds)
    assert words in efficiency.words(yard, efficiency.decoding(yard, series))


def test_a_shares_interval_turns_round_with_a_time():
    share = efficiency.Share("x", Estimate(100, 80, 125, 9), "ms", 50, limits.Bound(1, 1, 0.05, 0.01, 0.05), "ttft_s")
    assert (share.percent.value, share.percent.low, share.percent.high) == (50, 40, 62.5)


# -- the article -------------------------------------------------------------------------------------
def test_the_articles_figures_are_held_against_the_cards_they_name(two_b):
    found = plausible.figures()
    alone = 320e9 / two_b.read_bytes("fp16")
    assert 0.97 * alone < found[1].limit < alone, "keys and values take their share"
    assert found[1].percent == pytest.approx(100 * found[1].value / found[1].limit) and all(f.percent < 100 for f in found.values())
    assert found["quoted"].limit < found[1].limit * 2
    said = plausible.words() + plausible.memory()
    assert f"{found[1].percent:.0f} %" in said and "float16" in said and "without any offload" in said


def test_a_claim_above_its_limit_is_called_impossible(monkeypatch):
    real = plausible.queueing.article()
    monkeypatch.setattr(plausible.queueing, "article", lambda: real.assign(throughput_tps=real["throughput_tps"] * 10))
    assert "impossible: 1 at once" in plausible.words() and plausible.table()["possible?"].str.startswith("NO").sum() == len(real)


# -- a real server -----------------------------------------------------------------------------------
def test_the_embedded_server_stays_below_its_limit_on_this_machine(finished_run):
    folder, _ = finished_run
    shares = {name: figure for name, figure in folder.figures().items() if name.startswith("limit.") and name.endswith(".share")}
    assert {figure["notebook"] for figure in shares.values()} >= {"02_single_request", "03_multi_turn", "04_concurrency", "05_multimodal"}
    assert all(0 < figure["value"] < 100 for figure in shares.values()), shares
    for name in ("02_single_request", "04_concurrency"):
        assert "% of what is possible" in str(nbformat.read(folder.path / "notebooks" / f"{name}.ipynb", 4))


def test_of_a_real_server_that_was_only_connected_to_the_dtype_is_supposed_and_said(as_user, run_name):
    yard = served.yardstick(bench.begin("02_single_request", as_user.url, run_name))
    assert yard.limit.dtype == "bf16" and any("flags are not known" in note for note in yard.notes)
    assert os.path.exists(rundir.RunDir(run_name).path / "roofline.json") and "tiny-qwen3-vl has 4,479,872 weights" in efficiency.of_machine(yard)
