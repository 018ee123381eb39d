"""Starts each configuration in turn, measures it, stops it. What each start gave is a row at once, on disk and in the table."""
import dataclasses
import math
import os
import shlex
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
from IPython.utils.capture import capture_output
from scipy import stats as scipy_stats

from lib import configurations, launch, machine, probes, rundir, search, stats, telemetry, troubles, tuning, vllm_flags
from lib.bench import Bench
from lib.configurations import Configuration
from lib.errors import UserError
from lib.progress import progress
from lib.workloads import Brief, Long

SERIES = "tuning.starts"  # its rows: requests/tuning.starts.jsonl
LONG_SENTENCES = 24
DISTURBED, TRIES = 0.05, 3  # a short load that is disturbed more than that is sent again: the calmest counts
QUESTIONS = ("describe", "number", "word", "count")


@dataclass
class Load:
    """What every start is measured with: the same seeded requests, in the same order."""

    streams: int = 8
    seconds: float = 5.0
    max_tokens: int = 24
    temperature: float = 0.7
    seed: int = 1
    questions: int = 40
    ttft_s: float = 0.2
    tpot_s: float = 0.05


@dataclass
class Tuning:
    """The work of a notebook. spec: what is started; None where the server is not ours to restart, and then the list is
    the server as it is alone."""

    desk: Bench
    configurations: list[Configuration]
    load: Load
    spec: str | None
    rows: list = field(default_factory=list)
    dropped: dict = field(default_factory=dict)  # name -> why

    @property
    def starts(self) -> pd.DataFrame:
        """A row a start; see `row_of`."""
        columns = ["name", "place", "error", "answers", "met", "due", "goodput", "doubt", "sent", "failed",
                   *tuning.METRICS, *(f"{m}_error" for m in tuning.METRICS)]
        return pd.DataFrame(self.rows, columns=columns)

    def summary(self) -> pd.DataFrame:
        return tuning.summary(self.configurations, self.starts, self.dropped)


def prepare(desk: Bench, listed: list, load: Load, model: str = "") -> Tuning:
    """Read and check the list of configurations, before anything is started. `model`: what to start, if the server at hand
    does not say. Raises UserError for what cannot be."""
    server = desk.server
    spec = model or server.spec
    if spec is None:
        configurations.read(listed)
        return Tuning(desk, [Configuration("baseline", why="the server as it runs", letter="A")], load, None)
    inherited = server.flags[len(launch._embedded_flags()):] if server.embedded else server.flags
    return Tuning(desk, checked(listed, spec, inherited), load, spec)


def checked(listed: list, spec: str, flags: list) -> list[Configuration]:
    """A list of configurations for a server of `spec` that has these flags, as it would be started here. Raises UserError."""
    devices = 1 if machine.serves_on_cpu() else len(machine.gpus())
    return configurations.checked(configurations.read(listed), flags, vllm_flags.known(), devices,
                                  str(launch.EMBEDDED) if spec in ("embedded", "auto") else spec)


def scope(todo: Tuning) -> str:
    """What will be compared, in words; for a server that is not ours, why it is only measured."""
    if todo.spec is None:
        return (f"The server at {todo.desk.server.url} was not started by this workbook, so it cannot be started again with other flags: "
                "it is measured as it is, and nothing is compared. To compare, name what to start here: `-p tuning_model MODEL`.")
    started = sum(not c.left_out for c in todo.configurations)
    return f"{started} configurations of {todo.desk.server.model} will be started, in turn."


async def carry_out(todo: Tuning, rounds: int = 1, apart: int = 1, start=None) -> Tuning:
    """All rounds of the plan; between two rounds the worse half of the others is dropped. start: a configuration ->
    a server with stop(), for what is not started by lib.launch."""
    todo.desk.run.new_requests_file(SERIES)
    start = start or _starter(todo)
    by_name = {c.name: c for c in todo.configurations}
    others = [c.name for c in todo.configurations[1:] if not c.left_out]
    for number in range(rounds if others else 1):
        if number:
            others, gone = tuning.halve(todo.starts, others)
            todo.dropped |= {name: f"after round {number}: {why}" for name, why in gone.items()}
        plan = tuning.order(others, apart, again=number > 0) if others else [tuning.BASELINE]
        with progress(len(plan), f"round {number + 1}", "starts") as bar:
            for name in plan:
                bar.set_postfix_str(name)
                await _one(todo, by_name[name], start)
                if todo.rows[0]["error"]:
                    raise UserError(f"the baseline cannot be measured, so there is nothing to compare with: {todo.rows[0]['error']}")
                bar.update()
    return todo


async def _one(todo: Tuning, configuration: Configuration, start) -> None:
    row = {"name": configuration.name, "place": len(todo.rows), "error": None}
    server = None
    try:
        with capture_output():  # the bars of each start's parts: the round has one of its own
            before = _memory_gib(None)
            server = start(configuration)
            row |= await row_of(todo, server, f"tuning.{row['place']:02d}-{configuration.letter}", before)
    except UserError as error:
        row["error"] = str(error)
    finally:
        if server is not None:
            server.stop()
    todo.rows.append(row)
    rundir.write_text(todo.desk.run.requests_file(SERIES), todo.starts.to_json(orient="records", lines=True, force_ascii=False))


async def row_of(todo: Tuning, server, name: str, before_gib: float) -> dict:
    """Measure a server that has just been started -> one number for each of tuning.METRICS, with its standard error within
    this start; requests that met the targets; the questions answered rightly; what speaks against the series."""
    desk, load = dataclasses.replace(todo.desk, server=server), todo.load
    tried = [await _short(desk, load, f"{name}.short", "tuning")]
    while _disturbance(tried[-1]) > DISTURBED and len(tried) < TRIES:  # with prompts that no cache has
        tried.append(await _short(desk, load, f"{name}.short-{len(tried) + 1}", f"tuning-{len(tried) + 1}"))
    first, (fresh, others) = tried[0][0], min(tried, key=_disturbance)
    long = await desk.measure(f"{name}.long", Long(LONG_SENTENCES, load.max_tokens, load.temperature, load.seed, "tuning"),
                              load.streams, seconds=load.seconds, warmup=load.streams, cache_expected=True)
    memory = _memory_gib(server) - (before_gib if machine.gpus() else 0.0)
    row = {"first_s": first.frame["total_s"].iloc[0] if todo.spec else None, "start_s": getattr(server, "started_in_s", None), "memory_gib": memory,
           "kv_tokens": getattr(server, "kv_cache_tokens", None), "doubt": "; ".join(filter(None, [
               f"disturbed: others used {others:.0%} of this machine's processors" if others > 2 * DISTURBED else "",
               fresh.verdicts()["throughput_tps"]])).removesuffix("; valid"),
           "sent": fresh.counts["sent"], "failed": fresh.counts["failed"]}
    row |= _numbers("throughput_tps", stats.mean(fresh.values["throughput_tps"]))
    # What stalls a start shows in its throughput, slice by slice; a median of some hundred requests cannot tell its own error.
    row |= {m: float(fresh.measured[m].median()) for m in ("ttft_s", "tpot_s")}
    row |= {f"{m}_error": row["throughput_tps_error"] for m in ("ttft_s", "tpot_s")}
    row |= _numbers("long_ttft_s", stats.mean(long.values["ttft_s"]))  # of two kinds of prompts: a median would jump between them
    met = search.against(fresh, load.ttft_s, load.tpot_s)
    row |= {"met": met["met"], "due": met["due"], "goodput": met["goodput"]}
    if load.questions and not getattr(server, "untrained", False):
        each = math.ceil(load.questions / len(QUESTIONS))
        asked = probes.questions(QUESTIONS, each, load.seed)
        await desk.measure(f"{name}.questions", probes.requests(asked), load.streams)
        answered = probes.judged(asked, desk.run.requests_file(f"{name}.questions"))
        row["answers"] = "".join("1" if a["correct"] else "0" for a in answered)
    return row


def publish(todo: Tuning, found: pd.DataFrame) -> None:
    """Enter every configuration's values and ratios in figures.json, and all of it in tuning.json."""
    run, starts = todo.desk.run, todo.starts
    formula = f"m, and exp(m − m of the baseline) with its {tuning.LEVEL:.1%} interval from the spread of starts (lib.tuning)"
    for name, row in found[found["state"] == "measured"].iterrows():
        doubts = [d for d in starts.loc[starts["name"] == name, "doubt"].dropna() if d != "valid"]
        verdict = f"{doubts[0]} (in {len(doubts)} of {row['starts']} starts)" if doubts else "valid"
        for key, metric in tuning.METRICS.items():
            value, *ratio = (row.get(f"{key}.{part}", math.nan) for part in ("value", "ratio", "low", "high"))
            shown = {"value": stats.Estimate(value * metric.factor, math.nan, math.nan, row["starts"])}
            shown |= {"times the baseline": stats.Estimate(*ratio, row["starts"])} if name != tuning.BASELINE else {}
            for what, estimate in shown.items() if math.isfinite(value) else ():
                run.publish(f"tuning.{row['letter']}.{key}.{what.replace(' ', '-')}", f"{name}: {metric.name}, {what}", estimate,
                            metric.unit if what == "value" else "", verdict if key in (*tuning.SPEED, "long_ttft_s") else "valid", todo.desk.notebook, SERIES,
                            formula=f"{metric.formula}: {formula}", table="configurations")
    rundir.write_json(run.path / "tuning.json", {
        "spec": todo.spec, "load": dataclasses.asdict(todo.load), "configurations": [dataclasses.asdict(c) for c in todo.configurations],
        "dropped": todo.dropped, "summary": _plain(found.reset_index()), "starts": _plain(starts),
        "recommended": tuning.recommend(found)[0]})


def command(todo: Tuning, name: str | None) -> str:
    """The command lines that start a configuration: vLLM's own, and this workbook's."""
    c = next((c for c in todo.configurations if c.name == name), todo.configurations[0])
    spec = c.model or todo.spec
    flags = shlex.join(launch.without_key(list(c.flags)))
    ours = f"workbook serve {shlex.quote(spec)}" + (f" --flags {shlex.quote(flags)}" if flags else "")
    return f"{launch.command_line(spec, list(c.flags))}\n\n# or, with a random key and an end at Ctrl-C:\n{ours}"


def _plain(frame: pd.DataFrame) -> list[dict]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


async def _short(desk: Bench, load: Load, name: str, part: str) -> tuple:
    """The short load -> its series, and the share of this machine's processors that neither server nor client used."""
    before = _processors()
    series = await desk.measure(name, Brief(load.max_tokens, load.temperature, load.seed, part), load.streams, seconds=load.seconds,
                                warmup=load.streams)
    if not series.counts["measured"]:
        raise UserError(_why_no_answers(desk.server, series))
    ours, busy, all_of_them = (after - then for after, then in zip(_processors(), before))
    return series, max(0.0, busy - ours) / all_of_them


def _disturbance(tried: tuple) -> float:
    """The larger of the relative standard error of a series' throughput and of what others used of the processors."""
    series, others = tried
    error = _numbers("", stats.mean(series.values["throughput_tps"]))["_error"]
    return max(others, math.inf if error is None else error)


def _processors() -> tuple[float, float, float]:
    """Seconds of all processors so far: used by this process and all that it started, used at all, there at all."""
    ours = 0.0
    for process in [root := psutil.Process(), *root.children(recursive=True)]:
        try:
            ours += sum(process.cpu_times()[:2])
        except psutil.Error:
            pass
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + getattr(times, "steal", 0.0)
    return ours, busy, psutil.cpu_count() * time.monotonic()


def _numbers(metric: str, e: stats.Estimate) -> dict:
    """A mean and its relative standard error, from the width of its interval, which is Student's."""
    known = e.low > 0 and math.isfinite(e.high) and e.effective_n > 1
    reach = scipy_stats.t.ppf(1 - stats.TAIL, e.effective_n - 1) if known else math.nan
    return {metric: e.value, f"{metric}_error": math.log(e.high / e.low) / 2 / reach if known else None}


def _why_no_answers(server, series) -> str:
    errors = series.frame["error"].dropna()
    told = f"{len(errors)} of {len(series.frame)} requests failed" + (f" ({errors.iloc[-1][:120]})" if len(errors) else "")
    log = getattr(server, "log", None)
    cause = troubles.diagnose(log.read_text(encoding="utf-8", errors="replace")) if log and log.exists() else None
    return f"it started and then answered nothing: {told}" + (f"; {cause}" if cause else "")


def _starter(todo: Tuning):
    """How configurations are started: from the spec, with logs of their own; a server that is not ours stands for itself."""
    desk, count = todo.desk, [0]
    if todo.spec is None:
        server = dataclasses.replace(desk.server, process=None)
        return lambda configuration: server
    _make_room(desk)

    def start(configuration: Configuration):
        count[0] += 1
        folder = desk.run.path / "tuning" / f"{count[0]:02d}-{configuration.letter}"
        return launch.open_server(configuration.model or todo.spec, list(configuration.flags), folder)

    return start


def _make_room(desk: Bench) -> None:
    """Stop the server at hand, if it is this run's own and takes what the others need: a model of the user's takes most of a
    GPU. The runner starts it again. The embedded one is small, and idle meanwhile."""
    server = desk.server
    if server.process is not None:
        server.stop()
        os.environ.pop("WORKBOOK_SERVER", None)  # bench.begin's: whoever runs that cell again gets a new one
        return
    known = rundir.read_json(desk.run.path / "server.json", {})
    if server.embedded or known.get("url") != server.url or not psutil.pid_exists(known.get("pid") or -1):
        return
    guard = psutil.Process(known["pid"])
    if "lib.guard" in guard.cmdline():
        os.kill(guard.pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while psutil.pid_exists(guard.pid) and guard.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.2)


def _memory_gib(server) -> float:
    """GiB that the GPUs hold; without a GPU, what the server's processes hold, shared pages counted once."""
    if machine.gpus():
        return sum(v for name, v in telemetry.Gpus().sample().items() if name.endswith(".memory_gib"))
    process = getattr(server, "process", None)
    if process is None:
        return math.nan
    total = 0
    for p in (root := psutil.Process(process.pid)).children(recursive=True) + [root]:
        try:
            total += p.memory_full_info().pss
        except psutil.Error:
            pass
    return total / machine.GIB
