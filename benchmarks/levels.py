"""Real servers level by level: several configurations side by side, and this client beside `vllm bench serve`.

    python -m benchmarks.levels --server shape:Qwen3-VL-2B-Instruct --streams 1,8,64,256 --beside \\
        --configuration "default:" --configuration "four API servers: --api-server-count 4"

All servers are started at once and stay up, so each needs room beside the others (--flags goes to all of them), and
one is measured while the others idle. At each level the same number of requests, all streams at once, is sent by this client
and, with --beside, by `vllm bench serve` to the first server, in turn; with --spread this client sends them a second time with
the streams spread out in time, as the workbook's series are, so that new prompts meet answers half-way. The configurations take
turns at each level. Records and levels.json go to outputs/NAME, and a table is printed.
"""
import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import httpx2
import pandas as pd
import psutil

from benchmarks.clients import PROMPT_TOKENS, VLLM
from lib import ROOT, calibration, efficiency, launch, model_shape, reconcile, served, telemetry
from lib.bench import Bench
from lib.errors import UserError
from lib.client import Request
from lib.rundir import RunDir, write_json, write_text
from lib.server import headers
from lib.shapes import Closed
from lib.tables import number

ROUNDS = {1: 10, 8: 8, 64: 6}  # requests a stream, up to so many streams; 4 beyond
LOADS = {"at once": 0.0, "spread out": None}  # what Closed takes as the time over which its streams begin, s
COLUMNS = {"streams": "streams", "load": "load", "configuration": "configuration", "client": "client", "failed": "failed", "tokens_per_s": "tokens/s",
           "steady": "in the steady window", "per_gpu": "per GPU", "times_first": "times the first", "ttft_ms": "TTFT mean, ms",
           "server_ttft_ms": "server's", "tpot_ms": "TPOT mean, ms", "server_tpot_ms": "server's ", "tpot_difference_pct": "TPOT, % off",
           "of_limit_pct": "of the limit, %", "api_cores": "cores: busiest API server", "engine_cores": "engine", "verdict": "verdict"}


def count(streams: int) -> int:
    """Requests of a level."""
    return streams * next((rounds for most, rounds in ROUNDS.items() if streams <= most), 4)


class Peer:
    """`vllm bench serve` in one process that imports vLLM once; each line of its input is the arguments of a run."""

    SERVING = VLLM.replace("main(parser.parse_args())", """
import json, sys
print("ready", flush=True)
for line in sys.stdin:
    try:
        main(parser.parse_args(json.loads(line)))
    except BaseException as error:
        print(f"error {type(error).__name__}: {error}", file=sys.stderr)
    print("\\ndone", flush=True)
""")

    def __init__(self, server, tokenizer: str, folder: Path):
        self.server, self.tokenizer, self.folder, self.ready = server, tokenizer, folder, False
        folder.mkdir(parents=True, exist_ok=True)
        env = os.environ | {"OPENAI_API_KEY": server.api_key or "", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(
            filter(None, [str(ROOT / "lib" / "server_site"), str(ROOT), os.environ.get("PYTHONPATH")]))}
        self.process = subprocess.Popen([sys.executable, "-c", self.SERVING], env=env, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=(folder / "log").open("w"))

    def run(self, streams: int, tokens: int) -> dict:
        """One level -> what it reports. Raises UserError if it reports nothing."""
        result = self.folder / f"{streams}.json"
        words = ["--backend", "openai-chat", "--base-url", self.server.url, "--endpoint", "/v1/chat/completions",
                 "--model", self.server.model, "--tokenizer", self.tokenizer, "--dataset-name", "random", "--ignore-eos",
                 "--random-input-len", PROMPT_TOKENS, "--random-output-len", tokens, "--num-prompts", count(streams),
                 "--max-concurrency", streams, "--seed", streams, "--disable-tqdm", "--save-result", "--result-dir", self.folder,
                 "--result-filename", result.name]
        if not self.ready:
            self._await("ready")
            self.ready = True
        self.process.stdin.write(json.dumps([str(w) for w in words]) + "\n")
        self.process.stdin.flush()
        self._await("done")
        if not result.exists():
            raise UserError(f"vllm bench serve gave no result at {streams} streams; its log is {self.folder / 'log'}")
        return json.loads(result.read_text())

    def _await(self, word: str) -> None:
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise UserError(f"vllm bench serve ended; its log is {self.folder / 'log'}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Prompts:
    """Requests without an end, each of about 100 tokens and unlike all others of its run."""

    def __init__(self, part: str, tokens: int):
        self.part, self.tokens = part, tokens

    def __getitem__(self, index: int) -> Request:
        return Request([{"role": "user", "content": f"{index} {self.part} " + "word " * (PROMPT_TOKENS - 5)}], self.tokens)


def start_all(spec: str, flags: str, asked: list[tuple[str, str]], run: RunDir, stack: ExitStack) -> list:
    """(name, server) of all configurations, started at once. One that does not start is told and left out."""
    def start(number_and_configuration):
        k, (name, own) = number_and_configuration
        try:
            return name, launch.open_server(spec, f"{flags} {own}".strip(), run.path / "servers" / str(k))
        except UserError as error:
            print(f"{name} does not start: {error}", flush=True)
            return name, None

    with ThreadPoolExecutor(len(asked)) as pool:
        started = list(pool.map(start, enumerate(asked)))
    for _, server in started:
        if server is not None:
            stack.callback(server.stop)
    return [(name, server) for name, server in started if server is not None]


def processor_time(server) -> dict[int, tuple[bool, float]]:
    """Of a server's processes: whether it is an engine's or a worker's, and its processor time so far, s."""
    found = {}
    for process in psutil.Process(server.process.pid).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            found[process.pid] = ("Engine" in title or "Worker" in title, sum(process.cpu_times()[:2]))
        except psutil.Error:
            continue
    return found


def cores(before: dict, after: dict, took_s: float) -> dict:
    """Processor time per second of the busiest process that speaks HTTP, and of the busiest that computes."""
    used = {engine: max((t - before[pid][1] for pid, (e, t) in after.items() if e == engine and pid in before), default=float("nan")) / took_s
            for engine in (False, True)}
    return {"api_cores": used[False], "engine_cores": used[True]}


async def level(desk: Bench, name: str, letter: str, streams: int, tokens: int, load: str = "at once") -> dict:
    """One level by this client -> a row."""
    before, began = processor_time(desk.server), time.monotonic()
    part = f"{letter}.{streams}" + ("" if load == "at once" else ".spread")
    series = await desk.measure(part, Prompts(part, tokens), Closed(streams, LOADS[load]), count=count(streams))
    busy = cores(before, processor_time(desk.server), time.monotonic() - began)
    good = series.frame[series.frame["error"].isna()]
    took = good["done"].max() - good["sent"].min()
    agreed = series.agreement.set_index("quantity")
    own = {k: agreed.loc[f"{k}, mean", "server"] if f"{k}, mean" in agreed.index else float("nan") for k in ("TTFT", "TPOT")}
    tpot = good["tpot_s"].mean() * 1000
    share = efficiency.throughput(served.yardstick(desk), series, name)
    steady = series.summaries()["throughput_tps"]["mean"]
    return {"configuration": name, "client": "this client", "load": load, "streams": streams, "requests": len(series.frame), "failed": len(series.frame) - len(good),
            "tokens_per_s": good["output_tokens"].sum() / took, "steady": steady.value, "steady_low": steady.low, "steady_high": steady.high,
            "ttft_ms": good["ttft_s"].mean() * 1000, "server_ttft_ms": own["TTFT"],
            "tpot_ms": tpot, "server_tpot_ms": own["TPOT"], "tpot_difference_pct": 100 * (tpot / own["TPOT"] - 1),
            "of_limit_pct": share[0].percent.value if share else float("nan"), "verdict": series.verdicts()["tpot_s"]} | busy


async def beside(peer: Peer, run: RunDir, name: str, streams: int, tokens: int) -> dict:
    """The same level by `vllm bench serve` -> a row; the server's own means count its one trial request, too."""
    async with telemetry.watch(peer.server, run.path / "requests" / f"bench.{streams}.telemetry.jsonl") as watched:
        told = await asyncio.to_thread(peer.run, streams, tokens)
    own = {k: watched.happened.histogram(metric) for k, metric in (("ttft", reconcile.TTFT), ("tpot", reconcile.TPOT))}
    own = {k: h.mean * 1000 if h else float("nan") for k, h in own.items()}
    return {"configuration": name, "client": "vllm bench serve", "load": "at once", "streams": streams, "requests": count(streams), "failed": told.get("failed", count(streams) - told["completed"]),
            "tokens_per_s": told["output_throughput"], "ttft_ms": told["mean_ttft_ms"], "server_ttft_ms": own["ttft"],
            "tpot_ms": told["mean_tpot_ms"], "server_tpot_ms": own["tpot"], "tpot_difference_pct": 100 * (told["mean_tpot_ms"] / own["tpot"] - 1)}


def table(rows: list[dict]) -> str:
    """Markdown of all rows, by streams."""
    frame = pd.DataFrame(rows)
    level = ["streams", "load"]
    first = frame[(frame["client"] == "this client") & (frame["configuration"] == frame["configuration"].iloc[0])].set_index(level)["tokens_per_s"]
    frame["times_first"] = frame["tokens_per_s"] / first.reindex(pd.MultiIndex.from_frame(frame[level])).to_numpy()
    frame = frame.sort_values(level, kind="stable").reindex(columns=list(COLUMNS)).dropna(axis=1, how="all")
    lines = [[COLUMNS[c] for c in frame.columns]]
    lines += [[v if isinstance(v, str) else "–" if pd.isna(v) else f"{v:,.0f}" if c in ("streams", "failed", "tokens_per_s", "steady", "per_gpu")
               else number(v) for c, v in row.items()] for row in frame.to_dict("records")]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.levels", description=__doc__.split("\n")[0])
    parser.add_argument("--server", required=True, help="a model id, a folder, shape:MODEL or embedded")
    parser.add_argument("--flags", default="", help="vLLM's flags for all configurations")
    parser.add_argument("--configuration", action="append", metavar="NAME: FLAGS", help="may be given several times")
    parser.add_argument("--streams", default="1,8,64,256")
    parser.add_argument("--more-streams", default="", help="levels of all configurations but the first; those of the first unless told")
    parser.add_argument("--tokens", type=int, default=128, help="length of every answer")
    parser.add_argument("--beside", action="store_true", help="also measure the first with vllm bench serve")
    parser.add_argument("--spread", action="store_true", help="also measure each level with its streams spread out in time")
    parser.add_argument("--calibrate", action="store_true", help="put the client to the metronome first")
    parser.add_argument("--seconds", type=float, default=3600, help="begin no level later than so long after the start")
    parser.add_argument("--profile-dir", type=Path, help="the first server's torch_profiler_dir: at last, profile 1 and 128 streams")
    parser.add_argument("--name", default=time.strftime("levels-%Y-%m-%d-%H%M%S"))
    asked = parser.parse_args()
    began, run, rows = time.monotonic(), RunDir(asked.name), []
    listed = [tuple(part.strip() for part in c.partition(":")[::2]) for c in asked.configuration or ["default:"]]
    ladders = [[int(n) for n in text.split(",") if n] for text in (asked.streams, asked.more_streams or asked.streams)]
    with ExitStack() as stack:
        if asked.calibrate:
            calibration.use(await calibration.calibrate([8, 128, 256, 512], 1.0))
        servers = start_all(asked.server, asked.flags, listed, run, stack)
        print(f"{len(servers)} servers started after {time.monotonic() - began:.0f} s", flush=True)
        desks = [Bench("levels", server, run) for _, server in servers]
        peer = stack.enter_context(closing(Peer(servers[0][1], tokenizer(asked.server), run.path / "bench"))) if asked.beside and servers else None
        for letter, desk in zip("ABCDEFGH", desks):
            await desk.measure(f"{letter}.warmup", Prompts(f"{letter}-warm", 32), Closed(32), count=64)
        for turn, streams in enumerate(sorted({*ladders[0], *ladders[1]})):
            for k, (name, server) in enumerate(servers):
                if streams not in ladders[min(k, 1)]:
                    continue
                if time.monotonic() - began > asked.seconds:
                    print(f"no time was left for {name} at {streams} streams", flush=True)
                    continue
                gpus = int(served.flag(server.flags, "--tensor-parallel-size") or 1) * int(served.flag(server.flags, "--data-parallel-size") or 1)
                ours = [level(desks[k], name, "ABCDEFGH"[k], streams, asked.tokens, load) for load in list(LOADS)[:1 + asked.spread]]
                theirs = [beside(peer, run, name, streams, asked.tokens)] if peer and not k else []
                for measured in (theirs + ours if turn % 2 else ours + theirs):
                    try:
                        row = await measured
                    except UserError as error:
                        print(error, flush=True)
                        continue
                    rows.append(row | {"gpus": gpus, "per_gpu": row["tokens_per_s"] / gpus})
                    print(f"{time.monotonic() - began:4.0f} s  {row['client']:<17} {name:<24} {streams:>4} {row['load']:<10} {row['tokens_per_s']:>8,.0f} tokens/s  "
                          f"TTFT {row['ttft_ms']:.1f}  TPOT {row['tpot_ms']:.2f} (server {row['server_tpot_ms']:.2f})", flush=True)
                    write_json(run.path / "levels.json", {"asked": {k: str(v) for k, v in vars(asked).items()}, "rows": rows})
        if asked.profile_dir and servers:
            await profile(servers[0][1], Bench("levels", servers[0][1], run))
    write_text(run.path / "levels.md", table(rows) + "\n")
    print(table(rows))


async def profile(server, desk: Bench) -> None:
    """Have the server write a trace of its kernels with one stream and with many: its steps with little else around."""
    for streams, tokens in ((1, 64), (128, 48)):
        httpx2.post(f"{server.url}/start_profile", headers=headers(server.api_key), timeout=120)
        await desk.measure(f"profiled.{streams}", Prompts(f"profiled-{streams}", tokens), Closed(streams), count=streams)
        httpx2.post(f"{server.url}/stop_profile", headers=headers(server.api_key), timeout=120)


def tokenizer(spec: str) -> str:
    """Where the tokenizer of a server's model lies."""
    if spec == "embedded":
        return str(launch.EMBEDDED)
    return str(model_shape.FOLDER / spec.removeprefix("shape:")) if spec.startswith("shape:") else spec


if __name__ == "__main__":
    from benchmarks import levels  # under its own name, or the workers would not find Prompts

    asyncio.run(levels.main())
