"""The embedded model really sees: right with its pictures, at chance without them."""
import asyncio

import pytest

from lib import gallery, probes


def share_right(server, asked) -> float:
    async def once():
        async with server.client() as client:
            return await probes.ask(client.openai, server.model, asked, concurrency=8)

    rows = asyncio.run(once())
    assert [row["error"] for row in rows] == [None] * len(asked)
    return sum(row["correct"] for row in rows) / len(rows)


def test_it_answers_questions_about_pictures_it_has_never_seen(server):
    assert share_right(server, probes.questions(n=15, seed=77)) > 0.85


def test_it_is_at_chance_when_the_pictures_are_grey(server):
    asked = probes.questions(["describe", "number", "word", "count"], n=15, seed=77, grey=True)
    assert share_right(server, asked) < 0.1


@pytest.mark.parametrize("reply", ["<script>alert(1)</script>", "<img src=http://evil.example/x>", "[x](javascript:1)", "a" * 100_000])
def test_a_reply_is_shown_as_text_whatever_it_holds(reply):
    asked = probes.questions(["describe"], n=1)
    shown = gallery.show(asked, [{"error": None, "reply": reply, "correct": False}]).data
    assert "<script" not in shown and "<img src=http" not in shown
    assert shown.count("<img ") == 1
