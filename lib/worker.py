"""A process that carries out plans of load: `python -m lib.worker FD`, where FD is its end of a pipe.

A notebook's kernel is a poor place to measure from: it talks to a browser, draws and collects garbage in the
same loop. So even one stream is driven from a process that does nothing else. It ends when its pipe does.

    in   Plan | ("go", start_at) | "stop" | "abort"
    out  "ready" | ("rows", [(index, first token s, TPOT s, tokens, error), …]) | ("health", dict) | ("fault", text)
"""
import asyncio
import gc
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection

import uvloop

from lib.driver import Drive, Plan
from lib.records import Record

REPORT_EVERY_S = 0.2


def brief(record: Record) -> tuple:
    """What the parent needs to know of a record at once."""
    began = record.sent if record.scheduled is None else record.scheduled
    ttft = record.first - began if record.first is not None and record.error is None else None
    n = record.output_tokens
    tpot = (record.last - record.first) / (n - 1) if ttft is not None and n > 1 else None
    return record.index, record.phase, ttft, tpot, n, record.error


async def serve(pipe: Connection) -> None:
    """Carry out one plan after another until the pipe is closed."""
    inbox: asyncio.Queue = asyncio.Queue()

    def read():
        try:
            inbox.put_nowait(pipe.recv())
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(pipe.fileno())
            inbox.put_nowait(None)
        except Exception as error:  # a workload of the notebook's own, which this process cannot know
            pipe.send(("fault", f"the workload cannot be handed to a worker ({error}): define it in a module"))

    asyncio.get_running_loop().add_reader(pipe.fileno(), read)
    os.set_blocking(pipe.fileno(), True)  # uvloop has turned it off, and a plan with pictures comes in many pieces
    while (plan := await inbox.get()) is not None:
        if not isinstance(plan, Plan):
            continue  # "stop" to a plan that has just ended
        try:
            if not await _carry_out(plan, pipe, inbox):
                return
        except Exception:  # a fault of ours: said in the parent, which knows the user
            pipe.send(("fault", traceback.format_exc(limit=5)))


async def _carry_out(plan: Plan, pipe: Connection, inbox: asyncio.Queue) -> bool:
    """False when the parent is gone."""
    rows: list[tuple] = []
    drive = Drive(plan, lambda record: rows.append(brief(record)))
    await drive.prepare()
    pipe.send("ready")
    while (word := await inbox.get()) is not None and word[0] != "go":
        if word in ("stop", "abort"):
            await drive.close()
            pipe.send(("health", {}))
            return True
    if word is None:
        await drive.close()
        return False
    running = asyncio.create_task(drive.run(word[1]))
    listening = asyncio.create_task(inbox.get())
    parent = True
    while not running.done():
        await asyncio.wait({running, listening}, timeout=REPORT_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
        if rows and parent:
            pipe.send(("rows", rows.copy()))
            rows.clear()
        if listening.done() and parent:
            word = listening.result()
            parent = word is not None
            drive.stop() if word == "stop" else drive.abort()
            if parent:
                listening = asyncio.create_task(inbox.get())
            else:
                listening = asyncio.create_task(asyncio.Event().wait())
    listening.cancel()
    health = await running
    gc.unfreeze()
    if parent:
        if rows:
            pipe.send(("rows", rows))
        pipe.send(("health", health))
    return parent


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    uvloop.run(serve(Connection(int(sys.argv[1]))))
