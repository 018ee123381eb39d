"""Workloads of pictures: what is sent is what was meant, what a server does not take is refused in one line."""
import base64
import io
import types

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib import allowed, bench, claims, images, picture_load, plots_context, fit, rundir
from lib.compare import compare
from lib.errors import UserError
from lib.pixels import Processor
from lib.server import Server
from lib.unseen import CORNER, unseen

EMBEDDED = ["--max-model-len", "4096", "--limit-mm-per-prompt", '{"image":2,"video":0}']


def served(flags=EMBEDDED, model="tiny-qwen3-vl", longest=4096) -> Server:
    return Server("http://127.0.0.1:9", model, max_model_len=longest, flags=list(flags))


def pictures_of(request) -> list[Image.Image]:
    parts = [part for part in request.messages[-1]["content"] if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",")[1]))) for part in parts]


def finished(batch) -> types.SimpleNamespace:
    """A series in which every request was answered."""
    n = len(batch)
    frame = pd.DataFrame({
        "index": range(n), "phase": "measure", "error": None, "message": None, "sent": np.arange(n) * 1.0, "done": np.arange(n) + 0.5,
        "ttft_s": 0.2, "tpot_s": 0.01, "total_s": 0.5, "article_tps": 40.0, "output_tokens": 20, "text": [q["question"].answer for q in batch.about],
        "prompt_tokens": [20 + p["pixels"] // 1024 for p in batch.about]})
    return types.SimpleNamespace(frame=frame, measured=frame, samples=pd.DataFrame({"time": [1.0]}))


# -- what is refused -----------------------------------------------------------------------------------
@pytest.mark.parametrize("flags, limit", [
    (EMBEDDED, 2), (['--limit-mm-per-prompt={"image":5}'], 5), (["--limit-mm-per-prompt.image", "3"], 3),
    (["--limit-mm-per-prompt.image=4"], 4), (["--dtype", "float32"], None), ([], None), (["--limit-mm-per-prompt", "odd"], None)])
def test_how_many_pictures_a_server_takes_is_read_from_its_flags(flags, limit):
    assert allowed.picture_limit(flags) == limit


def test_numbers_of_pictures_go_as_far_as_the_server_allows():
    assert allowed.picture_numbers(served(), 0) == [0, 1, 2]
    assert allowed.picture_numbers(served([]), 0) == [0, 1, 2, 4]
    assert allowed.picture_numbers(served([]), 6) == [0, 1, 2, 4, 6]


@pytest.mark.parametrize("refused, said", [
    (lambda: allowed.check_pictures(served(), 3), "3 pictures in one request are more than the 2"),
    (lambda: allowed.picture_numbers(served(), 3), "more than the 2"),
    (lambda: allowed.picture_numbers(served(), -1), "-1 pictures"),
    (lambda: allowed.check_context(served(), 5000), "5,000 tokens is longer than this server's 4,096"),
    (lambda: allowed.context(served(), 5000), "longer"),
    (lambda: allowed.check_sizes(served(), [(9000, 100)], 10), "9000x100: its sides must have 64 to 4,096"),
    (lambda: allowed.check_sizes(served(longest=700), [(1024, 768)], 10), "778 tokens, more than this server's 700"),
    (lambda: allowed.check_sizes(served(longest=1000), [(768, 768)], 10, each=2), "2 pictures of 768x768"),
    (lambda: allowed.parse_sizes(["12by3"]), "each is width x height"),
    (lambda: allowed.parse_sizes(["12"]), "each is width x height")])
def test_what_a_server_does_not_take_is_one_line(refused, said):
    with pytest.raises(UserError, match=said) as caught:
        refused()
    assert "\n" not in str(caught.value)


def test_what_it_takes_is_let_through():
    allowed.check_sizes(served(), [(1024, 768)], 150)
    allowed.check_sizes(served(longest=None), [(4096, 4096)], 150)
    assert allowed.context(served(), 0) == 4096 and allowed.context(served(longest=None), 0) == allowed.MOST_CONTEXT
    assert allowed.parse_sizes(["1024x768", "64×64"]) == [(1024, 768), (64, 64)]


def test_the_processor_is_the_model_s_own_where_its_files_are_here():
    assert allowed.processor(served()).max_pixels == 1_048_576 and allowed.processor(served(model="Qwen/Qwen3-VL-2B")) == Processor()


# -- what is sent --------------------------------------------------------------------------------------
def test_an_unseen_picture_differs_in_its_corner_only():
    picture = images.make("shape", 5, (128, 96))
    one, again, other = (np.asarray(unseen(picture, key).image, int) for key in ("a", "a", "b"))
    rest = np.ones(one.shape[:2], bool)
    rest[-CORNER:, -CORNER:] = False
    assert (one == again).all() and (one != other).any()
    assert (one[rest] == np.asarray(picture.image, int)[rest]).all()


def test_no_picture_is_sent_twice_and_no_prefix_is_shared():
    batches = [picture_load.article(3, 10, 1), picture_load.article(3, 10, 1), picture_load.sizes([(64, 64), (96, 64)], 2, 1)]
    sent = [r.messages[-1]["content"][0]["image_url"]["url"] for b in batches for r in b.requests]
    salts = [r.extra["cache_salt"] for b in batches for r in b.requests]
    assert len(set(sent)) == len(sent) and len(set(salts)) == len(salts)


def test_the_article_s_case_is_one_jpeg_of_1024_by_768():
    (request,) = picture_load.article(1, 150, 1).requests
    (picture,) = pictures_of(request)
    assert picture.format == "JPEG" and picture.size == (1024, 768) and request.max_tokens == 150 and request.fixed_length


def test_a_picture_and_none_take_turns_under_one_question_with_answers_of_one_length():
    batch = picture_load.beside_none(4, 150, 1)
    about = pd.DataFrame(batch.about)
    assert list(about["round"]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert list(about["variant"]) == [picture_load.WITH, picture_load.WITHOUT, picture_load.WITHOUT, picture_load.WITH] * 2, "there and back"
    assert {request.messages[-1]["content"][-1]["text"] for request in batch.requests} == {about["question"][0].question}
    assert {(request.max_tokens, request.fixed_length) for request in batch.requests} == {(150, True)}
    for request, variant in zip(batch.requests, about["variant"]):
        assert [picture.size for picture in pictures_of(request)] == [(1024, 768)] * (variant == picture_load.WITH)
    sent = [request.messages[-1]["content"][0]["image_url"]["url"] for request in batch.requests if pictures_of(request)]
    assert len(set(sent)) == 4 and len({request.extra["cache_salt"] for request in batch.requests}) == 8, "all are new to the server"


@pytest.mark.parametrize("slower", [lambda at: 1 + at, lambda at: 2 - at, lambda at: 1 + (at > 0.5), lambda at: 1.5 + 0.5 * np.sin(7 * at)])
def test_a_machine_whose_speed_changes_by_half_does_not_bend_what_a_picture_costs(slower):
    """`slower`: its time for the same work, over the series; in any other order the same machine would decide what is found."""
    rng, batch = np.random.default_rng(1), picture_load.beside_none(30, 150, 1, size=(64, 64))
    pictured = np.array([row["variant"] == picture_load.WITH for row in batch.about])
    work = 0.5 * np.where(pictured, 1.1, 1) * rng.lognormal(0, 0.01, len(batch))
    took = work * slower(np.linspace(0, 1, len(batch)))
    rounds = np.array([row["round"] for row in batch.about])
    found = compare(took[~pictured], took[pictured], paired_rounds=(rounds[~pictured], rounds[pictured])).ratio
    assert found.low < 1.1 < found.high and found.value == pytest.approx(1.1, abs=0.02)
    one_after_the_other = work[np.argsort(pictured, kind="stable")] * slower(np.linspace(0, 1, len(batch)))
    apart = compare(one_after_the_other[:30], one_after_the_other[30:]).ratio
    assert abs(apart.value / 1.1 - 1) > 0.1, "or there was nothing to guard against"


def test_a_sweep_has_each_size_once_in_a_block():
    batch = picture_load.sizes([(64, 64), (96, 64), (128, 128)], 4, 1)
    about = pd.DataFrame(batch.about)
    assert (about.groupby("block")["size"].nunique() == 3).all() and len(batch) == 12
    assert [pictures_of(r)[0].size for r in batch.requests] == [tuple(map(int, s.split("×"))) for s in about["size"]]


def test_numbers_of_pictures_and_their_twins_of_text():
    batch = picture_load.numbers([0, 1, 2], 2, 1, (64, 64), {1: "long", 2: "longer"})
    about = pd.DataFrame(batch.about)
    assert set(about["variant"]) == {"no pictures", "1 picture", "2 pictures", "text of 1 picture", "text of 2 pictures"}
    for request, row in zip(batch.requests, batch.about):
        twin = row["variant"].startswith("text")
        assert len(pictures_of(request)) == row["pictures"] == (0 if twin else row["number"])
        assert request.messages[-1]["content"][-1]["text"] == ({1: "long", 2: "longer"}[row["number"]] if twin else "What do you see?")


def test_base64_is_counted_as_it_is_sent():
    batch = picture_load.formats([("png", 0), ("jpeg", 90), ("jpeg", 20)], 2, 1, (224, 224))
    for request, row in zip(batch.requests, batch.about):
        assert len(request.messages[-1]["content"][0]["image_url"]["url"]) == round(row["wire_kb"] * 1000)
        assert row["encode_ms"] > 0 and row["base64_ms"] > 0
    table = picture_load.cost_of_formats(batch.join(finished(batch)))
    assert table["wire / file"].between(1.33, 1.35).all() and set(table["right"]) == {"2 of 2"}
    assert table["format"].iloc[-1] == "PNG"


def test_a_repeated_prompt_has_the_first_one_s_salt_and_a_seen_picture_its_bytes():
    batch = picture_load.repeats(2, 1, (64, 64))
    about = pd.DataFrame(batch.about)
    first, salts = batch.requests[0], [r.extra["cache_salt"] for r in batch.requests]
    for request, variant, salt in zip(batch.requests[1:], about["variant"][1:], salts[1:]):
        same_picture = request.messages == first.messages
        assert same_picture == (variant != picture_load.FRESH) and (salt == salts[0]) == (variant == picture_load.SAME)
    assert list(about["variant"][1:4]) == list(about["variant"][6:3:-1]) and list(about["round"]) == [-1] + [0] * 6 + [1] * 6


def test_what_is_read_can_be_judged():
    batch = picture_load.reading(6, 1, (224, 224))
    rows = picture_load.judged(batch.join(finished(batch), whole=True))
    assert rows["right"].all() and list(rows["kind"]) == ["number", "word", "receipt"] * 2
    assert not picture_load.judged(rows.assign(text="nothing"))["right"].any()


def test_a_user_s_picture_without_a_question_is_described_and_not_judged():
    picture = images.Picture("own", 0, Image.new("RGB", (80, 60), "red"), {}, "jpeg", 95, "cat.jpg")
    batch = picture_load.own([picture], 2)
    series = finished(batch)
    table = picture_load.of_own(batch.join(series))
    assert list(table["picture"]) == ["cat.jpg"] and list(table["right"]) == ["–"]
    series.frame.loc[0, ["error", "message"]] = "http", "HTTP 400: too large"
    assert picture_load.refused(batch, series) == ["cat.jpg: HTTP 400: too large"]


# -- tables and plots ----------------------------------------------------------------------------------
def test_picture_tokens_are_what_the_prompt_has_beyond_its_text():
    batch = picture_load.sizes([(64, 64), (128, 128)], 3, 1)
    rows = picture_load.with_picture_tokens(batch.join(finished(batch)), Processor(min_pixels=1024))
    assert (rows["picture_tokens"] == rows["predicted"]).all() and set(rows["predicted"]) == {4, 16}


def test_the_rate_is_that_of_the_whole_series():
    batch = picture_load.sizes([(64, 64)], 5, 1)
    rate = picture_load.pictures_per_s(finished(batch))
    assert rate.value == pytest.approx(5 / 4.5) and rate.low <= rate.value <= rate.high


def test_gpu_memory_before_during_and_after(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "OUTPUTS", tmp_path)
    series = types.SimpleNamespace(name="pictures_article", measured=[1, 2], samples=pd.DataFrame({"gpu0.memory_gib": [10.0, 11.0, 10.5]}))
    memory = picture_load.gpu_memory(series)
    (row,) = memory.to_dict("records")
    desk = bench.Bench("05_multimodal", None, rundir.RunDir("some-run"))
    picture_load.publish_memory(desk, series, memory)
    figure = desk.run.figures()["pictures_article.gpu_memory"]
    assert figure["value"] == pytest.approx(row["more, GB"]) and figure["unit"] == "GB"
    assert row["more, GB"] == pytest.approx(1.0737, rel=1e-3) and row["GPU"] == "gpu0"
    assert picture_load.gpu_memory(types.SimpleNamespace(samples=pd.DataFrame({"time": [1.0]}))).empty


def test_the_article_s_table_has_its_three_figures():
    batch = picture_load.article(2, 150, 1)
    table = picture_load.article_table(batch.join(finished(batch)), claims.pictures(), pd.DataFrame())
    assert list(table["article, T4"]) == ["0.8 to 1.2", "30", "1.2"] and list(table["here, mean"]) == ["0.2", "40", "no GPU to ask"]


def test_plots_have_titles_and_units():
    x, y = np.arange(6.0), np.arange(6.0) * 2
    frame = pd.DataFrame({"turn": [1, 1, 2, 2], "ttft_s": [0.1, 0.2, 0.3, 0.4]})
    levels = pd.DataFrame({"streams": [1, 2], "pictures/s": [1.0, 2.0], "TTFT, ms": [10.0, 12.0]})
    figures = [plots_context.line_and_residuals({"a": (x, y), "b": (x, y + 1)}, fit.line(x, y), "T", "tokens", "TTFT, ms", "ms per token"),
               plots_context.by_turn({"cold": frame, "cached": frame}, "ttft_s", "T", "TTFT, ms"),
               plots_context.strips({"a": [1.0, 2.0], "b": [3.0]}, "T", "TTFT, ms"),
               plots_context.levels(levels, "streams", "pictures/s", "TTFT, ms", "T")]
    for figure in figures:
        assert all(axes.get_ylabel() or axes.get_xlabel() for axes in figure.axes)


def test_wrong_answers_are_shown_first():
    asked = list(range(5))
    rows = [{"correct": k != 3, "kind": "a" if k < 3 else "b"} for k in range(5)]
    shown, _ = picture_load.wrong_first(asked, rows)
    assert shown[0] == 3 and len(shown) == 3
