"""Measures this workbook's client beside the others on the metronome, each on processors of its own.

    python -m benchmarks --quick
    python -m benchmarks --clients raw,ours,vllm --streams 64,256
"""
import argparse
import json
import os
import signal
import sqlite3
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pandas as pd

from benchmarks import errors, measure, metronome, table
from benchmarks.clients import CLIENTS, Client, Load
from benchmarks.measure import Unavailable
from lib import OUTPUTS, ROOT, machine, records
from lib.progress import progress

STREAMS = (8, 32, 64, 128, 256, 1024)  # 32 and 128 are for the table of fidelity
ROUNDS = {8: 8, 32: 16, 64: 8, 128: 6}  # requests a stream; 4 otherwise. A p99 in the steady window takes 368 requests
LONG_STREAMS = 1024


def step_ms(streams: int) -> float:
    """A metronome sends some 50,000 tokens/s on one core: more streams, longer steps."""
    return 5.0 if streams <= 256 else 50.0


def processors() -> tuple[int, list[int]]:
    """That of the metronome, and those for clients: others, and no second thread of the same core."""
    usable = sorted(os.sched_getaffinity(0))
    try:
        siblings = Path(f"/sys/devices/system/cpu/cpu{usable[0]}/topology/thread_siblings_list").read_text()  # "0-1,8"
        ranges = [[int(end) for end in part.split("-")] for part in siblings.split(",")]
        shared = {cpu for ends in ranges for cpu in range(ends[0], ends[-1] + 1)}
    except (OSError, ValueError):
        shared = {usable[0]}
    return usable[0], [cpu for cpu in usable if cpu not in shared] or usable[1:] or usable


class Benchmark:
    """One run: its folder, its rows, and what there is to say beside them."""

    def __init__(self, folder: Path, tokens: int):
        self.folder, self.tokens = folder, tokens
        self.rows: list[dict] = []
        self.notes: list[str] = []
        self.metronome_cpu, self.cpus = processors()
        self.processes = max(2, len(self.cpus))

    def title(self, client: Client) -> str:
        return client.title.format(processes=self.processes)

    def skip(self, what: str, reason) -> None:
        self.notes.append(f"skipped: {what}: {reason}")
        print(self.notes[-1], flush=True)

    def available(self, clients: list[Client]) -> dict[Client, Path]:
        """Those that can run here, each with its interpreter; a line for each that cannot."""
        found = {}
        for client in clients:
            try:
                found[client.name] = client.python()
            except Unavailable as reason:
                self.skip(self.title(client), reason)
        return found

    def measure(self, client: Client, python: Path, streams: int, count: int, seconds: float | None = None) -> dict | None:
        """Run one client once -> its row, also kept in `rows`; None and a line if it failed."""
        step = step_ms(streams)
        folder = self.folder / f"{streams}-{client.name}{'-long' if seconds else ''}"
        folder.mkdir(parents=True)
        every = client.name == "ours-all"
        load = Load("", streams, count, self.tokens, self.processes if every else 1, folder, seconds)
        limit_s = 120 + (seconds or 15 * count * self.tokens * step / 1000 / streams)
        name = f"{streams:,} streams, step {step:g} ms: {self.title(client)}"
        began, watched = time.monotonic(), sys.stderr.isatty()
        if not watched:
            print(f"{name} …", flush=True)
        try:
            with progress(None, name, quiet=not watched) as bar, metronome.running(step, self.metronome_cpu) as server:
                load = replace(load, url=server.url)
                usage = measure.run(client.command(python, load), self.cpus if every else self.cpus[:1], server,
                                    client.environment(), folder / "log.txt", limit_s, lambda: bar.update(0))
                truth = metronome.truth(server.url, None if seconds else count)
                found, reported = client.read(load)
        except Unavailable as reason:
            return self.skip(name, reason)
        except (OSError, LookupError, ValueError, TypeError, StopIteration, sqlite3.Error, httpx2.HTTPError) as fault:
            return self.skip(name, f"its results cannot be read ({fault!r:.160})")
        truth.drop(columns=["at", "itl_ms"]).to_csv(folder / "truth.csv", index=False)
        pd.DataFrame(usage.watched, columns=measure.WATCHED).to_csv(folder / "usage.csv", index=False)
        asked = len(truth) if seconds else count
        row = {"streams": streams, "step_ms": step, "client": client.name, "title": self.title(client), "seconds": seconds,
               "requests": len(truth), "failed": asked - len(found), "reported_tokens_per_s": reported}
        row |= errors.compare(streams, truth, found, usage)
        self.rows.append(row)
        print(f"{name}: {row['tokens_per_s']:,.0f} tokens/s, {row['failed']} failed, {time.monotonic() - began:.0f} s",
              flush=True)
        if client.name == "ours":
            self._ours(load)
        if seconds:
            self._long(load, truth, row, usage)
        return row

    def _ours(self, load: Load) -> None:
        """What only this client's records tell: its error token by token, and what it thinks of itself."""
        name = f"{load.streams:,} streams{f' for {load.seconds:g} s' if load.seconds else ''}"
        frame = records.read(load.folder / "rows.jsonl")
        frame = frame[frame["error"].isna() & (frame["sent_at"].str.len() > 0)]
        late = [(reads[:, 0] - sent) * 1000 for reads, sent in zip(frame["reads"], frame["sent_at"])]
        late = np.concatenate([np.array([]), *late])
        verdict = json.loads(load.result.read_text())["verdict"]
        if len(late):
            self.notes.append(f"{name}: this client stamps a token {np.median(late):.3f} ms after it was sent (median; p99 "
                              f"{np.quantile(late, 0.99):.2f} ms, {len(late):,} tokens); its own verdict: {verdict}")

    def _long(self, load: Load, truth: pd.DataFrame, row: dict, usage) -> None:
        counted = int(records.read(load.folder / "rows.jsonl")["output_tokens"].sum())
        began = truth["arrived"].iloc[0]
        early, late = (usage.at(began + load.seconds * part, "resident_mib") for part in (1 / 3, 1))
        self.notes.append(
            f"{load.streams:,} streams for {load.seconds:g} s: {len(truth):,} requests, {row['failed']} failed, "
            f"{row['sent_tokens'] - counted:,} of {row['sent_tokens']:,} tokens lost; memory {early:.0f} MiB after "
            f"{load.seconds / 3:.0f} s, {late:.0f} MiB after {load.seconds:.0f} s; TPOT error {row['tpot_error_pct']:.2f} %")

    def finish(self) -> str:
        """The table, kept in the folder."""
        if not self.rows:
            return "\n".join(["nothing was measured", *self.notes])
        frame = table.with_shares(self.rows)
        about = [f"{machine.processor()}; metronome on processor {self.metronome_cpu}, clients on one other"
                 + (f", all processes of this client on {len(self.cpus)}" if len(self.cpus) > 1 else "")
                 + f"; about 100 tokens in, {self.tokens} out"]
        if "ours-all" in set(frame["client"]) and len(self.cpus) < self.processes:
            about.append(f"{self.processes} processes of this client shared {len(self.cpus)} processor: more there were not")
        markdown = table.text(frame, about + table.reached(frame) + table.never_reached(frame) + self.notes)
        table.keep(self.folder, frame, markdown)
        return markdown


def stream_numbers(words: str) -> list[int]:
    found = [int(word) for word in words.split(",")]
    if min(found) < 1:
        raise ValueError
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__.split("\n")[0])
    parser.add_argument("--clients", default=",".join(CLIENTS), help=f"of {', '.join(CLIENTS)}")
    parser.add_argument("--streams", type=stream_numbers, default=list(STREAMS), help="numbers of streams")
    parser.add_argument("--rounds", type=int, help="requests a stream, in place of 4 to 16")
    parser.add_argument("--tokens", type=int, default=200, help="of each reply")
    parser.add_argument("--long", type=float, default=60, metavar="S", help="seconds of the run at 1,024 streams; 0: none")
    parser.add_argument("--quick", action="store_true", help="8 and 64 streams, 3 rounds each: does everything work?")
    parser.add_argument("--out", type=Path, help="where the outputs go, in place of outputs/benchmarks/<time>")
    asked = parser.parse_args()
    if unknown := set(asked.clients.split(",")) - set(CLIENTS):
        parser.error(f"unknown clients: {', '.join(sorted(unknown))}; there are {', '.join(CLIENTS)}")
    if asked.quick:
        asked.streams, asked.rounds, asked.long = [8, 64], asked.rounds or 3, 0
    folder = (asked.out or OUTPUTS / "benchmarks" / time.strftime("%Y-%m-%d-%H%M%S")).resolve()
    if folder.exists():
        parser.error(f"{asked.out} exists: name a folder that does not, or leave --out away")
    folder.mkdir(parents=True)
    for ended in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ended, lambda *_: sys.exit(143))  # so that what was started is ended
    run = Benchmark(folder, asked.tokens)
    clients = [CLIENTS[name] for name in dict.fromkeys(asked.clients.split(","))]
    try:
        pythons = run.available(clients)
        os.sched_setaffinity(0, {run.metronome_cpu})  # what watches does not take the clients' time
        for streams in dict.fromkeys(asked.streams):
            for client in clients:
                if client.name in pythons:
                    run.measure(client, pythons[client.name], streams, streams * (asked.rounds or ROUNDS.get(streams, 4)))
        if asked.long and "ours" in pythons:
            run.measure(CLIENTS["ours"], pythons["ours"], LONG_STREAMS, 0, asked.long)
    except KeyboardInterrupt:
        run.notes.append("cut off by Ctrl-C: this is what was measured until then")
    print(f"\n{run.finish()}")
    print(f"raw outputs, table.md and table.csv: {folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}")
    return 0 if run.rows else 1


if __name__ == "__main__":
    sys.exit(main())
