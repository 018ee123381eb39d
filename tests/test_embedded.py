"""The embedded model really sees: right with its pictures, at chance without them."""
import asyncio
import subprocess
import sys

import nbformat
import pytest

from lib import NOTEBOOKS, gallery, images, load, probes
from lib.client import Request
from lib.own_pictures import load_folder


def share_right(server, asked, path) -> float:
    asyncio.run(load.run(server, path, "probes", probes.requests(asked), 8, quiet=True))
    rows = probes.judged(asked, path)
    assert [row["error"] for row in rows] == [None] * len(asked)
    return sum(row["correct"] for row in rows) / len(rows)


def test_it_answers_questions_about_pictures_it_has_never_seen(server, tmp_path):
    assert share_right(server, probes.questions(n=15, seed=77), tmp_path / "rows.jsonl") > 0.85


def test_it_is_at_chance_when_the_pictures_are_grey(server, tmp_path):
    asked = probes.questions(["describe", "number", "word", "count"], n=15, seed=77, grey=True)
    assert share_right(server, asked, tmp_path / "rows.jsonl") < 0.1


@pytest.mark.parametrize("reply", ["<script>alert(1)</script>", "<img src=http://evil.example/x>", "[x](javascript:1)", "a" * 100_000])
def test_a_reply_is_shown_as_text_whatever_it_holds(reply):
    asked = probes.questions(["describe"], n=1)
    shown = gallery.show(asked, [{"error": None, "reply": reply, "correct": False}]).data
    assert "<script" not in shown and "<img src=http" not in shown
    assert shown.count("<img ") == 1


def test_it_answers_about_the_pictures_that_come_with_the_workbook(server, tmp_path):
    folder = load_folder("data/images")
    assert not folder.skipped
    assert share_right(server, probes.own(folder.pictures), tmp_path / "rows.jsonl") > 0.8


def test_the_health_check_asks_about_pictures_of_your_own_and_names_what_it_skips(as_user, run_name, tmp_path):
    good, mine = images.make("shape", 5, (2000, 1500), "jpeg"), tmp_path / "mine"
    mine.mkdir()
    (mine / "whole.jpg").write_bytes(good.data)
    (mine / "cut.jpg").write_bytes(good.data[:9000])
    (mine / "answers.yaml").write_text(f"whole.jpg:\n  - question: What shape is it?\n    answer: {good.facts['shape']}\n")
    done = subprocess.run(
        [sys.executable, "-m", "papermill", NOTEBOOKS / "01_health_check.ipynb", "out.ipynb", "-p", "server", as_user.url,
         "-p", "run_name", run_name, "-p", "questions", "1", "-p", "rush_streams", "8", "-p", "pictures", mine, "--no-progress-bar"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    shown = str(nbformat.read(tmp_path / "out.ipynb", 4))
    assert "1 pictures, 1 questions about them, 1 skipped" in shown and "cut.jpg: truncated" in shown
    assert "of 1 questions were answered" in shown


def test_seeded_requests_whose_prefill_is_cut_do_not_end_the_server_and_answer_as_they_do_alone(server):
    """64 prompts of some 200 tokens are more than one step of the engine takes, so that some are read in parts."""
    todo = [Request([{"role": "user", "content": f"{i} " + "tell me about the world and its many things " * 14}], 8, 0.9, seed=i)
            for i in range(64)]

    async def together():
        async with server.client() as client:
            alone = [await client.chat(request) for request in todo[:4]]
            return alone, await asyncio.gather(*(client.chat(request) for request in todo))

    alone, crowd = asyncio.run(together())
    assert [r.error for r in crowd] == [None] * 64
    assert [r.text for r in crowd[:4]] == [r.text for r in alone]
