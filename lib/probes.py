"""Seeded questions about seeded pictures, put to any server, judged by rules, and counted with an interval.

    asked = questions(["describe", "number", "pair"], n=50, seed=1)
    await load.run(server, path, "probes", requests(asked), 8)
    rows = judged(asked, path)
    accuracy(rows)        # a row per kind: n, correct, failed, share, low, high

The same probes run unchanged against the embedded model and the published Qwen3-VL.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lib import images, judging, phrases, records, rundir, stats
from lib.client import Request
from lib.foreign import clean

# Kind of probe -> (kind of picture, question). 'pair', 'chinese' and 'follow_up' are put together below.
SIMPLE = {"describe": ("shape", "describe"), "color": ("shape", "color"), "shape": ("shape", "shape"),
          "background": ("shape", "background"), "position": ("shape", "position"), "number": ("number", "number"),
          "word": ("word", "word"), "letters": ("letters", "word"), "count": ("count", "count"), "receipt": ("receipt", "total")}
KINDS = ("describe", "number", "word", "count", "pair", "chinese", "follow_up")
ALL_KINDS = (*KINDS, "color", "shape", "background", "position", "letters", "receipt", "pair_count")
UNTRAINED = "**Not judged:** the weights are random, so that a right answer would be luck and a wrong one no fault."
PAIR_ASKS = ("pair_color", "pair_shape", "pair_background", "pair_number")
SIZES = ((128, 128), (224, 224), (256, 192), (320, 240), (448, 336))


@dataclass
class Probe:
    """One question: what is sent, and what would be right."""
    kind: str
    seed: int
    lang: str
    ask: str
    question: str
    answer: str  # the canonical right answer, to show
    facts: dict
    pictures: list[images.Picture]
    messages: list[dict]


def questions(kinds: Iterable[str] = KINDS, n: int = 20, seed: int = 0, size: tuple[int, int] | None = None,
              grey: bool = False, format: str | None = None) -> list[Probe]:
    """n probes of each kind, the same for the same arguments.

    kinds: of ALL_KINDS. size: (width, height) of every picture; None draws from SIZES. grey: the control, every
    picture replaced by a uniform grey one of its size. format: 'png' or 'jpeg'; None draws.
    """
    probes = []
    for kind in kinds:
        for number in range(n):
            rng = random.Random(f"probe/{kind}/{seed}/{number}")
            # Seeds stay below the training seeds, whatever `seed` is.
            probes.append(_probe(kind, rng.randrange(images.TRAINING_SEEDS), rng, size or rng.choice(SIZES),
                                 grey, format or rng.choice(("png", "jpeg"))))
    return probes


def _probe(kind: str, seed: int, rng: random.Random, size, grey: bool, format: str) -> Probe:
    wording, lang, history = rng.randrange(100), "en", []
    if kind in ("pair", "pair_count"):
        name = "pair_count" if kind == "pair_count" else rng.choice(PAIR_ASKS)
        one, two, facts = images.make_pair(seed, size, name, format)
        pictures = [one, two]
    else:
        if kind == "chinese":
            lang = "zh"
            picture_kind, name = SIMPLE[rng.choice(("describe", "color", "number", "word", "count"))]
        elif kind == "follow_up":
            picture_kind, name, earlier = rng.choice((
                ("shape", "shape", "background"), ("shape", "color", "background"), ("shape", "position", "color"),
                ("shape", "background", "shape"), ("number", "number", "background"), ("count", "count", "background")))
        elif kind in SIMPLE:
            picture_kind, name = SIMPLE[kind]
        else:
            raise ValueError(f"no such kind of probe: {kind!r}; known: {', '.join(ALL_KINDS)}")
        pictures = [images.make(picture_kind, seed, size, format)]
        facts = pictures[0].facts
        if kind == "follow_up":
            history = [phrases.question(earlier, facts, lang, wording + 1), phrases.answer(earlier, facts, lang)]
    if grey:
        pictures = [images.grey(p) for p in pictures]
    question, answer = phrases.question(name, facts, lang, wording), phrases.answer(name, facts, lang)
    first = [{"type": "image_url", "image_url": {"url": images.data_url(p)}} for p in pictures]
    turns = [question] if not history else [*history, question]
    messages = [{"role": "user", "content": first + [{"type": "text", "text": turns[0]}]}]
    messages += [{"role": ("assistant", "user")[k % 2], "content": turn} for k, turn in enumerate(turns[1:])]
    return Probe(kind, seed, lang, name, question, answer, facts, pictures, messages)


def own(folder_pictures: Sequence[images.Picture]) -> list[Probe]:
    """Probes of the user's pictures: one for each question in answers.yaml."""
    return [Probe("own", 0, q.lang, "own", q.question, q.answer, {}, [picture], [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": images.data_url(picture)}}, {"type": "text", "text": q.question}]}])
        for picture in folder_pictures for q in picture.own_questions]


def refused(asked: Sequence[Probe], rows: Sequence[dict]) -> list[str]:
    """A line for each probe that the server did not answer, too large a picture among them: which, and what it said."""
    return [clean(f"{', '.join(p.name for p in probe.pictures)}: {row['message']}")
            for probe, row in zip(asked, rows) if row["error"]]


def judge(probe: Probe, text: str | None) -> bool:
    """Whether a reply answers the probe correctly."""
    return judging.correct(probe.ask, probe.facts, text or "", probe.answer)


def requests(asked: Sequence[Probe], max_tokens: int = 48) -> list[Request]:
    """What is sent for each probe: lib.load takes it like any other workload."""
    return [Request(probe.messages, max_tokens, fixed_length=False) for probe in asked]


def judged(asked: Sequence[Probe], path: Path) -> list[dict]:
    """Add to each record of a series what was asked, the reply, and whether it is right -> the rows, in the order of `asked`.

    path: what lib.load wrote of `requests(asked)`; it is replaced by these rows. A request that failed is `correct` False,
    and so is one that was not sent any more, because the server was gone.
    """
    sent = {row["index"]: row for row in records.lines(path)[0]}
    unsent = {"error": "refused", "message": "not sent: the server was gone", "text": ""}
    rows = []
    for number, probe in enumerate(asked):
        record = unsent | {"index": number} | sent.get(number, {})
        reply = None if record["error"] else record["text"]
        rows.append(record | {
            "kind": probe.kind, "picture": probe.pictures[0].kind, "seed": probe.seed, "lang": probe.lang, "ask": probe.ask,
            "size": "x".join(map(str, probe.pictures[0].size)), "question": probe.question, "expected": probe.answer,
            "reply": reply, "correct": reply is not None and judge(probe, reply)})
    rundir.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return rows


def redrawn(row: dict) -> list[images.Picture]:
    """The pictures of a row of `judged`, drawn again from its seed; none where they were somebody's own, or the row was changed."""
    try:
        size = tuple(int(side) for side in row["size"].split("x"))
        if row["kind"] == "own":
            return []
        if row["ask"] in (*PAIR_ASKS, "pair_count"):
            return list(images.make_pair(row["seed"], size, row["ask"])[:2])
        return [images.make(row.get("picture") or SIMPLE[row["kind"]][0], row["seed"], size)]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def wrong_first(rows: Sequence[dict], most: int = 12) -> list[int]:
    """Which rows to show: the wrong ones first, then one right one of each kind, `most` in all."""
    wrong = [k for k, row in enumerate(rows) if not row.get("correct")]
    right = list({row["kind"]: k for k, row in enumerate(rows) if row.get("correct")}.values())
    return (wrong[: max(0, most - len(right))] + right)[:most]


def accuracy(rows: Sequence[dict], by: str | list[str] = "kind") -> pd.DataFrame:
    """Per kind (or other columns): n, correct, failed, share, and the 95 % Wilson interval low to high.

    A failed request counts as a question not answered correctly.
    """
    frame = pd.DataFrame(rows, columns=None if rows else ["kind", "correct", "error"])
    grouped = frame.assign(failed=frame["error"].notna()).groupby(by, sort=False)
    table = grouped.agg(n=("correct", "size"), correct=("correct", "sum"), failed=("failed", "sum"))
    table["share"] = table["correct"] / table["n"]
    shares = [stats.share(int(c), int(n)) for c, n in zip(table["correct"], table["n"])]
    table["low"], table["high"] = [s.low for s in shares], [s.high for s in shares]
    return table
