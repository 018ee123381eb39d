"""The probes: repeatable questions, lenient and strict judging in the right places, honest counting."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import images, judging, probes, records
from lib.records import Record, encoded

RED_CIRCLE = {"shape": "circle", "color": "red", "background": "white", "position": "top left"}


@pytest.mark.parametrize("reply", [
    "A red circle on a white background.", "a RED CIRCLE, on a White Background", "The image shows a solid red circle centered on a plain white background.",
    "The background is white, and there is a red circle in it.", "There's a red dot on a white backdrop", "**A red circle** on white.",
    "白色背景上有一个红色的圆形。", "图中有一个红色圆形，背景是白色的。", "A circle, which is red, on a white background."])
def test_right_descriptions_pass_in_any_form(reply):
    assert judging.correct("describe", RED_CIRCLE, reply)


@pytest.mark.parametrize("reply", [
    "A white circle on a red background.", "A red square on a white background.", "A blue circle on a white background.",
    "A red circle on a black background.", "A red circle.", "A picture.", "", "白色的圆形在红色背景上。", "A red circle and a red square on a white background."])
def test_wrong_descriptions_fail_even_with_the_right_words(reply):
    assert not judging.correct("describe", RED_CIRCLE, reply)


@pytest.mark.parametrize("reply, right", [
    ("The number is 4182.", True), ("4182", True), ("4,182", True), ("4 1 8 2", True), ("数字是4182。", True), ("４１８２", True),
    ("41823", False), ("418", False), ("The number is 4128.", False), ("A number", False)])
def test_numbers(reply, right):
    assert judging.correct("number", {"number": "4182"}, reply) is right


@pytest.mark.parametrize("reply, right", [
    ("The word is HOUSE.", True), ("house", True), ('It says "House"', True), ("H-O-U-S-E", True), ("单词是HOUSE。", True),
    ("HOUSES", False), ("HORSE", False), ("lighthouse", False)])
def test_words(reply, right):
    assert judging.correct("word", {"word": "HOUSE"}, reply) is right


@pytest.mark.parametrize("n, reply, right", [
    (5, "There are 5 circles.", True), (5, "five", True), (5, "有五个圆形。", True), (5, "一共有5个。", True), (2, "两个", True),
    (1, "There is one circle", True), (1, "A circle.", True), (5, "There are 6 circles.", False), (5, "many", False),
    (5, "15", False), (1, "十个", False), (2, "There are three pairs", False)])
def test_counts_in_digits_and_words(n, reply, right):
    assert judging.correct("count", {"count": n}, reply) is right


@pytest.mark.parametrize("position, reply, right", [
    ("top left", "in the upper left corner", True), ("top left", "左上角", True), ("left", "middle left", True), ("center", "in the middle", True),
    ("top left", "top right", False), ("top", "top left", False), ("left", "somewhere", False)])
def test_positions(position, reply, right):
    assert judging.correct("position", {"position": position}, reply) is right


@pytest.mark.parametrize("right, reply, passes", [
    (1, "The first picture.", True), (1, "Image 1", True), (1, "第一张。", True), (2, "The second one, not the first.", True), (2, "图2", True),
    (1, "The second picture.", False), (2, "第一张。", False), (1, "Neither of them", False), (2, "Both", False)])
def test_which_of_two(right, reply, passes):
    assert judging.correct("pair_color", {"right": right}, reply) is passes


@pytest.mark.parametrize("reply, right", [("The total is 12.40.", True), ("$12.40", True), ("12,40 €", True), ("TEA 2.40 TOTAL 12.40", True),
                                          ("12.4", False), ("12.41", False), ("112.40", False)])
def test_amounts(reply, right):
    assert judging.correct("total", {"total": "12.40"}, reply) is right


@pytest.mark.parametrize("answer, reply, right", [
    ("cat | kitten", "It is a Kitten.", True), ("cat", "two cats", True), ("2 | 两只", "有两只猫", True), ("cat", "a category", False)])
def test_own_answers(answer, reply, right):
    assert judging.correct("own", {}, reply, answer) is right


@given(st.text(max_size=200), st.sampled_from(probes.ALL_KINDS))
@settings(max_examples=200, deadline=None)
def test_judging_never_raises_whatever_a_model_says(text, kind):
    probe = _one(kind)
    assert probes.judge(probe, text) in (True, False)


_CACHE = {}


def _one(kind):
    if kind not in _CACHE:
        _CACHE[kind] = probes.questions([kind], 1, seed=3, size=(96, 96))[0]
    return _CACHE[kind]


def test_every_canonical_answer_is_judged_right():
    for probe in probes.questions(probes.ALL_KINDS, 12, seed=9, size=(96, 96)):
        assert probes.judge(probe, probe.answer), (probe.kind, probe.facts, probe.answer)


def test_a_neighbours_answer_is_nearly_always_judged_wrong():
    """A judge that says yes to everything would pass every other test here."""
    for kind in ("describe", "number", "word", "count", "receipt"):
        some = probes.questions([kind], 30, seed=4, size=(96, 96))
        crossed = sum(probes.judge(p, q.answer) for p, q in zip(some, some[1:] + some[:1]))
        assert crossed <= 9, kind


def test_the_same_arguments_give_the_same_probes_and_other_seeds_give_others():
    first, again, other = (probes.questions(["describe", "pair"], 4, seed=s, size=(96, 96)) for s in (1, 1, 2))
    assert [p.messages for p in first] == [p.messages for p in again] != [p.messages for p in other]


def test_probe_seeds_are_never_training_seeds():
    for probe in probes.questions(probes.KINDS, 30, seed=10 ** 12, size=(64, 64)):
        assert 0 <= probe.seed < images.TRAINING_SEEDS


def test_the_control_changes_the_pictures_and_nothing_else():
    for real, grey in zip(*(probes.questions(["pair", "number"], 3, seed=5, grey=g) for g in (False, True))):
        assert (real.question, real.facts, [p.size for p in real.pictures]) == (grey.question, grey.facts, [p.size for p in grey.pictures])
        assert real.messages != grey.messages


def test_a_follow_up_holds_the_first_turn_but_not_the_answer():
    for probe in probes.questions(["follow_up"], 20, seed=1, size=(96, 96)):
        assert [m["role"] for m in probe.messages] == ["user", "assistant", "user"]
        assert not probes.judge(probe, probe.messages[1]["content"]) or probe.facts["color"] == probe.facts.get("background")


def test_two_pictures_travel_in_one_turn():
    probe = _one("pair")
    assert [part["type"] for part in probe.messages[0]["content"]] == ["image_url", "image_url", "text"]


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="known: describe"):
        probes.questions(["smell"])


def test_every_question_is_a_row_failed_and_unsent_ones_included_and_each_stays_a_record(tmp_path):
    path, some = tmp_path / "probes.jsonl", probes.questions(["count"], 9, seed=1, size=(64, 64))
    told = {n: p.answer + " \u2028" if n % 2 else "There are 99." for n, p in enumerate(some)}
    came = [Record("probes", n, sent=n + 0.5, text=told[n], status=200) for n in reversed(range(7))]  # as they ended, not as asked
    came[0] = Record("probes", 6, error="http", message="HTTP 400: too large", text="There are", status=400)
    path.write_bytes(b"".join(map(encoded, came)))
    rows = probes.judged(some, path)
    assert [r["index"] for r in rows] == list(range(9)) and [r["seed"] for r in rows] == [p.seed for p in some]
    assert [r["correct"] for r in rows] == [False, True] * 3 + [False] * 3
    assert [r["reply"] for r in rows] == [told[n] for n in range(6)] + [None] * 3
    table = probes.accuracy(rows)
    assert table.loc["count", "n"] == 9 and table.loc["count", "failed"] == 3
    assert probes.refused(some, rows)[0].endswith("HTTP 400: too large")
    kept = records.read(path)
    assert kept["sent"].dropna().tolist() == [n + 0.5 for n in range(6)] and kept["error"].dropna().tolist() == ["http", "refused", "refused"]


def test_what_a_server_refuses_is_named_in_one_line_each_and_the_rest_goes_on():
    some = [probes.Probe("own", 0, "en", "own", "?", "5", {}, [images.Picture("own", 0, None, {}, name=f"{n}.png")], []) for n in range(4)]
    rows = [{"error": "http", "message": "HTTP 400: too\nlarge"} if n == 2 else {"error": None} for n in range(4)]
    assert probes.refused(some, rows) == ["2.png: HTTP 400: too large"]


def test_accuracy_of_nothing_is_an_empty_table():
    assert len(probes.accuracy([])) == 0
