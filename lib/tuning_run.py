"""Starts each configuration in turn, measures it, stops it. What each start gave is a row at once, on disk and in the table."""
import contextlib
import dataclasses
import math
import os
import shlex
import statistics
import time
from dataclasses import dataclass, field

import pandas as pd
import psutil
from IPython.utils.capture import capture_output

from lib import configurations, launch, machine, rundir, stats, time_limit, tuning, tuning_start, verdicts, vllm_flags
from lib.bench import Bench
from lib.configurations import Configuration
from lib.errors import UserError
from lib.hiding import real
from lib.progress import progress
from lib.tuning_start import Load

SERIES = "tuning.starts"  # its rows: requests/tuning.starts.jsonl


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
    ended: str = ""  # why the plan was not carried out to its end, if it was not

    @property
    def starts(self) -> pd.DataFrame:
        """A row a start; see tuning_start.row_of."""
        columns = ["name", "place", "error", "answers", "met", "due", "goodput", "doubt", "sent", "failed", "pace_us",
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
    inherited = server.flags[len(launch.added_flags(server.spec or "")):]
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
    a server with stop(), for what is not started by lib.launch. Where the notebook's time does not last for another start like those
    before, or is over in the middle of one, what has been measured stands, and `ended` says so."""
    todo.desk.run.new_requests_file(SERIES)
    start = start or _starter(todo)
    by_name = {c.name: c for c in todo.configurations}
    others, took = [c.name for c in todo.configurations[1:] if not c.left_out], {}
    for number in range(rounds if others else 1):
        if number:
            others, gone = tuning.halve(todo.starts, others)
            todo.dropped |= {name: f"after round {number}: {why}" for name, why in gone.items()}
        plan = tuning.order(others, apart, again=number > 0) if others else [tuning.BASELINE]
        with progress(len(plan), f"round {number + 1}", "starts") as bar:
            for done, name in enumerate(plan):
                bar.set_postfix_str(name)
                began = time.monotonic()
                if _no_time(took, name) or not await _one(todo, by_name[name], start):
                    _end_early(todo, plan[done:])
                    return todo
                if todo.rows[0]["error"]:
                    raise UserError(f"the baseline cannot be measured, so there is nothing to compare with: {todo.rows[0]['error']}")
                took.setdefault(name, []).append(time.monotonic() - began)
                _in_case_it_is_cut_off(todo)
                bar.update()
    return todo


def _no_time(took: dict[str, list[float]], name: str) -> bool:
    """Is less time left than a start of this configuration and its measuring took before; if there was none, than starts took?
    The first of a command may have compiled, which no other has to: of several the quickest counts, and a single one for no more than is usual."""
    left, all_of_them = time_limit.left_s(), [s for several in took.values() for s in several]
    own, usual = took.get(name, []), statistics.median(all_of_them or [0.0])
    return left is not None and left < min(own if len(own) > 1 else [*own, usual])


def _end_early(todo: Tuning, left: list[str]) -> None:
    """What is left of a round, and of those after it, is not started."""
    at, longer = time.strftime("%H:%M:%S"), time_limit.longer()
    if not todo.rows:
        raise UserError(f"the baseline was not measured, so there is nothing to compare with: the notebook's time was over at {at}; {longer}")
    starts = len(todo.rows)
    todo.ended = (f"**Ended early** after {starts} start{'s' * (starts > 1)}, at {at}: the notebook's time did not last for "
                  f"{len(left)} more ({', '.join(left)}); {longer}.")
    todo.dropped |= {name: f"the notebook's time did not last for it ({at})" for name in set(left) - set(todo.starts["name"])}


def _in_case_it_is_cut_off(todo: Tuning) -> None:
    """A start takes minutes with a large model: what the plan has so far is in the run after each, for a run that is interrupted."""
    starts = len(todo.rows)
    publish(dataclasses.replace(todo, ended=f"**Cut off** after {starts} start{'s' * (starts > 1)}: the figures are of those."), todo.summary())


async def _one(todo: Tuning, configuration: Configuration, start) -> bool:
    """A start and what it gives, as a row -> whether there was one: a start that the end of the time cut off is none, and its
    configuration is not to blame."""
    row = {"name": configuration.name, "place": len(todo.rows), "error": None}
    server = None
    try:
        with capture_output():  # the bars of each start's parts: the round has one of its own
            before = tuning_start.memory_gib(None)
            server = start(configuration)
            row |= await tuning_start.row_of(todo.desk, todo.load, server, f"tuning.{row['place']:02d}-{configuration.letter}", before,
                                             cold=todo.spec is not None)
    except UserError as error:
        row["error"] = str(error)
    finally:
        if server is not None:
            server.stop()
    if row["error"] and time_limit.is_over():
        return False
    todo.rows.append(row)
    rundir.write_text(todo.desk.run.requests_file(SERIES), todo.starts.to_json(orient="records", lines=True, force_ascii=False))
    return True


def publish(todo: Tuning, found: pd.DataFrame) -> None:
    """Enter every configuration's values and ratios in figures.json, and all of it in tuning.json."""
    run, starts = todo.desk.run, todo.starts
    chosen, _ = tuning.recommend(found)
    formula = f"exp(m − m of the baseline), {tuning.LEVEL:.1%} interval over starts"
    with run.together():
        for name, row in found[found["state"] == "measured"].iterrows():
            verdict = _of_its_starts(starts.loc[starts["name"] == name, "doubt"].dropna())
            for key, metric in tuning.METRICS.items():
                value, *ratio = (row.get(f"{key}.{part}", math.nan) for part in ("value", "ratio", "low", "high"))
                shown = {"value": stats.Estimate(value * metric.factor, math.nan, math.nan, row["starts"])}
                shown |= {tuning.RATIO.replace("-", " "): stats.Estimate(*ratio, row["starts"])} if name != tuning.BASELINE else {}
                judged = verdict if key in tuning.TIMED else "valid"
                for what, estimate in shown.items() if math.isfinite(value) else ():
                    unit, told = (metric.unit, metric.formula) if what == "value" else ("", formula)
                    run.publish(f"tuning.{row['letter']}.{key}.{what.replace(' ', '-')}", f"{name}: {metric.name}, {what}", estimate,
                                unit, judged, todo.desk.notebook, SERIES, formula=told, table="configurations",
                                headline=what != "value" and name == chosen and key == "throughput_tps")
    rundir.write_json(run.path / "tuning.json", {
        "spec": todo.spec, "load": dataclasses.asdict(todo.load), "configurations": [dataclasses.asdict(c) for c in todo.configurations],
        "dropped": todo.dropped, "ended": todo.ended, "summary": _plain(found.reset_index()), "starts": _plain(starts),
        "recommended": chosen, "command": command(todo, chosen)})


def _of_its_starts(doubts: pd.Series) -> str:
    """The verdict on a configuration's figures, by what speaks against each of its starts. An uneven course or few values of one start are in that
    start's own error and in the scatter between starts: they are the configuration's where at least half of its starts have them."""
    against = [d for d in doubts if d != "valid"]
    grave = [d for d in against if not d.startswith(verdicts.COURSE)]
    counted = grave or (against if 2 * len(against) >= len(doubts) else [])
    return f"{counted[0]} (in {len(counted)} of {len(doubts)} starts)" if counted else "valid"


def command(todo: Tuning, name: str | None) -> str:
    """The command lines that start a configuration: vLLM's own, and this workbook's."""
    c = next((c for c in todo.configurations if c.name == name), todo.configurations[0])
    spec = c.model or todo.spec
    if spec is None:
        return "How this server was started is not known here."
    flags = shlex.join(launch.without_key(list(c.flags)))
    ours = f"workbook serve {shlex.quote(spec)}" + (f" --flags {shlex.quote(flags)}" if flags else "")
    return f"{launch.command_line(spec, list(c.flags))}\n\n# or, with a random key and an end at Ctrl-C:\n{ours}"


def _plain(frame: pd.DataFrame) -> list[dict]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


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
    if server.embedded or real(known.get("url", "")) != server.url or not known.get("pid"):
        return
    with contextlib.suppress(psutil.NoSuchProcess):  # gone already, or just now
        guard, deadline = psutil.Process(known["pid"]), time.monotonic() + 60
        if "lib.guard" in guard.cmdline():
            guard.terminate()
            while guard.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
                time.sleep(0.2)
