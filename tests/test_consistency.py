"""Same answers are called the same, parted ones where they part, and a fault that mixes up pictures is found: with real vLLM."""
import asyncio
import json
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import httpx2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import asking, claim_rules, claims, consistency, machine, plots_consistency, preflight, rundir, same_law, time_limit
from lib.errors import UserError
from lib.fault_proxy import Fault, between
from lib.rundir import RunDir, read_json
from lib.server import get


def answer(tokens, right=True, gap=1.0, moved=0.0, text=None, error=None):
    """A row of lib.asking: every token was preferred to its runner-up, token + 1, by `gap`; its logprob is −0.1 and `moved`."""
    return {"kind": "number", "prompt": "?", "text": " ".join(map(str, tokens)) if text is None else text, "tokens": list(tokens),
            "logprobs": [-0.1 + moved] * len(tokens), "runners_up": [[t + 1, -0.1 - gap] for t in tokens], "right": right, "error": error,
            "message": error, "sent": 0.0, "done": 1.0}


def rows(*answers):
    return pd.DataFrame(answers)


@pytest.fixture
def run_of_07(tmp_path, monkeypatch):
    """A lib.bench.Bench as far as figures are entered in it."""
    monkeypatch.setattr(rundir, "OUTPUTS", tmp_path)
    return SimpleNamespace(run=RunDir("r"), notebook="07_consistency")


# -- pairs of answers --------------------------------------------------------------------------------
def test_an_answer_parts_at_its_first_other_token_and_the_gap_is_that_of_the_first_run():
    pairs = consistency.compare(rows(answer([5, 6, 7], gap=0.25)), rows(answer([5, 7, 7], moved=0.01, right=False)))
    pair = pairs.iloc[0]
    assert not pair["identical"] and pair["split"] == 2 and pair["gap"] == pytest.approx(0.25) and pair["gap_known"]
    assert pair["noise"] == pytest.approx(0.01) and pair["meaning"] == "changed"


def test_a_token_that_was_not_even_the_runner_up_gives_a_lower_bound_of_the_gap():
    pair = consistency.compare(rows(answer([5, 6], gap=2.0)), rows(answer([5, 99]))).iloc[0]
    assert pair["gap"] == pytest.approx(2.0) and not pair["gap_known"]


def test_an_answer_that_ends_earlier_parts_where_it_ends():
    for one, two in (([5, 6], [5, 6, 7]), ([5, 6, 7], [5, 6])):
        pair = consistency.compare(rows(answer(one)), rows(answer(two))).iloc[0]
        assert not pair["identical"] and pair["split"] == 3 and pair["tokens"] == 2


def test_failed_answers_are_counted_and_part_of_no_share():
    pairs = consistency.compare(rows(answer([1]), answer([2])), rows(answer([1]), answer([], error="http")))
    assert len(pairs) == 1 and pairs.attrs["failed"] == 1 and pairs.attrs["why"] == "http"
    nothing = consistency.compare(rows(answer([1])), rows(answer([], error="http")))
    assert math.isnan(consistency.same(nothing).value) and consistency.table({"none": nothing}, {}).iloc[0]["answers"] == 0


@pytest.mark.parametrize("one, two, meaning", [
    (answer([1]), answer([2]), "same"), (answer([1]), answer([2], right=False), "changed"), (answer([1], right=False), answer([2]), "changed"),
    (answer([1], right=False, text="Five."), answer([2], right=False, text="five."), "same"),
    (answer([1], right=False, text="five"), answer([2], right=False, text="six"), "changed"), (answer([1], right=None), answer([2], right=None), None)])
def test_meaning_is_right_or_wrong_and_two_wrong_answers_must_say_the_same(one, two, meaning):
    assert consistency.compare(rows(one), rows(two))["meaning"].tolist() == [meaning]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_the_split_is_the_length_of_the_common_beginning(one, two):
    pair = consistency.compare(rows(answer(one)), rows(answer(two))).iloc[0]
    common = 0 if pair["identical"] else int(pair["split"]) - 1
    assert pair["identical"] == (one == two)
    assert pair["identical"] or (one[:common] == two[:common] and one[common:common + 1] != two[common:common + 1])


def test_a_near_tie_is_rounding_and_a_clear_choice_that_turns_is_not():
    quiet = [answer([1, 2], moved=0.01)] * 20
    pairs = consistency.compare(rows(*[answer([1, 2], gap=0.05), answer([1, 2], gap=5.0)], *[answer([1, 2])] * 20),
                                rows(*[answer([1, 3])] * 2, *quiet))
    usual = consistency.noise({"x": pairs})
    assert usual == pytest.approx(0.01)
    assert consistency.beyond_rounding(pairs, usual).tolist() == [False, True] + [False] * 20
    assert consistency.splits({"x": pairs})["by rounding"].tolist() == ["no", "yes"]


# -- verdicts ----------------------------------------------------------------------------------------
def judged(right):
    return rows(*[answer([1], right=bool(r)) for r in right])


def test_power_is_what_simulated_faults_show():
    """The chance that is printed is the chance that a fault is found: 600 simulated runs, within 4 standard errors."""
    rng, questions, repeats, share, runs = np.random.default_rng(1), 60, 3, 0.05, 600
    found = 0
    for _ in range(runs):
        batches = [pd.Series(rng.random(questions) >= share) for _ in range(repeats)]
        test = consistency.tilt([pd.Series([True] * questions)], batches)
        found += test.p < consistency.ALARM and test.lower > test.higher
    expected = consistency.power(questions, repeats, share)
    assert abs(found / runs - expected) < 4 * math.sqrt(expected * (1 - expected) / runs) and 0.1 < expected < 0.9


def test_without_a_fault_wavering_answers_raise_no_alarm():
    """Questions at the edge are answered by chance, alone and in batches alike: at most ALARM of the runs may alarm."""
    rng, alarms = np.random.default_rng(2), 0
    for _ in range(400):
        sure = rng.random(60) < 0.8
        alone, *batches = (judged(sure | (rng.random(60) < 0.5)) for _ in range(5))
        alarms += consistency.quality([alone, batches[0]], batches[1:]).verdict != "no difference shown"
    assert alarms / 400 <= consistency.ALARM + 0.01


def test_the_smallest_fault_is_found_with_the_stated_power_and_no_smaller_one():
    smallest = consistency.smallest_fault(140, 3)
    assert consistency.power(140, 3, smallest) >= consistency.POWER > consistency.power(140, 3, smallest - 0.001)
    assert consistency.smallest_fault(consistency.needed() - 1, 3) == 1.0


@pytest.mark.parametrize("again, batch, verdict", [(0, 0, "not seen here"), (0, 9, "it holds here"), (8, 8, "not shown here"), (0, 1, "not shown here")])
def test_the_claim_is_judged_against_the_noise_floor(again, batch, verdict):
    def pairs(differing):
        return consistency.compare(rows(*[answer([1])] * 40), rows(*[answer([2])] * differing, *[answer([1])] * (40 - differing)))

    claim = consistency.batch_claim([pairs(again)], [pairs(batch), pairs(batch)])
    assert claim.verdict == verdict and f"{2 * batch} of 80" in claim.evidence
    assert claim.differ.value == batch / 40 and claim.differ.n == 40, "a question counts once"


def test_a_model_that_prefers_no_token_says_nothing_of_batches_unless_its_answers_part(run_of_07):
    """Dummy weights: all logits are equal, and the answer is the same whatever is asked."""
    some, other = rows(*[answer([1], gap=1e-6)] * 40), rows(*[answer([2], gap=1e-6)] * 9, *[answer([1], gap=1e-6)] * 31)
    assert consistency.flat(some) and not consistency.flat(rows(answer([1]), answer([2], gap=0.0), answer([3]))) and not consistency.flat(rows(answer([], error="http")))
    law = same_law.same_law({"q": ["a"] * 30}, {"q": ["b"] * 30})
    for batch, verdict, entered in ((some, "not told here", False), (other, "it holds here", True)):
        found = consistency.batch_claim([consistency.compare(some, some)], [consistency.compare(some, batch)], no_choice=True)
        asking.publish_verdicts(run_of_07, found, law)
        assert found.verdict == verdict and ("consistency.batch_same" in run_of_07.run.figures()) == entered


def test_answers_that_differ_in_a_batch_confirm_the_claim_by_measurement(run_of_07):
    pairs = [consistency.compare(rows(*[answer([1])] * 40), rows(*[answer([k])] * 9, *[answer([1])] * 31)) for k in (1, 2)]
    asking.publish_verdicts(run_of_07, consistency.batch_claim(pairs[:1], pairs[1:]), same_law.same_law({}, {}))
    held = next(h for h in claim_rules.hold(claims.load("article"), run_of_07.run) if h.claim.id == "batch-same")
    assert held.verdict == "holds" and "questions answered otherwise" in held.reasons[0]


def test_the_claim_is_the_articles():
    assert "batched answers can differ" in claims.consistency().loc["batch-same", "claim"]


@pytest.mark.parametrize("parameters, words", [
    ({"consistency_batches": []}, "is empty"), ({"consistency_batches": [8, 1]}, "no batch"), ({"consistency_batches": ["x"]}, "whole number"),
    ({"consistency_questions": 0}, "at least 1"), ({"opening_samples": -1}, "at least 1"), ({"beside_streams": 10**9}, "file descriptor")])
def test_bad_parameters_are_told_before_anything_is_asked(parameters, words):
    with pytest.raises(UserError, match=words):
        preflight.check(**parameters)


# -- sampled answers ---------------------------------------------------------------------------------
def test_the_same_distribution_is_rarely_called_another_and_a_shift_is_found_as_often_as_stated():
    rng, law = np.random.default_rng(3), [0.5, 0.3, 0.15, 0.05]

    def draw(p):
        return {q: rng.choice(list("abcd"), 100, p=p).tolist() for q in ("one", "two", "three")}

    shift = same_law.same_law(draw(law), draw(law)).smallest
    moved = [law[0] - shift, law[1] + shift, *law[2:]]
    false, found = ([same_law.same_law(draw(law), draw(other)).p < same_law.SHOWN for _ in range(200)] for other in (law, moved))
    assert np.mean(false) <= 0.10
    assert 0.80 <= np.mean(found) <= 0.99


def test_samples_of_which_none_comes_often_are_not_said_to_be_the_same():
    law = same_law.same_law({"q": list(range(40))}, {"q": list(range(40, 80))})
    assert math.isnan(law.p) and "nearly every sample is another" in str(law)


def test_samples_that_are_all_one_thing_or_none_decide_nothing():
    for one, two in (({"q": ["a"] * 30}, {"q": ["a"] * 30}), ({"q": ["a"] * 30}, {}), ({}, {})):
        law = same_law.same_law(one, two)
        assert math.isnan(law.p) and "nothing to compare" in str(law)


@given(st.dictionaries(st.sampled_from("pq"), st.lists(st.sampled_from("abc"), max_size=40)),
       st.dictionaries(st.sampled_from("pq"), st.lists(st.sampled_from("abc"), max_size=40)))
def test_any_samples_give_a_p_between_0_and_1_or_none(one, two):
    p = same_law.same_law(one, two).p
    assert math.isnan(p) or 0 < p <= 1


# -- plots -------------------------------------------------------------------------------------------
def test_plots_can_be_drawn_of_anything_that_was_answered():
    alone = rows(*[answer([1, 2], gap=0.0), answer([3, 4])])
    for other in (alone, rows(answer([1, 9]), answer([3, 4], moved=0.1)), rows(answer([], error="http"), answer([3, 4]))):
        pairs = {"x": consistency.compare(alone, other)}
        assert plots_consistency.agreement(pairs).axes and plots_consistency.margins(alone, pairs).axes
    assert plots_consistency.openings({"q": ["a", "b"]}, {"q": ["b"]}, ("one", "two")).axes


# -- with real vLLM ----------------------------------------------------------------------------------
@pytest.fixture
def desk(server, run_name):
    return SimpleNamespace(server=server, run=RunDir(run_name), notebook="07_consistency")


def test_alone_batched_and_from_the_cache_are_what_they_say(desk):
    items = asking.questions(1, 2, 8, seed=3)

    async def ask_all():
        alone = await asking.ask(desk, "alone", items)
        cached = await asking.ask(desk, "cached", items, salt=alone.salt)
        batch = await asking.ask(desk, "batch", items, at_once=8, order=1)
        async with asking.beside(desk, "others", 2, 1):
            beside = await asking.ask(desk, "beside", items)
        return alone, cached, batch, beside

    alone, cached, batch, beside = asyncio.run(ask_all())
    assert [asking.most_in_flight(a) for a in (alone, cached, beside)] == [1] * 3 and asking.most_in_flight(batch) == 8
    assert alone.cached_share == 0 == batch.cached_share and cached.cached_share > 0.3, "a salt is cold, the same salt is not"
    assert list(alone.rows.index) == list(batch.rows.index) == list(range(len(items)))
    assert alone.rows["tokens"].map(len).gt(0).all() and alone.rows["logprobs"].map(len).eq(alone.rows["tokens"].map(len)).all()
    assert alone.rows["right"].notna().sum() == 7
    lines = desk.run.requests_file("others").read_text().count("\n")
    assert lines > 2, "the other load's requests are rows, too"


def test_a_mixed_up_picture_in_5_percent_of_batched_requests_is_found_and_without_it_there_is_no_alarm(desk, monkeypatch):
    """The planted fault, on real vLLM. 126 questions asked three times in batches find it with a chance of 99.8 %."""
    monkeypatch.setattr(asking, "SIZE", (224, 224))  # most of an answer's time is its picture's
    items = asking.questions(18, 0, 1, seed=11)
    assert consistency.power(len(items), 3, 0.05) > 0.995

    async def batches(of, *more):
        return [await asking.ask(of, f"batch {n}", items, at_once=n, **options) for n, options in ((32, {}), (8, {"order": 1}), *more)]

    async def ask_all():
        with between(desk.server.url, Fault("wrong_picture", share=0.05)) as proxy:
            faulty = SimpleNamespace(**vars(desk) | {"server": replace(desk.server, url=proxy.url, process=None)})
            alone = await asking.ask(faulty, "alone", items)
            assert not proxy.struck, "alone, no other picture is in flight"
            return alone, await batches(faulty, (8, {})), await batches(desk), proxy.struck["wrong_picture"]

    alone, faulty, sound, struck = asyncio.run(ask_all())
    assert 5 <= struck <= 45
    found, none = (consistency.quality([alone.rows], [a.rows for a in some]) for some in (faulty, sound))
    assert found.verdict == "less often right in batches" and found.tilt.p < consistency.ALARM
    assert none.verdict == "no difference shown"
    pairs = {a.name: consistency.compare(alone.rows, a.rows) for a in faulty}
    changed = sum((p["meaning"] == "changed").sum() for p in pairs.values())
    assert 0.4 * struck <= changed <= struck, "no more answers changed than pictures were mixed up"
    assert consistency.splits(pairs)["by rounding"].eq("no").any(), "such splits are no near ties"
    assert sum(consistency.compare(alone.rows, a.rows)["meaning"].eq("changed").sum() for a in sound) <= 2


def test_a_second_server_is_started_beside_the_first_asked_and_stopped(desk):
    items = asking.questions(1, 1, 4, seed=5)[-2:]

    async def both():
        alone = await asking.ask(desk, "alone", items)
        return alone, await asking.after_another_start(desk, {"again": {}}, items)

    alone, again = asyncio.run(both())
    assert consistency.compare(alone.rows, again["again"].rows)["identical"].all()
    assert desk.server.alive() and not rundir_server_alive(desk)


def rundir_server_alive(desk) -> bool:
    known = read_json(desk.run.path / "another_start" / "server.json", {})
    assert known["url"] != desk.server.url and known["model"] == desk.server.model
    try:
        return get(known["url"], "/health", None, 2).status_code == 200
    except httpx2.TransportError:
        return False


def test_batch_invariant_mode_is_left_out_with_the_reason_where_there_is_no_such_gpu(desk):
    if machine.gpus():
        pytest.skip("this machine may have it")
    assert "made for GPUs" in asyncio.run(asking.after_another_start(desk, {"again": {}}, [], asking.INVARIANT))


def test_a_server_that_was_started_elsewhere_is_not_started_again_and_says_so(desk):
    desk.server = replace(desk.server, spec=None, process=None)
    why = asyncio.run(asking.after_another_start(desk, {"again": {}}, []))
    assert "cannot be started again from here" in why


def test_a_server_that_refuses_everything_is_told_in_one_line(desk):
    desk.server = replace(desk.server, api_key="wrong", process=None)
    with pytest.raises(UserError, match="series alone: not one request was answered.*7 turned away .HTTP 401"):
        asyncio.run(asking.ask(desk, "alone", asking.questions(1, 0, 1, seed=1)))
    assert desk.run.requests_file("alone").read_text().count("\n") == 7, "and each is a row"


def test_what_is_in_flight_when_the_time_is_over_is_a_row_too(desk, monkeypatch):
    monkeypatch.setenv(time_limit.DEADLINE, str(time.monotonic() + 4.0))
    with between(desk.server.url, Fault("hang", begin=3)) as proxy:
        slow = SimpleNamespace(**vars(desk) | {"server": replace(desk.server, url=proxy.url, process=None)})
        with pytest.raises(UserError, match="the notebook's time was over.* broken off here"):
            asyncio.run(asking.ask(slow, "hanging", asking.openings(12, 2, 0.0, None), at_once=4))
    errors = [json.loads(line)["error"] for line in desk.run.requests_file("hanging").read_text().splitlines()]
    assert len(errors) == proxy.came() and errors.count("aborted") == 4 and set(errors) <= {None, "aborted"}
