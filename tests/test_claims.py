"""A claim gets the verdict that its evidence allows and no other; a claims file's mistakes are told in one line."""
import math
import re
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lib import claim_rules, claim_words, claims, cli, drafts, machine, report, rundir, sentences, tuning
from lib.claims import Check
from lib.errors import UserError
from lib.records import Record, Sink
from lib.rundir import RunDir
from lib.stats import Estimate

KINDS = set(claim_words.VERDICTS)
CLAIMS = 26  # that the article makes
ON_T4 = {"model": "Qwen/Qwen3-VL-2B-Instruct", "facts": {"GPU": "Tesla T4, 15 GiB (1 GiB free)", "server": "vLLM 0.32.0, started here"}}
ON_H200 = {"model": "shape:Qwen3-VL-2B-Instruct", "facts": {"GPU": "NVIDIA H200, 140 GiB (9 GiB free)"}}
EMBEDDED = {"model": "tiny-qwen3-vl", "facts": {"GPU": "none", "processor": "AMD EPYC, 2 cores usable"}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "OUTPUTS", tmp_path)
    return RunDir("some-run")


def publish(run, figure_id, value, low=math.nan, high=math.nan, unit="ms", n=100, verdict="valid", name="figure, mean", **more):
    run.publish(figure_id, name, Estimate(value, low, high, n), unit, verdict, "02_single_request", figure_id.split(".")[0], **more)


def write(tmp_path, *entries, hardware="T4", model="Qwen/Qwen3-VL-2B-Instruct"):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"source": "a page", "model": model, "hardware": hardware, "claims": [
        {"id": f"c{k}", "en": "a claim"} | entry for k, entry in enumerate(entries)]}))
    return claims.load(str(path))


def verdict(run, tmp_path, *checks, **file):
    (held,) = claim_rules.hold(write(tmp_path, {"checks": list(checks)}, **file), run)
    return held


UNDER_500 = {"figure": "single.ttft.mean", "comparator": "at most", "value": 500, "unit": "ms"}


# -- the article -------------------------------------------------------------------------------------
def test_the_article_has_all_its_claims_in_both_languages():
    found = claims.load().claims
    assert len(found) == CLAIMS and all(c.en and c.zh and (c.checks or c.evidence or c.untestable) for c in found)


def test_every_claim_has_a_verdict_with_a_reason_on_any_run(run):
    """Also on one that holds nothing at all."""
    for info in ({}, EMBEDDED, ON_T4, ON_H200):
        run.update_info(**info)
        for lang in claim_words.LANGUAGES:
            held = claim_rules.hold(claims.load(), run, lang)
            assert len(held) == CLAIMS and all(h.verdict in KINDS and h.reasons and all(h.reasons) for h in held)


def test_what_stands_written_is_settled_without_measuring(run):
    """By the model's configuration, arithmetic, the source of the vLLM that is installed, the article's own numbers."""
    run.update_info(**EMBEDDED)
    found = {h.claim.id: h.verdict for h in claim_rules.hold(claims.load(), run)}
    assert {i for i, v in found.items() if v == "fails"} == {
        "batch-latency", "eager-ttft", "max-len-kv", "max-len-32k", "chunked", "dtype-auto"}
    assert found["mem-util"] == "part" and {i for i, v in found.items() if v == "holds"} == {"fits-16gb", "eager-memory", "batch-same"}


def test_the_notebooks_find_the_articles_figures_in_it():
    single, pictures, levels = claims.article(), claims.pictures(), claims.levels()
    assert tuple(single.loc["ttft_s", ["mean", "low", "high"]]) == (380, 210, 650) and single.loc["article_tps", "mean"] == 42.6
    assert tuple(pictures.loc["ttft_s", ["low", "high"]]) == (0.8, 1.2) and pictures.loc["ocr", "hardware"] == "not said"
    assert levels.loc[8, "throughput_tps"] == 217.9 and list(levels["total_ms"]) == [2340, 2510, 2890, 3670]


def test_a_full_run_settles_at_least_ten_of_the_articles_claims(finished_run):
    folder, _ = finished_run
    held = claim_rules.hold(claims.load(), folder)
    settled = [h.claim.id for h in held if h.verdict not in claim_words.UNSETTLED]
    assert len(held) == CLAIMS and len(settled) >= 10, settled
    named = {i for h in held for c in h.claim.checks for i in (c.figure, c.over) if i and not c.first_of}
    assert named - set(folder.figures()) <= {"pictures_article.gpu_memory"}, "a figure that no notebook enters settles nothing, on no machine"
    text = report.as_text(folder.path / "report.html")
    assert "What others claim" in text and all(h.claim.en in text for h in held)


@pytest.mark.parametrize("lang", claim_words.LANGUAGES)
def test_a_draft_gives_no_reason_that_did_not_settle_the_claim(run, lang):
    """Eager's first token was measured either way; what settles it is vLLM's source, whose version number no figure of the run carries."""
    run.update_info(**ON_H200)
    rundir.write_json(run.path / "tuning.json", {"configurations": [{}, {"name": "eager", "letter": "B", "own": ["--enforce-eager"]}]})
    publish(run, "tuning.B.ttft_s.times-the-baseline", 0.75, 0.2, 2.7, "", 1, name="eager: TTFT, times the baseline")
    held = [h for h in claim_rules.hold(claims.load(), run, lang) if h.claim.id == "eager-ttft"]
    assert held[0].verdict == "fails" and len(held[0].reasons) == 2
    source = sentences.Source(lang, run.figures(), run.info(), drafts.words())
    (table,) = [block for block in drafts.claimed(source, held, "a page")[0] if block.kind == "table"]
    why = table.lines[-1].cells[-1]
    assert why.startswith(drafts.words()["computed"][lang]) and "0.75" in why


@pytest.mark.parametrize("alone, many, expected", [((3.0, 4.0), (0.2, 2.7), "fails"), ((3.0, 4.0), (0.2, 0.9), "part"), ((0.5, 0.9), (0.2, 0.9), "holds")])
def test_eager_is_asked_for_the_first_token_of_one_user_and_of_many(run, alone, many, expected):
    """Under load eager's first token can come sooner only because everything else is slower; one user alone tells the two apart."""
    run.update_info(**ON_H200)
    rundir.write_json(run.path / "tuning.json", {"configurations": [{}, {"name": "eager", "letter": "B", "own": ["--enforce-eager"]}]})
    for metric, (low, high) in (("alone_ttft_s", alone), ("ttft_s", many)):
        publish(run, f"tuning.B.{metric}.times-the-baseline", (low * high)**0.5, low, high, "", 2, name=f"eager: {tuning.METRICS[metric].name}, times the baseline")
    (held,) = [h for h in claim_rules.hold(claims.load(), run) if h.claim.id == "eager-ttft"]
    assert held.verdict == expected and "TTFT alone" in held.reasons[0]


@pytest.mark.parametrize("later, speed, expected", [
    ((1.9, 2.1), (0.86, 0.90), ("holds", "holds")), ((1.9, 2.1), (0.97, 1.02), ("holds", "undecided")),
    ((0.9, 0.95), (1.02, 1.05), ("fails", "fails"))])
def test_whether_a_picture_slows_is_settled_by_requests_in_turns(run, later, speed, expected):
    """Not by two series minutes apart: whichever way the machine changed between them, nothing follows from that."""
    run.update_info(**ON_H200)
    for series, ttft, speeds in (("single", 0.05, 320), ("pictures_article", 0.04, 340)):
        publish(run, f"{series}.ttft.mean", ttft, ttft * 0.99, ttft * 1.01, "s"), publish(run, f"{series}.article_tps.mean", speeds, speeds - 1, speeds + 1, "tokens/s")

    def settled():
        found = {h.claim.id: h.verdict for h in claim_rules.hold(claims.load(), run)}
        return found["image-later"], found["image-slower"]

    assert settled() == ("untestable", "untestable")
    for what, (low, high) in {"ttft": later, "article_tps": speed}.items():
        publish(run, f"pictures.{what}_beside_none", math.sqrt(low * high), low, high, "times", 30)
    assert settled() == expected


# -- figures -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("low, high, expected", [(300, 480, "holds"), (520, 700, "fails"), (450, 550, "undecided")])
def test_the_interval_decides_not_the_value(low, high, expected, run, tmp_path):
    run.update_info(**ON_T4)
    publish(run, "single.ttft.mean", (low + high) / 2 - 10, low, high)
    held = verdict(run, tmp_path, UNDER_500)
    assert held.verdict == expected and f"{low}" in held.reasons[0] and "n = 100" in held.reasons[0]


def test_one_figure_that_holds_and_one_that_does_not_hold_in_part(run, tmp_path):
    run.update_info(**ON_T4)
    publish(run, "single.ttft.mean", 400, 390, 410), publish(run, "single.total.mean", 3000, 2900, 3100)
    whole = {"figure": "single.total.mean", "comparator": "about", "value": 2340, "unit": "ms"}
    assert verdict(run, tmp_path, UNDER_500, whole).verdict == "part"
    assert verdict(run, tmp_path, UNDER_500, whole | {"figure": "single.none.mean"}).verdict == "undecided"


@pytest.mark.parametrize("info", [EMBEDDED, ON_H200, {"model": "Qwen/Qwen3-VL-8B-Instruct"} | {"facts": ON_T4["facts"]}])
def test_another_machine_or_model_settles_nothing(info, run, tmp_path):
    run.update_info(**info)
    publish(run, "single.ttft.mean", 20, 19, 21)
    held = verdict(run, tmp_path, UNDER_500)
    assert held.verdict == "untestable" and "it is about Qwen3-VL-2B-Instruct on T4" in held.reasons[0]
    assert verdict(run, tmp_path, UNDER_500, hardware="any", model="any").verdict == "holds"


def test_a_doubtful_or_missing_figure_settles_nothing(run, tmp_path):
    run.update_info(**ON_T4)
    missing = verdict(run, tmp_path, UNDER_500)
    assert missing.verdict == "untestable" and "no figure single.ttft.mean" in missing.reasons[0]
    publish(run, "single.ttft.mean", 20, 19, 21, verdict="client-bound: a load worker woke late")
    held = verdict(run, tmp_path, UNDER_500)
    assert held.verdict == "undecided" and "client-bound" in held.reasons[0]


def test_what_has_no_interval_settles_nothing_unless_it_is_what_was_seen(run, tmp_path):
    run.update_info(**ON_T4)
    publish(run, "single.ttft.mean", 20), publish(run, "single.ttft.max", 20)
    assert "too little for an interval" in verdict(run, tmp_path, UNDER_500).reasons[0]
    assert verdict(run, tmp_path, UNDER_500 | {"figure": "single.ttft.max"}).verdict == "holds"


def test_a_ratio_of_two_figures_has_the_interval_of_both(run, tmp_path):
    run.update_info(**ON_T4)
    for streams, value, low, high in ((1, 100, 90, 110), (8, 560, 540, 580)):
        publish(run, f"concurrency.{streams}.throughput_tps.mean", value, low, high, "tokens/s")
    gain = {"figure": "concurrency.8.throughput_tps.mean", "over": "concurrency.1.throughput_tps.mean", "comparator": "at least", "unit": "times"}
    assert verdict(run, tmp_path, gain | {"value": 5.0}).verdict == "holds"
    assert verdict(run, tmp_path, gain | {"value": 5.5}).verdict == "undecided"
    assert verdict(run, tmp_path, gain | {"value": 6.5}).verdict == "fails"


def test_units_are_converted_and_those_that_do_not_go_together_refused(run, tmp_path):
    run.update_info(**ON_T4)
    publish(run, "single.ttft.mean", 400, 390, 410)
    assert verdict(run, tmp_path, UNDER_500 | {"value": 0.5, "unit": "s"}).verdict == "holds"
    assert verdict(run, tmp_path, UNDER_500 | {"value": 0.3, "unit": "s"}).verdict == "fails"
    with pytest.raises(UserError, match="unit 'tokens/s' does not go with figure single.ttft.mean, which is in 'ms'"):
        verdict(run, tmp_path, UNDER_500 | {"unit": "tokens/s"})


# -- limits ------------------------------------------------------------------------------------------
def test_a_claim_beyond_the_physical_limit_is_refuted_without_its_hardware(run, tmp_path):
    """A T4 reads 3.4 GB of weights in 11 ms at best, so one user never gets 300 tokens/s of Qwen3-VL-2B in 16 bits there."""
    run.update_info(**EMBEDDED)
    speed = {"figure": "single.decode_tps.mean", "comparator": "about", "unit": "tokens/s"}
    for value, expected in ((300, "fails"), (60, "untestable")):
        file = write(tmp_path, {"work": {"prompt": 30, "output": 100}, "checks": [speed | {"value": value}]})
        (held,) = claim_rules.hold(file, run)
        assert held.verdict == expected and ("impossible" in held.reasons[0]) == (expected == "fails")
        assert held.found[0].limit


def test_a_measurement_on_another_gpu_is_scaled_and_marked_as_scaled(run, tmp_path):
    """By the bandwidths, 4,800 against 320 GB/s: 600 tokens/s on an H200 are 40 on a T4."""
    run.update_info(**ON_H200)
    publish(run, "single.decode_tps.mean", 600, 590, 610, "tokens/s")
    file = write(tmp_path, {"work": {"prompt": 30, "output": 100}, "checks": [
        {"figure": "single.decode_tps.mean", "comparator": "about", "value": 42.6, "unit": "tokens/s"}]})
    (held,) = claim_rules.hold(file, run)
    assert held.verdict == "untestable" and "not measured there: 40 [39.33, 40.67]" in held.found[0].scaled
    run.update_info(**EMBEDDED)
    assert claim_rules.hold(file, run)[0].found[0].scaled == "", "another model is not scaled"


# -- directions --------------------------------------------------------------------------------------
def tuned(run, own, ratio, low, high, name="a configuration"):
    rundir.write_json(run.path / "tuning.json", {"configurations": [
        {"letter": "A", "name": "baseline", "own": []}, {"letter": "B", "name": name, "own": own}]})
    publish(run, "tuning.B.ttft_s.times-the-baseline", ratio, low, high, "", 3, "no difference shown", "TTFT, to the baseline")


@pytest.mark.parametrize("own, low, high, expected", [
    (["--enforce-eager"], 0.7, 0.9, "holds"), (["--enforce-eager"], 1.1, 1.3, "fails"), (["--enforce-eager"], 0.9, 1.1, "undecided"),
    (["--enforce-eager"], 0.995, 1.005, "fails"), (["--no-enforce-eager"], 1.1, 1.3, "holds"), (["--max-num-seqs", "2"], 0.7, 0.9, "untestable"),
])
def test_a_direction_is_settled_by_the_configuration_with_that_flag(own, low, high, expected, run, tmp_path):
    """Turned round where the baseline has the flag; a ratio within 2 % of 1 is no effect."""
    tuned(run, own, (low + high) / 2, low, high)
    held = verdict(run, tmp_path, {"flags": "--enforce-eager", "metric": "ttft_s", "comparator": "falls"}, hardware="any", model="any")
    assert held.verdict == expected


@pytest.mark.parametrize("state, cause, expected", [
    ("measured", "", "holds"), ("cannot start", "not enough memory for the KV cache of one request (1.0 GiB): lower it", "fails"),
    ("cannot start", "the port is taken (9): choose another", "untestable"), ("not started", "", "untestable")])
def test_what_cannot_start_refutes_a_claim_only_for_the_reason_that_it_is_about(state, cause, expected, run, tmp_path):
    own = ["--enable-chunked-prefill", "--num-gpu-blocks-override", "8"]
    rundir.write_json(run.path / "tuning.json", {"configurations": [
        {"letter": "A", "name": "baseline", "own": []}, {"letter": "B", "name": "small", "own": own}],
        "summary": [{"name": "small", "state": state, "cause": cause}]})
    check = {"starts": "--enable-chunked-prefill --num-gpu-blocks-override", "comparator": "happens", "confirmed": "not enough memory", "means": "m"}
    assert verdict(run, tmp_path, check, hardware="any", model="any").verdict == expected


def test_what_a_server_tells_needs_no_interval(run, tmp_path):
    check = {"flags": "--max-model-len", "metric": "kv_tokens", "comparator": "falls"}
    for ratio, expected in ((1.0, "fails"), (0.5, "holds")):
        rundir.write_json(run.path / "tuning.json", {"spec": "embedded", "configurations": [
            {"letter": "A", "name": "baseline", "own": []}, {"letter": "B", "name": "b", "own": ["--max-model-len", "2048"]}]})
        publish(run, "tuning.B.kv_tokens.times-the-baseline", ratio, unit="", n=1, name="b: KV cache, times the baseline")
        assert verdict(run, tmp_path, check, hardware="any", model="any").verdict == expected
        assert verdict(run, tmp_path, check, hardware="a GPU", model="any").verdict == "untestable", "there is none here"


def test_every_reason_of_a_verdict_is_in_the_language_that_was_asked_for(run):
    """What is left in English is names: of models, of files, of flags, of units."""
    run.update_info(**EMBEDDED)
    words = re.compile(r"[a-z]{3,} [a-z]{2,} [a-z]{2,}")
    for held in claim_rules.hold(claims.load(), run, "zh"):
        row = claim_words.table([held], "zh").to_dict("records")[0]
        said = [row["claim"], row["claimed"], row["reading"], row["method"], *row["because"], *row["limit"]]
        assert not any(words.search(text) for text in said), said


def test_a_configuration_is_also_known_by_its_name(run, tmp_path):
    tuned(run, [], 1.5, 1.4, 1.6, name="AWQ")
    check = {"flags": "AWQ", "metric": "ttft_s", "comparator": "at least", "value": 1.2, "unit": "times"}
    assert verdict(run, tmp_path, check, hardware="any", model="any").verdict == "holds"


def requests(run, series, ttfts):
    with Sink(run.requests_file(series)) as sink:
        for k, ttft in enumerate(ttfts):
            sink.write(Record(series, k, sent=float(k), first=k + ttft, last=k + ttft + 0.1, done=k + 0.5, reads=[[ttft, 1], [ttft + 0.1, 1]],
                              requested_tokens=2, prompt_tokens=9, output_tokens=2, status=200))
    run.enter_series(series, {})


def answered(run, series, ttfts):
    """A series before which the server had answered requests with these TTFTs, as its own histogram tells."""
    requests(run, series, [0.05])
    run.requests_file(series).with_suffix(".telemetry.before.prom").write_text(
        "# TYPE vllm:time_to_first_token_seconds histogram\n" + "".join(f'vllm:time_to_first_token_seconds_{part}{{model_name="m"}} {value}\n' for part, value in (
            ('bucket', 0), ('sum', sum(ttfts)), ('count', len(ttfts)))).replace("_bucket{", '_bucket{le="+Inf",'))


@pytest.mark.parametrize("first, expected", [((0.041, 0.039, 0.040), "holds"), ((0.020, 0.0201, 0.0199), "fails"), ((0.01, 0.04, 0.02), "undecided")])
def test_a_warm_up_is_worth_what_the_very_first_request_of_each_start_took_longer(first, expected, run, tmp_path):
    """Than one that came after a pause, too: those that follow at once are quicker than either, and say nothing of it."""
    rundir.write_json(run.path / "tuning.json", {"spec": "embedded", "configurations": []})
    for k, ttft in enumerate(first):
        slow = 3 ** k  # starts differ by more than a warm-up brings: each is beside its own
        answered(run, f"tuning.0{k}-A.first", [ttft * slow])
        requests(run, f"tuning.0{k}-A.alone", [0.02 * slow] + [0.01 * slow] * 9)
    answered(run, "tuning.09-A.first", [9.0])  # it was cut off: there is nothing to compare it with
    answered(run, "tuning.10-A.first", [9.0, 9.0])  # which of the two was the first?
    requests(run, "tuning.10-A.alone", [0.02])
    requests(run, "tuning.11-A.first", [9.0])  # a server without metrics
    requests(run, "tuning.11-A.alone", [0.02])
    held = verdict(run, tmp_path, {"first_of": "tuning.*.first", "over": "alone", "comparator": "rises"}, hardware="any", model="any")
    assert held.verdict == expected


def test_that_something_can_happen_is_shown_by_a_case_and_never_refuted_by_none(run, tmp_path):
    check = {"figure": "consistency.batch_same", "comparator": "happens", "unit": "%"}
    for value, shown, expected in ((0.0, False, "undecided"), (3.0, True, "holds"), (3.0, False, "undecided")):
        publish(run, "consistency.batch_same", value, 0, 9, "%", shown=shown)
        assert verdict(run, tmp_path, check, hardware="any", model="any").verdict == expected


def test_documentation_counts_only_where_the_installed_vllm_says_so(run, tmp_path):
    says = {"documented": "config/model.py", "speaks": "against", "means": "m"}
    for words, expected in (("BF16 precision for BF16 models", "fails"), ("INT8 precision for BF16 models", "untestable")):
        (held,) = claim_rules.hold(write(tmp_path, {"evidence": [says | {"says": words}]}), run)
        assert held.verdict == expected


def test_a_reason_from_vllms_source_says_where_the_server_was_of_another_version(run, tmp_path):
    says = {"documented": "config/model.py", "says": "BF16 precision for BF16 models", "speaks": "against", "means": "m"}
    installed = next(v for name, v in machine.versions().items() if name.startswith("vllm"))
    for version, named in (("0.1.2", True), (installed, False)):
        run.update_info(facts={"server": f"vLLM {version}, was running already"})
        (held,) = claim_rules.hold(write(tmp_path, {"evidence": [says]}), run)
        assert ("server" in held.reasons[0]) == named and installed in held.reasons[0]


numbers = st.floats(0.01, 1000)


@given(st.sampled_from(["about", "between", "at least", "at most"]), numbers, numbers, numbers, numbers)
def test_a_narrower_interval_never_turns_a_verdict_round(comparator, value, other, one, width):
    """What the whole of an interval shows, any part of it shows, too."""
    check = Check(figure="f", comparator=comparator, value=value, low=min(value, other), high=max(value, other), unit="ms")
    wide, narrow = (claim_rules._judge(check, Estimate(one, one - part, one + part, 9)) for part in (width, width / 2))
    assert wide is None or wide == narrow


# -- bad input ---------------------------------------------------------------------------------------
WHOLE = "{source: a, model: m, hardware: h, claims: [{id: x, en: e, %s}]}"


@pytest.mark.parametrize("content, words", [
    ("{", "not readable as YAML"), ("- a", "is a list: it needs source, model"), ("", "is empty: it needs source"), ("a", "is no mapping"),
    ("source: a", "it is missing"), ("{source: a, model: m, hardware: h, claims: []}", "holds no claim"),
    (WHOLE % "figurs: []", "claim 'x', figurs: the key is unknown"), (WHOLE % "methd: m", "did you mean 'method'"),
    (WHOLE % "checks: [{figure: f, comparator: abot, value: 3, unit: ms}]", "'abot' is none of .* did you mean 'about'"),
    (WHOLE % "checks: [{figure: f, comparator: about, value: 3, unit: msec}]", "unit 'msec' is unknown; did you mean 'ms'"),
    (WHOLE % "checks: [{figure: f, comparator: about, value: three, unit: ms}]", "valid number, not 'three'"),
    (WHOLE % "checks: [{figure: f, comparator: about, unit: ms}]", "needs 'value'"),
    (WHOLE % "checks: [{comparator: about, value: 3, unit: ms}]", "needs one of figure"),
    (WHOLE % "checks: [{figure: f, own: g, comparator: about, value: 3, unit: ms}]", "has figure and own"),
    (WHOLE % "checks: [{figure: f, comparator: between, low: 3, high: 2, unit: ms}]", "low 3 is above high 2"),
    (WHOLE % "zh: z", "needs 'checks', 'evidence' or the reason"),
    (WHOLE % "untestable: u}, {id: x, en: e, untestable: u", "two claims are named 'x'"),
])
def test_what_is_wrong_with_a_claims_file_is_one_line(content, words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=words) as told:
        claims.load(str(path))
    assert "\n" not in str(told.value) and "mine.yaml" in str(told.value)


def test_a_missing_claims_file_names_those_that_are_there():
    with pytest.raises(UserError, match=r"no claims file 'vendor' \(there: article, vendor_example"):
        claims.load("vendor")


def test_ones_own_file_is_kept_with_the_run_and_shown_in_its_report(run, tmp_path, monkeypatch, capsys):
    run.update_info(**EMBEDDED)
    monkeypatch.setattr(sys, "argv", ["workbook", "claims", "some-run", "--file", "vendor_example"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().out
    assert end.value.code == 0 and "DOES NOT HOLD  3,000 tokens/s for a single user" in said
    assert "in place of the article's" in said and "`workbook claims some-run --file article` brings those back" in said
    text = report.as_text(report.build(run))
    assert "eight users get at least seven times the throughput of one" in text and "first token, single request" not in text


def test_the_articles_claims_come_back_after_a_file_of_ones_own(run, tmp_path):
    run.update_info(**EMBEDDED)
    claim_rules.of_file(run, "vendor_example")
    assert len(claim_rules.of_file(run)) < CLAIMS == len(claim_rules.of_file(run, "article")) == len(claim_rules.of_file(run))


@pytest.mark.parametrize("info", [ON_T4, EMBEDDED])
def test_a_mistyped_figure_is_named_with_the_nearest_and_one_that_was_not_measured_is_not(run, tmp_path, info):
    run.update_info(**info)
    publish(run, "single.ttft.mean", 400, 390, 410)
    publish(run, "concurrency.16.at_once.total", 400, 390, 410)
    held = verdict(run, tmp_path, UNDER_500 | {"figure": "single.tfft.mean"})
    assert held.verdict == "untestable" and "no figure single.tfft.mean; did you mean single.ttft.mean?" in held.reasons[0]
    assert "did you mean" not in verdict(run, tmp_path, UNDER_500 | {"figure": "concurrency.8.at_once.total"}).reasons[0]


def test_one_claim_is_counted_as_one(run, tmp_path):
    held = claim_rules.hold(write(tmp_path, {"untestable": "why"}), run)
    assert claim_words.counted(held) == "Of 1 claim 1 is not testable here"
    publish(run, "single.ttft.mean", 500, 450, 550)
    held += claim_rules.hold(write(tmp_path, {"checks": [UNDER_500], "hardware": "any", "model": "any"}), run)
    assert claim_words.counted(held) == "Of 2 claims 1 is undecided, 1 is not testable here"


def test_a_broken_claims_file_in_a_run_does_not_stop_its_report(run):
    (run.path / "claims.yaml").write_text("claims: 3")
    assert "claims file claims.yaml" in report.as_text(report.build(run))


def test_markup_in_a_claims_file_is_text_in_the_report(run):
    hostile = "<script>alert(1)</script>"
    entry = {"id": "x", "en": hostile, "untestable": hostile, "method": hostile, "reading": hostile, "hardware": hostile}
    (run.path / "claims.yaml").write_text(yaml.safe_dump({"source": hostile, "model": hostile, "hardware": hostile, "claims": [entry]}))
    assert "<script" not in report.build(run).read_text()
