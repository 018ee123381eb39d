"""Conversations: what is said, how a driver carries them on, and what their records tell."""
import pickle
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import conversations, judging, metrics, turns
from lib.client import Request
from lib.conversations import PictureTalks, Talks
from lib.errors import UserError
from lib.records import Record
from lib.shapes import Closed, Open
from series import run


def reply(index: int, turn: int, prompt: int = 100, text: str = "an answer") -> Record:
    return Record("s", index, turn=turn, prompt_tokens=prompt, output_tokens=8, text=text)


def whole(talks, index: int) -> list[Request]:
    """A conversation whose server counts half a token a character and answers with the turn's number."""
    said, request = [], talks[index]
    while request is not None:
        said.append(request)
        chars = sum(len(m["content"]) for m in request.messages)
        request = talks.follow(request, reply(index, len(said), chars // 2, f"answer {len(said)}"))
    return said


def test_the_same_seed_says_the_same_and_another_seed_something_else():
    first, again, other = (Talks(3, 1000, 8, seed)[0].messages for seed in (1, 1, 2))
    assert first == again and first != other


def test_answers_become_part_of_the_next_prompt_and_the_context_grows_to_its_length():
    said = whole(Talks(4, 2000, 8), 0)
    assert len(said) == 4
    for earlier, later in zip(said, said[1:]):
        assert later.messages[: len(earlier.messages)] == earlier.messages
        assert [m["role"] for m in later.messages[-2:]] == ["assistant", "user"]
    tokens = sum(len(m["content"]) for m in said[-1].messages) / 2
    assert 1500 < tokens < 2000


def test_both_languages_are_spoken():
    texts = [Talks(2, 500, 8)[i].messages[-1]["content"] for i in range(4)]
    assert any("\u4e00" <= c <= "\u9fff" for c in "".join(texts)) and any(text.isascii() for text in texts)


def test_every_template_can_be_filled():
    for lang in ("en", "zh"):
        for topic in conversations.dialogues()[lang]:
            for line in [*topic["turns"], *topic["material"]]:
                assert isinstance(line, str) and "{" not in conversations.filled(line, lang, random.Random(1))


def test_a_cold_request_shares_its_salt_with_no_other_and_a_cached_one_with_its_conversation_only():
    salts = {cache: [[r.extra["cache_salt"] for r in whole(Talks(3, 800, 8, cache=cache), i)] for i in range(3)]
             for cache in ("on", "cold")}
    assert len({s for talk in salts["cold"] for s in talk}) == 9
    assert [len(set(talk)) for talk in salts["on"]] == [1, 1, 1] and len({talk[0] for talk in salts["on"]}) == 3
    assert Talks(3, 800, 8)[0].extra != Talks(3, 800, 8)[0].extra, "a second run must not find the first's blocks"


def test_alternating_conversations_say_the_same_twice_once_cached_and_once_cold():
    talks = Talks(3, 800, 8, cache="alternate")
    said = [[r.messages for r in whole(talks, i)] for i in range(4)]
    assert said[0] == said[1] != said[2] == said[3]
    assert [talks.cold(i) for i in range(8)] == [False, True, True, False] * 2


def test_a_twin_repeats_even_what_was_answered_otherwise():
    talks = Talks(2, 600, 8, cache="alternate")
    first = talks.follow(talks[0], reply(0, 1, text="yes"))
    twin = talks.follow(talks[1], reply(1, 1, prompt=333, text="no"))
    assert first.messages == twin.messages


@pytest.mark.parametrize("wrong, said", [
    (dict(turns=0), "at least 1"), (dict(max_tokens=0), "at least 1"), (dict(think_s=-1.0), "negative"),
    (dict(cache="warm"), "choose one of"), (dict(context=100), "has no room for 3 turns")])
def test_what_cannot_be_is_refused_in_one_line(wrong, said):
    with pytest.raises(UserError, match=said) as caught:
        Talks(**{"turns": 3, "context": 1000, "max_tokens": 8} | wrong)
    assert "\n" not in str(caught.value)


def test_workloads_travel_to_the_workers():
    for talks in (Talks(2, 500, 8), PictureTalks(2)):
        assert pickle.loads(pickle.dumps(talks))[0] == talks[0]


def test_pictures_stay_in_the_context_and_every_turn_asks_about_the_newest():
    talks = PictureTalks(5, size=(128, 128), show_at=(1, 3))
    request, pictures = talks[0], []
    for turn in range(1, 6):
        pictures.append(sum(part["type"] == "image_url" for m in request.messages if m["role"] == "user" for part in m["content"]))
        question = talks.question(0, turn)
        assert request.messages[-1]["content"][-1]["text"] == question.question
        assert judging.correct(question.ask, talks.picture(0, turn).facts, question.answer)
        request = talks.follow(request, reply(0, turn))
    assert pictures == [1, 1, 2, 2, 2] and request is None
    assert talks.picture(0, 1).name == talks.picture(0, 2).name != talks.picture(0, 3).name


# -- the driver ----------------------------------------------------------------------------------------
class Chat:
    """Three turns; a turn's text names the one before."""

    turns = 3

    def __init__(self, think_s: float = 0.0):
        self.think_s = think_s

    def __getitem__(self, index):
        return Request([{"role": "user", "content": f"{index} opens"}], 12)

    def follow(self, request, record):
        assert record.output_tokens == 12
        return None if record.turn == 3 else Request(
            request.messages + [{"role": "assistant", "content": record.text or "…"}, {"role": "user", "content": "go on"}], 12)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("shape", [1, Closed(4), Open(40)])
def test_every_conversation_has_all_its_turns_in_order(metronome, tmp_path, shape, processes):
    frame = run(metronome, tmp_path, Chat(), shape, count=9, processes=processes, warmup=2)
    assert len(frame) == 27 and frame["error"].isna().all()
    for _, talk in frame.groupby("index"):
        talk = talk.sort_values("sent")
        assert list(talk["turn"]) == [1, 2, 3]
        assert (talk["sent"].iloc[1:].to_numpy() >= talk["done"].iloc[:-1].to_numpy()).all()
    assert (frame["phase"] == "warmup").sum() == 6


def test_a_stream_takes_its_next_conversation_when_one_has_ended(metronome, tmp_path):
    frame = run(metronome, tmp_path, Chat(0.05), Closed(3, stagger_s=0.05), count=8)
    talks = frame.groupby("index").agg(began=("sent", "min"), ended=("done", "max"))
    instants = np.concatenate([talks["began"], talks["ended"]])
    order = np.lexsort((np.repeat([1, 0], len(talks)), instants))
    assert np.cumsum(np.repeat([1, -1], len(talks))[order]).max() == 3


def test_a_user_thinks_before_the_next_turn(metronome, tmp_path):
    frame = run(metronome, tmp_path, Chat(0.2), 2, count=2).sort_values(["index", "turn"])
    pause = frame["sent"] - frame.groupby("index")["done"].shift()
    assert pause.dropna().between(0.19, 0.6).all()


def test_a_series_of_conversations_ends_by_time_though_users_still_think(metronome, tmp_path):
    frame = run(metronome, tmp_path, Chat(30.0), 3, seconds=1.0)
    assert list(frame["turn"]) == [1, 1, 1] and frame["error"].isna().all()


class _Nobody:
    url, api_key, model = "http://127.0.0.1:9", None, "m"


def test_a_dead_server_ends_each_conversation_at_its_first_fault(tmp_path):
    frame = run(_Nobody(), tmp_path, Chat(), 2, count=5)
    assert sorted(frame["index"]) == list(range(5)) and frame["turn"].eq(1).all() and frame["error"].eq("refused").all()


def test_requests_of_many_megabytes_reach_a_worker(metronome, tmp_path):
    requests = [Request([{"role": "user", "content": "x" * 2_000_000}], 4) for _ in range(4)]
    frame = run(metronome, tmp_path, requests, 1)
    assert len(frame) == 4 and frame["error"].isna().all()


# -- what the records tell -----------------------------------------------------------------------------
def talk_rows(rounds: int = 2, factor: float = 0.5, turns_each: int = 3) -> pd.DataFrame:
    """Rounds of four conversations; a cached turn from the second on takes `factor` times as long as a cold one."""
    rows = []
    for index in range(4 * rounds):
        for turn in range(1, turns_each + 1):
            cold = index % 4 in (1, 2)
            ttft = 0.1 * turn * (1 if cold or turn == 1 else factor) * (1 + 0.01 * (index // 4))
            rows.append({"index": index, "turn": turn, "prompt_tokens": 100 * turn, "output_tokens": 20, "ttft_s": ttft, "tpot_s": 0.01,
                         "total_s": ttft + 0.19, "article_tps": 20 / (ttft + 0.19)})
    return pd.DataFrame(rows)


TALKS = Talks(3, 1000, 20, cache="alternate")


def test_new_tokens_are_those_of_blocks_that_were_not_full():
    rows = turns.label(talk_rows(), TALKS, block=16)
    cached = rows[rows["index"] == 0]
    assert list(cached["new_tokens"]) == [100, 200 - 112, 300 - 208]  # 119 and 219 tokens computed, in blocks of 16
    assert (rows[rows["cache"] == "cold"]["new_tokens"] == rows[rows["cache"] == "cold"]["prompt_tokens"]).all()
    assert turns.hits(rows) == 4 * (112 + 208)


def test_a_round_that_was_cut_off_is_left_out():
    rows = turns.label(talk_rows().iloc[:-1], TALKS)
    assert set(rows["round"]) == {0} and len(rows) == 12
    assert len(turns.label(talk_rows().iloc[:-1], TALKS, whole=False)) == 23


def test_a_series_too_short_for_a_round_says_so():
    with pytest.raises(UserError, match="before a round of four conversations of 3 turns was whole"):
        turns.label(talk_rows(1).iloc[:-1], TALKS)


@given(st.floats(0.1, 0.9))
def test_the_gain_is_found_again(factor):
    gain = turns.gain(turns.label(talk_rows(5, factor), TALKS))
    assert gain.ratio.value == pytest.approx(factor) and gain.verdict == "faster" and gain.ratio.n == 5


def test_the_first_turn_gains_nothing():
    table = turns.by_turn(turns.label(talk_rows(), TALKS))
    assert list(table["turn"]) == [1, 2, 3] and table["cached / cold"].iloc[0].startswith("1 ")
    assert table["TTFT cached, ms"].iloc[2] == pytest.approx(table["TTFT cold, ms"].iloc[2] / 2)


def test_a_conversation_occupies_its_stream_while_its_user_thinks():
    def row(index, turn, sent, done):
        return {"index": index, "turn": turn, "sent": sent, "done": done}
    rows = pd.DataFrame([row(0, 1, 0.0, 1.0), row(0, 2, 5.0, 6.0), row(1, 1, 2.0, 3.0), row(1, 2, 8.0, 9.0)])
    assert metrics.steady_window(rows, 2) == (2.0, 6.0)
    assert np.isnan(metrics.steady_window(rows.assign(turn=np.nan), 2)[0]), "as single requests, two were never in flight"


def test_the_article_s_table_stands_beside_its_own_figures():
    from lib import claims
    table = turns.article_table({"here": turns.label(talk_rows(), TALKS)}, claims.article())
    assert list(table["figure"]) == ["TTFT, ms", "article's speed, tokens/s", "whole time, ms"]
    assert table.iloc[0, 1] == "380 (210 to 650)"
