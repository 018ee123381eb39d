"""Workloads of requests with pictures: sizes, numbers, formats, repeats; and what making them cost this client.

A `Batch` is measured like any workload and then joined with what is known of its requests:

    batch = sizes([(224, 224), (1024, 768)], each=10)
    rows = batch.join(await desk.measure("sizes", batch.requests))

Pictures show the same at the same seed. A few pixels in a corner are new in every request, so that no server has seen
a picture before, unless it is meant to be seen again; and each request carries a salt of its own (vLLM's
`cache_salt`), so that no two share a prefix, unless they are meant to.
"""
import base64
import math
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from lib import images, judging, pixels, probes, stats, tables
from lib.client import Request
from lib.foreign import clean
from lib.series import Series
from lib.stats import Estimate
from lib.unseen import unseen

JPEG = "jpeg"


@dataclass
class Batch:
    """Requests in the order of sending, and a row about each in `about`."""

    requests: list[Request] = field(default_factory=list)
    about: list[dict] = field(default_factory=list)
    nonce: str = field(default_factory=lambda: secrets.token_hex(4))

    def __len__(self):
        return len(self.requests)

    def add(self, pictures: Sequence[images.Picture], question: images.Question, max_tokens: int, *, fixed: bool = True,
            salt: str | None = None, text: str | None = None, **about) -> None:
        """One request about some pictures. `text`: in place of the question. `about`: further columns of its row."""
        cost = [_encoded(picture) for picture in pictures]
        content = [{"type": "image_url", "image_url": {"url": url}} for url, _, _ in cost]
        content.append({"type": "text", "text": text or question.question})
        salt = salt or f"{self.nonce}-{len(self.requests)}"
        self.requests.append(Request([{"role": "user", "content": content}], max_tokens, fixed_length=fixed,
                                     extra={"cache_salt": salt}))
        self.about.append({
            "pictures": len(pictures), "pixels": sum(p.size[0] * p.size[1] for p in pictures),
            "size": "×".join(map(str, pictures[0].size)) if pictures else "none",
            "file_kb": sum(len(p.data) for p in pictures) / 1000, "wire_kb": sum(len(url) for url, _, _ in cost) / 1000,
            "encode_ms": sum(ms for _, ms, _ in cost), "base64_ms": sum(ms for _, _, ms in cost),
            "question": question, "facts": pictures[0].facts if pictures else {}} | about)

    def fresh(self, kind: str, seed: int, size: tuple[int, int], format: str = JPEG, quality: int = 85) -> images.Picture:
        """A drawn picture that no server has seen."""
        return self.unseen(images.make(kind, seed, size, format, quality))

    def unseen(self, picture: images.Picture) -> images.Picture:
        """A copy that differs a little from what any server has seen."""
        return unseen(picture, f"{self.nonce}/{len(self.requests)}")

    def join(self, series: Series, whole: bool = False) -> pd.DataFrame:
        """The measured rows with what is known of their requests. `whole`: all that were answered, start and drain too."""
        rows = series.frame[series.frame["error"].isna()] if whole else series.measured
        return rows.merge(pd.DataFrame(self.about), left_on="index", right_index=True)


def _encoded(picture: images.Picture) -> tuple[str, float, float]:
    """Its data URL, and how long encoding and base64 took, ms."""
    began = time.perf_counter()
    data = picture.data = images.encode(picture.image, picture.format, picture.quality)
    encoded = time.perf_counter()
    url = f"data:{picture.mime};base64,{base64.b64encode(data).decode()}"
    return url, (encoded - began) * 1000, (time.perf_counter() - encoded) * 1000


def _describe(picture: images.Picture) -> images.Question:
    return images.ask(picture, "describe")


def article(count: int, max_tokens: int, seed: int, size: tuple[int, int] = (1024, 768)) -> Batch:
    """The article's case: one 1024×768 JPEG in a request, an answer of a fixed length."""
    batch = Batch()
    for number in range(count):
        picture = batch.fresh("shape", seed * 1000 + number, size)
        batch.add([picture], _describe(picture), max_tokens)
    return batch


WITH, WITHOUT = "with a picture", "without a picture"


def beside_none(rounds: int, max_tokens: int, seed: int, size: tuple[int, int] = (1024, 768)) -> Batch:
    """The article's case and the same question without a picture, one of each in a round (columns `round`, `variant`). What
    comes first changes from round to round: a machine that slows down meets both alike."""
    batch = Batch()
    for number in range(rounds):
        picture = batch.fresh("shape", seed * 1000 + number, size)
        for variant in (WITHOUT, WITH) if number % 2 else (WITH, WITHOUT):
            batch.add([picture] if variant == WITH else [], _describe(picture), max_tokens, round=number, variant=variant)
    return batch


def sizes(of: list[tuple[int, int]], each: int, seed: int, max_tokens: int = 2) -> Batch:
    """`each` requests of every size, in blocks that hold each size once, in a drawn order: drift meets all alike."""
    batch, rng = Batch(), random.Random(f"sizes/{seed}")
    for block in range(each):
        for size in rng.sample(of, len(of)):
            picture = batch.fresh("shape", seed * 1000 + block, size)
            batch.add([picture], _describe(picture), max_tokens, block=block)
    return batch


def numbers(of: list[int], each: int, seed: int, size: tuple[int, int], twins: dict[int, str], max_tokens: int = 8) -> Batch:
    """Requests with 0, 1, 2 … pictures, and beside them `twins`: text that fills as many prompt tokens (number of
    pictures -> text). Column `variant`."""
    batch, rng = Batch(), random.Random(f"numbers/{seed}")
    for block in range(each):
        for number, twin in rng.sample([(n, False) for n in of] + [(n, True) for n in twins], len(of) + len(twins)):
            pictures = [batch.fresh("shape", seed * 1000 + block * 10 + k, size) for k in range(0 if twin else number)]
            question = images.Question("describe", "en", "What do you see?", "")
            batch.add(pictures, question, max_tokens, block=block, number=number, text=twins[number] if twin else None,
                      variant=f"text of {number} picture{'s' * (number > 1)}" if twin else
                      f"{number or 'no'} picture{'s' * (number != 1)}")
    return batch


def formats(of: list[tuple[str, int]], each: int, seed: int, size: tuple[int, int], max_tokens: int = 16) -> Batch:
    """The same pictures of numbers as PNG and as JPEG of several qualities (format, quality); answers can be judged."""
    batch, rng = Batch(), random.Random(f"formats/{seed}")
    for block in range(each):
        for format, quality in rng.sample(of, len(of)):
            picture = batch.fresh("number", seed * 1000 + block, size, format, quality)
            name = "PNG" if format == "png" else f"JPEG {quality}"
            batch.add([picture], images.ask(picture, "number"), max_tokens, fixed=False, block=block, format=name)
    return batch


FRESH, SEEN, SAME = "a fresh picture", "a seen picture, new prefix", "the same prompt again"


def repeats(rounds: int, seed: int, size: tuple[int, int], max_tokens: int = 8) -> Batch:
    """A fresh picture, one seen before, and the whole prompt again, there and back: A B C C B A. The first request,
    which shows the picture that is seen again, belongs to no round (column `round` −1)."""
    batch = Batch()
    known = batch.fresh("shape", seed * 1000 + 999, size)
    same = f"{batch.nonce}-same"
    batch.add([known], _describe(known), max_tokens, salt=same, round=-1, variant="first")
    for number in range(rounds):
        for half, variant in enumerate((FRESH, SEEN, SAME, SAME, SEEN, FRESH)):
            picture = batch.fresh("shape", seed * 1000 + 2 * number + half // 3, size) if variant == FRESH else known
            batch.add([picture], _describe(known), max_tokens, salt=same if variant == SAME else None, round=number,
                      variant=variant)
    return batch


def reading(count: int, seed: int, size: tuple[int, int] = (448, 336), max_tokens: int = 24) -> Batch:
    """Print to be read: numbers, words and receipts in turn, as JPEG. Answers end by themselves and can be judged."""
    batch = Batch()
    for number in range(count):
        kind, ask = (("number", "number"), ("word", "word"), ("receipt", "total"))[number % 3]
        picture = batch.fresh(kind, seed * 100_000 + number, size)
        batch.add([picture], images.ask(picture, ask, wording=number), max_tokens, fixed=False, kind=kind)
    return batch


def own(pictures: list[images.Picture], each: int, max_tokens: int = 32) -> Batch:
    """The user's pictures under their own first question, or asked for a description, `each` times."""
    batch = Batch()
    for block in range(each):
        for picture in pictures:
            question = (picture.own_questions or [images.Question("describe", "en", "Describe the picture.", "")])[0]
            batch.add([batch.unseen(picture)], question, max_tokens, fixed=False, block=block, name=picture.name)
    return batch


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Joined rows with the column `right`; None where there is no right answer to know."""
    return rows.assign(right=[judging.correct(q.ask, facts, text or "", q.answer) if q.answer else None
                              for q, facts, text in zip(rows["question"], rows["facts"], rows["text"])])


def refused(batch: Batch, series: Series) -> list[str]:
    """A line for each of the user's pictures that the server did not answer: which, and what it said."""
    failed = series.frame[series.frame["error"].notna()]
    return sorted({clean(f"{batch.about[int(k)]['name']}: {message}") for k, message in zip(failed["index"], failed["message"])})


# -- tables -------------------------------------------------------------------------------------------
def expected(of: list[tuple[int, int]], processor: pixels.Processor) -> pd.DataFrame:
    """What each size should become in the prompt."""
    return pd.DataFrame([{
        "size": f"{w}×{h}", "pixels": w * h, "seen as": "×".join(map(str, pixels.resized(w, h, processor))),
        "picture tokens": pixels.tokens(w, h, processor)} for w, h in of])


def with_picture_tokens(rows: pd.DataFrame, processor: pixels.Processor) -> pd.DataFrame:
    """Rows of `sizes` with `predicted` picture tokens and `picture_tokens`: those of the prompt beyond what all
    prompts have (the smallest difference between prompt and prediction)."""
    predicted = rows["size"].map(lambda s: pixels.tokens(*map(int, s.split("×")), processor))
    return rows.assign(predicted=predicted, picture_tokens=rows["prompt_tokens"] - (rows["prompt_tokens"] - predicted).min())


def article_table(rows: pd.DataFrame, claimed: pd.DataFrame, memory: pd.DataFrame) -> pd.DataFrame:
    """The article's three figures of a request with a picture beside those seen here: mean, lowest, highest."""
    def seen(values, mean):
        return {"here, mean": tables.number(mean), "here, range": f"{tables.number(values.min())} to {tables.number(values.max())}"}
    ttft, speed = rows["ttft_s"].dropna(), rows["article_tps"].dropna()
    here = {"ttft_s": seen(ttft, ttft.mean()), "article_tps": seen(speed, stats.rate_mean(speed).value),
            "gpu_memory": {"here, mean": tables.number(memory["more, GB"].sum()) if len(memory) else "no GPU to ask", "here, range": "–"}}
    return pd.DataFrame([{
        "figure": f"{claim['claim']}, {claim['unit']}", f"article, {claim['hardware']}": tables.number(claim["mean"])
        if claim["mean"] == claim["mean"] else f"{claim['low']} to {claim['high']}"} | here[metric]
        for metric, claim in claimed.iterrows() if metric in here])


def gpu_memory(series: Series) -> pd.DataFrame:
    """A row a GPU: its memory before, at most during, and after a series, GB (10⁹ bytes); empty where there is none. vLLM
    takes its share when it starts, so that what a picture needs shows only where that share was too small."""
    columns = [c for c in series.samples if c.endswith(".memory_gib")]
    gib = series.samples[columns].dropna() * 1.073741824
    return pd.DataFrame([{"GPU": c.split(".")[0], "before, GB": gib[c].iloc[0], "most during, GB": gib[c].max(),
                          "after, GB": gib[c].iloc[-1], "more, GB": gib[c].max() - gib[c].iloc[0]} for c in columns if len(gib)])


def publish_memory(desk, series: Series, memory: pd.DataFrame) -> None:
    """Enter what requests with a picture took of all GPUs' memory beyond what was taken before; nothing without a GPU."""
    if len(memory):
        more = Estimate(float(memory["more, GB"].sum()), math.nan, math.nan, len(series.measured))
        desk.run.publish("pictures_article.gpu_memory", "GPU memory beyond that before the first, most", more, "GB", "valid", desk.notebook,
                         series.name, formula="most during − before")


def cost_of_formats(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a format: bytes, what making them cost this client, TTFT, right answers."""
    groups = judged(rows).groupby("format")
    found = groups.agg(file_kb=("file_kb", "mean"), wire_kb=("wire_kb", "mean"), encode_ms=("encode_ms", "median"),
                       base64_ms=("base64_ms", "median"), ttft=("ttft_s", "median"), right=("right", "sum"), n=("right", "size"))
    return pd.DataFrame({
        "format": found.index, "file, kB": found["file_kb"], "on the wire, kB": found["wire_kb"],
        "wire / file": found["wire_kb"] / found["file_kb"], "encode, ms": found["encode_ms"], "base64, ms": found["base64_ms"],
        "TTFT, ms": found["ttft"] * 1000, "right": [f"{r} of {n}" for r, n in zip(found["right"], found["n"])],
    }).sort_values("file, kB")


def pictures_per_s(series: Series) -> Estimate:
    """Pictures answered a second, from a series' first request to its last answer, start and drain included. Since that is
    streams / mean whole time (Little), its interval is as wide as that of the mean whole time."""
    rows = series.frame[(series.frame["phase"] == "measure") & series.frame["error"].isna()]
    rate, whole = len(rows) / (rows["done"].max() - rows["sent"].min()), stats.mean(rows["total_s"])
    return Estimate(rate, rate * whole.value / whole.high, rate * whole.value / whole.low, len(rows), whole.effective_n)


def under_load(measured: dict[int, Series]) -> pd.DataFrame:
    """A row a number of streams: pictures/s, tokens/s, TTFT, whole time."""
    found = []
    for streams, series in measured.items():
        rows, rate = series.measured, pictures_per_s(series)
        found.append({"streams": streams, "requests": len(rows), "pictures/s": rate.value,
                      "95 % interval": f"{tables.number(rate.low)} to {tables.number(rate.high)}",
                      "TTFT, ms": rows["ttft_s"].median() * 1000, "TPOT, ms": rows["tpot_s"].median() * 1000,
                      "whole time, ms": rows["total_s"].median() * 1000})
    return pd.DataFrame(found)


def of_own(rows: pd.DataFrame) -> pd.DataFrame:
    """The user's pictures: a row each, with what it cost and what was answered."""
    first = judged(rows).drop_duplicates("name")
    ttft = rows.groupby("name")["ttft_s"].median() * 1000
    return pd.DataFrame({
        "picture": first["name"], "size": first["size"], "prompt tokens": first["prompt_tokens"], "on the wire, kB": first["wire_kb"],
        "TTFT, ms": first["name"].map(ttft), "question": [q.question for q in first["question"]], "answer": first["text"],
        "right": ["–" if r is None else "yes" if r else "NO" for r in first["right"]]})


def wrong_first(asked: list[probes.Probe], rows: list[dict], most: int = 12) -> tuple[list[probes.Probe], list[dict]]:
    """Probes and rows to show: the wrong ones first, then one right one of each kind, `most` in all."""
    chosen = probes.wrong_first(rows, most)
    return [asked[k] for k in chosen], [rows[k] for k in chosen]
