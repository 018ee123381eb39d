"""The same questions put to a server again and again: alone, in batches, beside other load, after another start.

Each request is a row in the run folder, written as its answer comes: the tokens' ids, their logprobs and each token's
runner-up, so that two answers can be compared token by token (lib.consistency).

Every request carries a salt (vLLM's `cache_salt`), and its pictures a name made from it (`uuid`), so that neither the
prefix cache nor the caches of pictures know anything of it, unless a salt is used again.
"""
import asyncio
import contextlib
import math
import os
import random
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import numpy as np
import openai
import pandas as pd

from lib import consistency, conversations, launch, machine, patience, probes, reconcile, same_law, stats, telemetry, time_limit
from lib.client import network_fault, server_message
from lib.driver import Drive, Plan
from lib.errors import UserError
from lib.patience import Patience
from lib.progress import progress
from lib.records import Sink
from lib.server import Server
from lib.shapes import Closed
from lib.stats import Estimate
from lib.workloads import Brief

SIZE = (448, 336)  # of the pictures: such a prompt fills at least one block of any prefix cache
OPENINGS = ("Write about learning.", "Tell me something.", "How are you?", "Tell me a story.")
INVARIANT = {"VLLM_BATCH_INVARIANT": "1"}
COLUMNS = ["index", "kind", "prompt", "salt", "temperature", "seed", "sent", "done", "error", "message", "finish", "text", "tokens",
           "logprobs", "runners_up", "right"]
CAPABLE = (9, 0)  # vLLM's documentation of its batch-invariant mode: NVIDIA GPUs of compute capability 9.0 and above


@dataclass(frozen=True)
class Item:
    """One question. `probe`: where the answer can be judged. seed: of the sampling, where temperature is above 0."""

    kind: str
    prompt: str
    messages: list
    max_tokens: int
    probe: probes.Probe | None = None
    temperature: float = 0.0
    seed: int | None = None


def questions(each: int, texts: int, text_tokens: int, seed: int, judged: bool = True) -> list[Item]:
    """`each` question of every kind about pictures, to be judged (not so with random weights), and `texts` that ask for a
    longer text about some material. For greedy answers."""
    items = [Item(p.kind, p.question, p.messages, 48, p if judged else None) for p in probes.questions(n=each, seed=seed, size=SIZE)]
    rng, material = random.Random(f"asking/{seed}"), [line for topic in conversations.dialogues()["en"] for line in topic["material"]]
    for number in range(texts):
        notes = "\n".join(conversations.filled(rng.choice(material), "en", rng) for _ in range(12))
        prompt = f"{number + 1}. What follows from these notes?\n{notes}"
        items.append(Item("text", prompt, [{"role": "user", "content": prompt}], text_tokens))
    return items


def openings(count: int, max_tokens: int, temperature: float, seed: int | None) -> list[Item]:
    """Short questions with many possible answers, in turn. `seed`: each gets one of its own from there on; None: the
    server draws as it likes. Short, because vLLM's CPU engine can die of a seeded prompt that it has to cut."""
    return [Item(OPENINGS[k % len(OPENINGS)], OPENINGS[k % len(OPENINGS)],
                 [{"role": "user", "content": OPENINGS[k % len(OPENINGS)]}], max_tokens, None, temperature,
                 None if seed is None else seed + k) for k in range(count)]


@dataclass
class Asked:
    """One condition's answers. rows: index = the question's number; see `ask`. cached_share: of the prompt tokens, as the
    server counted; None where it does not say."""

    name: str
    rows: pd.DataFrame
    cached_share: float | None
    salt: str


async def ask(desk, name: str, items: list[Item], *, at_once: int = 1, order: int | None = None, salt: str = "",
              server: Server | None = None) -> Asked:
    """Put every question to the server, `at_once` in flight -> the rows, also in the run folder as series `name`.

    order: a seed for another order than the list's. salt: of an earlier `Asked`, to meet what it left in the caches.
    server: another one than the desk's. A request that fails is a row with `error`; when all fail, when the server is given up
    on or the notebook's time is over, UserError says so.
    """
    server, salt = server or desk.server, salt or secrets.token_hex(4)
    path = desk.run.new_requests_file(name)
    numbers = list(range(len(items)))
    if order is not None:
        random.Random(order).shuffle(numbers)
    rows, gate, waits = [], asyncio.Semaphore(at_once), Patience(at_once)
    async with telemetry.watch(server, path.with_suffix(".telemetry.jsonl")) as watched:
        with progress(len(items), name, "questions") as bar, Sink(path) as sink:
            async with server.client() as client:

                async def one(number: int) -> None:
                    async with gate:
                        if waits.over(time.monotonic()):
                            return
                        rows.append(await _one(client, items[number], number, f"{salt}-{number}"))
                        waits.heard(rows[-1]["error"], time.monotonic())
                    sink.append(msgspec.json.encode({"series": name} | rows[-1]) + b"\n")
                    bar.update()

                try:
                    async with asyncio.timeout(time_limit.left_s()):
                        await asyncio.gather(*(one(number) for number in numbers))
                except TimeoutError:
                    waits.ending = "time"
    found = reconcile.evidence(watched.happened, watched.frame())
    frame = pd.DataFrame(rows, columns=COLUMNS).set_index("index").sort_index()
    if why := patience.sentence(name, frame, waits.ending):
        raise UserError(why)
    if frame.loc[frame["error"].isna(), "tokens"].isna().any():
        raise UserError("the server gives no token ids with its answers, as vLLM does: its answers cannot be compared token by token")
    return Asked(name, frame, found.cached_share, salt)


def texts(asked: Asked) -> dict[str, list[str]]:
    """kind -> the texts of all answers."""
    good = asked.rows[asked.rows["error"].isna()]
    return {kind: rows["text"].tolist() for kind, rows in good.groupby("kind", sort=False)}


def most_in_flight(asked: Asked) -> int:
    """How many of these questions were in flight together at most."""
    sent, done = np.sort(asked.rows["sent"]), np.sort(asked.rows["done"])
    return int((np.arange(1, len(sent) + 1) - np.searchsorted(done, sent, "right")).max())


async def _one(client, item: Item, number: int, salt: str) -> dict:
    row = dict.fromkeys(COLUMNS) | {"index": number, "kind": item.kind, "prompt": item.prompt, "salt": salt,
                                    "temperature": item.temperature, "seed": item.seed, "sent": time.monotonic()}
    extra = {"cache_salt": salt, "return_token_ids": True, "return_tokens_as_token_ids": True}
    try:
        reply = await client.openai.chat.completions.create(
            model=client.model, messages=_named(item.messages, salt), max_tokens=item.max_tokens, temperature=item.temperature,
            seed=item.seed if item.seed is not None else openai.omit, logprobs=True, top_logprobs=2, extra_body=extra)
        row |= _answer(reply.choices[0])
        row["right"] = probes.judge(item.probe, row["text"]) if item.probe else None
    except openai.APIStatusError as error:
        row |= {"error": "http", "message": f"HTTP {error.status_code}: {server_message(error)}"[:500]}
    except openai.APIConnectionError as error:
        row |= dict(zip(("error", "message"), network_fault(error)))
    except asyncio.CancelledError:  # it was sent, and so it is a row
        row |= {"error": "aborted", "message": "broken off: the notebook's time was over, or it was stopped"}
    except Exception as error:  # whatever went wrong belongs in the row: the other questions go on
        row |= {"error": type(error).__name__, "message": str(error.__cause__ or error)[:500]}
    row["done"] = time.monotonic()
    return row


def _answer(choice) -> dict:
    steps = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    others = [[t for t in step.top_logprobs if t.token != step.token][:1] for step in steps]
    return {"finish": choice.finish_reason, "text": choice.message.content or "",
            "tokens": (choice.model_extra or {}).get("token_ids"), "logprobs": [step.logprob for step in steps],
            "runners_up": [[int(o[0].token.rpartition(":")[2]), o[0].logprob] if o else None for o in others]}


def _named(messages: list, salt: str) -> list:
    """The messages with a name for each picture, under which the server's caches keep it."""
    return [message if isinstance(message["content"], str) else message | {"content": [
        part | ({"uuid": f"{salt}-{k}"} if part["type"] == "image_url" else {}) for k, part in enumerate(message["content"])]}
        for message in messages]


@contextlib.asynccontextmanager
async def beside(desk, name: str, streams: int, seed: int) -> AsyncIterator[None]:
    """Other load while the block runs: `streams` short questions in flight, a series of its own."""
    server, path = desk.server, desk.run.new_requests_file(name)
    drive = Drive(Plan(server.url, server.api_key, server.model, time_limit.silence_s(), name, path, Brief(32, 0.0, seed, name), Closed(streams),
                       None, None, 0, seed))
    await drive.prepare()
    going = asyncio.create_task(drive.run(time.monotonic()))
    try:
        await asyncio.sleep(1.0)  # until all streams have begun
        yield
    except BaseException:
        drive.abort()  # a server that was given up on may never answer
        raise
    finally:
        drive.stop()
        await going


# -- another start ------------------------------------------------------------------------------------
async def after_another_start(desk, plans: dict[str, dict], items: list[Item], env: dict | None = None) -> dict[str, Asked] | str:
    """Start a second server like the desk's, with the same flags, beside it, and ask it: name -> options of `ask`; or in one line
    why there can be none.

    env: what the second server's environment has besides.
    """
    try:
        if not desk.server.spec:
            raise UserError("the server was started elsewhere, and cannot be started again from here")
        if env == INVARIANT:
            check_invariant()
        with _second(desk, env or {}) as server:
            return {name: await ask(desk, name, items, server=server, **options) for name, options in plans.items()}
    except UserError as error:
        return str(error)


def _second(desk, env: dict) -> Server:
    flags = [word for word in desk.server.flags if "***" not in word and word not in launch.SECRET]
    if "--port" in flags:  # the first server has it
        at = flags.index("--port")
        del flags[at:at + 2]
    before = {name: os.environ.get(name) for name in env}
    os.environ |= env  # lib.launch hands it on
    try:
        return launch.open_server(desk.server.spec, flags, desk.run.path / "another_start")
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def check_invariant() -> None:
    """Raises UserError where vLLM's batch-invariant mode cannot be had, with the reason."""
    if machine.serves_on_cpu():
        raise UserError("vLLM's batch-invariant mode is made for GPUs, and vLLM runs on the processor here")
    import pynvml

    found = tuple(pynvml.nvmlDeviceGetCudaComputeCapability(pynvml.nvmlDeviceGetHandleByIndex(0)))
    if found < CAPABLE:
        raise UserError(f"vLLM's batch-invariant mode needs a GPU of compute capability {CAPABLE[0]}.{CAPABLE[1]}; "
                        f"this one has {found[0]}.{found[1]}")


# -- figures ------------------------------------------------------------------------------------------
def enter(desk, alone: Asked, asked: dict[str, Asked]) -> dict[str, pd.DataFrame]:
    """Enter for every condition how many answers are the same as alone, how many keep their meaning, how many are right -> condition
    -> `consistency.compare` with those alone."""
    pairs = {condition: consistency.compare(alone.rows, other.rows) for condition, other in asked.items()}
    for condition, other in {"alone": alone, **asked}.items():
        p, right = pairs.get(condition), other.rows["right"].dropna()
        found = [("right", "right answers", stats.share(int(right.sum()), len(right)), "right / judged answers")]
        if p is not None:
            found += [("same", "the same answer as alone", consistency.same(p), "answers that are equal token by token / answers"),
                      ("meaning", "the same meaning as alone", consistency.kept(p), "right in both, or the same wrong answer / judged")]
        failed = int(other.rows["error"].notna().sum())
        for key, name, share, formula in found:
            if share.n:
                _enter(desk, f"{other.name}.{key}", f"{name}, {condition}", share.scaled(100), "%", f"{formula}, Wilson interval",
                       other.name, failed, table="consistency")
    return pairs


def publish_verdicts(desk, claim: consistency.Claim, law: same_law.SameLaw) -> None:
    """Enter the answer to the article's claim, and whether sampling keeps its shares."""
    if claim.verdict != consistency.UNTOLD:
        _enter(desk, "consistency.batch_same", "questions answered otherwise in a batch, share", claim.differ.scaled(100), "%",
               "questions with another answer in any batch than alone / questions, Wilson interval", "consistency_alone", shown=claim.verdict == consistency.HOLDS)
    _enter(desk, "consistency.openings", "openings of sampled answers alone and in a batch, p", Estimate(law.p, math.nan, math.nan, sum(law.n)), "",
           f"permutation test of chi-square over {law.outcomes} outcomes: below {same_law.SHOWN:.2g} they differ", "openings_alone")


def _enter(desk, figure_id, name, estimate, unit, formula, series, failed=0, **more) -> None:
    verdict = (f"errors: {failed} requests failed" if failed else
               "valid" if estimate.n >= stats.MIN_SAMPLES else f"too few samples: {estimate.n}")
    desk.run.publish(figure_id, name, estimate, unit, verdict, desk.notebook, series, formula=formula, **more)
