"""papermill over the notebooks: one server for the whole run, one folder for what comes of it."""
import difflib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from ast import literal_eval
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbconvert import HTMLExporter
from tqdm import tqdm
from traitlets.config import Config

from lib import (DATA, NOTEBOOKS, OUTPUTS, ROOT, bench, cluster, configurations, hold, launch, preflight, reading, repeat, report, resume, schedule,
                 time_limit, tuning_run, vllm_flags)
from lib.errors import OutOfTime, UserError
from lib.hiding import hide, hide_in
from lib.keeper import Keeper, say
from lib.progress import mirrored
from lib.rundir import RunDir, write_text
from lib.server import Server, plain

PROFILES = DATA / "profiles"
REPORT, TUNING = time_limit.REPORT, "06_tuning"
APART = ("10_compare",)  # made of finished runs, by a command of its own
OURS = ("server", "run_name")  # parameters that the runner itself sets
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or what one may have of it


@dataclass
class Plan:
    """What a run will do, checked before anything is started."""

    profile: str
    server: str
    notebooks: list[str]
    parameters: dict = field(default_factory=dict)
    flags: str = ""
    name: str = ""
    load: str = ""
    takes: dict = field(default_factory=dict)  # what the profile says of the time of each notebook
    resumed: bool = False  # the run of that name is gone on with: `notebooks` are those that are not done
    like: str = ""  # the run that this one repeats
    within: time_limit.Within = field(default_factory=time_limit.Within)

    def schedule(self) -> schedule.Schedule:
        """The notebooks with the seconds that are expected of each."""
        return schedule.Schedule([(name, self._expected(name)) for name in self.notebooks])

    def announced(self) -> str:
        """The plan as it is shown before anything starts, with the start of the server if there is one."""
        start, own = [] if launch.is_url(self.server) or self.needs_no_server() else [("the server's start", self._expected("server"))], self.schedule().steps
        steps = schedule.Schedule(start + own)
        return "\n".join([f"profile {self.profile}, about {schedule.duration(steps.seconds)}:", *steps.lines(datetime.now()),
                          *self.within.shortage(sum(seconds for _, seconds in start), own)])

    def needs_no_server(self) -> bool:
        """Is the report all that is asked for, or left of a run?"""
        return self.notebooks == [REPORT]

    def limit_s(self, name: str) -> float | None:
        """The longest that a notebook may take: see lib.time_limit."""
        declared = declared_parameters(name)
        usual = declared | load_profile(self.profile)
        told = {"configurations": lambda value: configurations.read(value).items}  # its length is that of the lists which it names
        usual, asked = ({key: told.get(key, lambda v: v)(values[key]) for key in declared if key in values}
                        for values in (usual, self.parameters))
        return time_limit.limit_s(self._expected(name) if name in self.takes else None, usual, asked, self.takes.get(name, {}))

    def limit(self, name: str) -> time_limit.Limit:
        """That, or less where the run's own time does not last for it."""
        return self.within.limit(self.limit_s(name), name, self.schedule().steps)

    def awaiting_server(self):
        """While inside, who waits for a server knows when the run has no time for it any more."""
        return time_limit.known(self.within.for_a_server(self.schedule().steps))

    def _expected(self, name: str) -> float:
        ours = {"started_here": 0 if launch.is_url(self.server) else 1}  # 06 starts servers only where the run's is one
        return schedule.expected_s(self.takes.get(name, {"seconds": schedule.UNKNOWN_S}), self.parameters | ours)


# -- what was asked ----------------------------------------------------------------------------------
def plan(profile: str, server: str, notebooks: list[str], parameters: dict, flags: str = "", name: str = "", load: str = "",
         recorded: dict | None = None) -> Plan:
    """Check everything that can be known beforehand. Raises UserError for an unknown profile, notebook or
    parameter and for a value of the wrong type, naming the nearest that exists. recorded: the parameters of an earlier run,
    in place of the profile's."""
    server = launch.addressed(server)
    if launch.is_url(server):
        plain(launch.named(server))
    started_with = launch.words(flags)  # it tells what cannot be read
    chosen = [find_notebook(n) for n in notebooks] or all_notebooks()
    content = load_profile(profile)
    takes = content.pop("takes", {})
    content = content if recorded is None else recorded
    merged = content | parameters
    declared = {n: declared_parameters(n) for n in all_notebooks()}
    known = {key: default for parameters_of in declared.values() for key, default in parameters_of.items()}
    for key, value in merged.items():
        if key in OURS:
            raise UserError(f"parameter {key!r} is set by the run itself: use --{'name' if key == 'run_name' else key}")
        if key not in known:
            raise UserError(f"no notebook declares a parameter {key!r}{_nearest(key, known)}")
        if key in parameters and not any(key in declared[n] for n in chosen):
            raise UserError(f"none of the chosen notebooks declares {key!r}: "
                            f"{', '.join(n for n in declared if key in declared[n])} does")
        merged[key] = _typed(key, value, known[key])
    preflight.check(**merged)
    if started_with and not launch.is_url(server):  # vLLM is asked once for all its flags: no longer than a start that fails
        configurations.check_flags(started_with, vllm_flags.known())
    if TUNING in chosen and not launch.is_url(server):  # hours may pass before that notebook could tell
        tuning_run.checked(merged.get("configurations", known["configurations"]), merged.get("tuning_model") or server, started_with)
    if load:
        cluster.check(load)
    name = name or datetime.now().strftime(f"%Y-%m-%d_%H%M%S_{profile}")
    return Plan(profile, server, list(dict.fromkeys(chosen)), merged, flags, name, load, takes)


def all_notebooks() -> list[str]:
    return sorted(p.stem for p in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb") if p.stem not in APART)


def load_profile(profile: str) -> dict:
    """The parameters of data/profiles/PROFILE.yaml."""
    path = PROFILES / f"{profile}.yaml"
    known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
    if profile not in known:
        raise UserError(f"there is no profile {profile!r} (there: {', '.join(known)}){_nearest(profile, known)}")
    try:
        content = reading.yaml_file(path) or {}
    except reading.Unreadable as error:
        raise UserError(f"profile {profile}: {error}")
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"profile {profile}: a YAML mapping of parameters is needed, not {type(content).__name__}")
    schedule.check(profile, content.get("takes", {}))
    return content


def declared_parameters(notebook: str) -> dict:
    """Parameter -> default value, from the cell tagged `parameters`."""
    found = papermill.inspect_notebook(str(NOTEBOOKS / f"{notebook}.ipynb"))
    return {name: literal_eval(entry["default"]) for name, entry in found.items()}


def parse_parameters(pairs: list[str]) -> dict:
    """`key=value` pairs -> dict; values are read as YAML (safely), never evaluated."""
    parameters = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            parameters[key] = reading.yaml_text(value)
        except reading.Unreadable:
            raise UserError(f"parameter {key!r}: {value!r} is not readable as a value: quote it")
    return parameters


def find_notebook(asked: str) -> str:
    """`02`, `02_single_request` or a path to it -> `02_single_request`."""
    stem, known = Path(asked).name.removesuffix(".ipynb"), all_notebooks()
    matches = [n for n in known if n == stem or n.startswith(f"{stem}_") or n.split("_", 1)[1] == stem]
    if len(matches) != 1:
        raise UserError(f"there is no notebook {asked!r} (there: {', '.join(known)}){_nearest(stem, known)}")
    return matches[0]


def _typed(key: str, value, default):
    """`value` as the type of the notebook's own default."""
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is str and not isinstance(value, (list, dict)):
        return "" if value is None else str(value)
    if type(value) is not wanted:
        alone = f": write '{json.dumps([value], ensure_ascii=False)}' for that one" if wanted is list and type(value) in (str, int, float) else ""
        raise UserError(f"parameter {key!r} takes {wanted.__name__} (like {default!r}), not {value!r}{alone}")
    return value


def _nearest(word: str, known) -> str:
    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


class Hidden(papermill.iorw.LocalHandler):
    """How papermill writes executed notebooks: in one step, and what must not be seen is hidden in them. Where they lie on this
    machine, which papermill notes, is nobody's business."""

    def write(self, buf, path):
        notebook = json.loads(buf)
        noted = notebook["metadata"].get("papermill", {})
        noted |= {key: os.path.relpath(noted[key], ROOT) for key in ("input_path", "output_path") if noted.get(key)}
        write_text(Path(path), json.dumps(hide_in(notebook), indent=1, ensure_ascii=False) + "\n")


papermill.iorw.papermill_io.register(str(OUTPUTS), Hidden())


class QuietKernels(AsyncKernelManager):
    """Kernels whose own log stays out of the terminal; errors in cells come by the protocol."""

    async def start_kernel(self, **options):
        await self._async_start_kernel(stderr=subprocess.DEVNULL, pass_fds=hold.inherited(), **options)


# -- doing it ----------------------------------------------------------------------------------------
def run(todo: Plan) -> tuple[RunDir, bool]:
    """Carry out a plan -> the run folder, and whether every notebook went well.

    A notebook that fails stops nothing else, but a full disk stops the run. Ctrl-C ends it after writing a report of what is there.
    """
    taken = UserError(f"outputs/{todo.name} exists: choose another --name, or go on with it: --resume {todo.name}")
    if not todo.resumed and (OUTPUTS / todo.name).exists():
        raise taken
    for name in todo.notebooks:
        todo.limit_s(name)  # what is wrong with it is told before anything starts
    folder = RunDir(todo.name)
    try:
        with hold.hold(folder.path):
            if not todo.resumed and folder.info():  # begun in the same moment by somebody else
                raise taken
            _note(todo, folder)
            try:
                return folder, _carry_out(todo, folder)
            except KeyboardInterrupt:
                print(f"interrupted: {goes_on(folder.name)}", file=sys.stderr)
                raise
            except UserError:
                if not todo.resumed:
                    _leave_nothing(folder)
                raise
    except OSError as error:
        if error.errno in FULL:
            raise UserError(_full(folder)) from None
        raise


def goes_on(name: str) -> str:
    return f"`workbook run --resume {name}` goes on with it"


def _leave_nothing(folder: RunDir) -> None:
    """Remove the folder of a run that was refused before it had a server, and so holds nothing; the log of one that did not start stays."""
    begun = any(state["status"] != "not run" for state in folder.info()["notebooks"].values())
    if not begun and not (folder.path / "server.log").exists():
        shutil.rmtree(folder.path)


def _note(todo: Plan, folder: RunDir) -> None:
    """Enter in run.json what is asked, before anything is started; of a run that is gone on with, set aside what was begun."""
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    if not todo.resumed:
        folder.update_info(
            profile=todo.profile, parameters=todo.parameters, command=repeat.command(todo, load_profile(todo.profile), all_notebooks()),
            began=now, seconds=0.0, made_by=repeat.made_by(),
            plan=repeat.asked(todo.profile, todo.server, todo.notebooks, todo.parameters, todo.flags, todo.load) | todo.within.noted(),
            notebooks={name: {"status": "not run"} for name in todo.notebooks}, **({"like": todo.like} if todo.like else {}))
        return
    info = folder.info()
    todo.notebooks = resume.left(folder, info["plan"]["notebooks"])  # again: only now is the folder ours
    kept = [name for name in info["plan"]["notebooks"] if name not in todo.notebooks]
    attempts = [*info.get("attempts", []), {"at": now, "kept": kept, "again": todo.notebooks} | todo.within.noted()]
    folder.update_info(attempts=attempts, aside=resume.set_aside(folder, todo.notebooks), ended=None,
                       notebooks=info["notebooks"] | {name: {"status": "not run"} for name in todo.notebooks})
    print("\n".join([folder.name, *resume.words(folder.info())]), flush=True)


def _carry_out(todo: Plan, folder: RunDir) -> bool:
    """What is left of a run -> whether all of it is done."""
    began, before = time.monotonic(), folder.info()
    with ExitStack() as started:
        if todo.notebooks:
            print(todo.announced(), flush=True)
            _measure(todo, folder, started)
    folder.update_info(seconds=round((before.get("seconds") or 0.0) + time.monotonic() - began, 1))
    for name, state in folder.info()["notebooks"].items():
        page = folder.path / "html" / f"{name}.html"
        if state["status"] == "done" and not page.exists():  # cut off between the two
            write_page(folder.path / "notebooks" / f"{name}.ipynb", page)
    report.build(folder)
    folder.update_info(ended=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"))
    return all(state["status"] == "done" for state in folder.info()["notebooks"].values())


def _measure(todo: Plan, folder: RunDir, started: ExitStack) -> None:
    """The server, and one notebook after another against it."""
    def start() -> Server:
        return started.enter_context(launch.open_server(todo.server, todo.flags, folder.path))

    server = None if todo.needs_no_server() else _first_server(todo, folder, start)
    folder.make_latest()
    os.environ["WORKBOOK_LOAD"] = todo.load
    with schedule.Bar(todo.schedule(), file=sys.stderr) as bar, mirrored(bar, folder.path / ".progress"):
        keeper = Keeper(server, folder, start)
        try:
            last = ""
            for name in todo.notebooks:
                bar.set_description(name)
                limit = todo.limit(name)
                if name != REPORT and limit.lasts:  # it needs no server, and after 06_tuning there is none: a large model takes minutes to start
                    with todo.awaiting_server():
                        server, last = keeper.server(last, made_room=last == TUNING and not server.embedded), name
                    limit = todo.limit(name)
                _execute(folder, name, todo.parameters, server.url if server else "", limit)
                bar.update()
        except KeyboardInterrupt:
            bar.write("interrupted: writing the report of what is there", file=sys.stderr)


def _first_server(todo: Plan, folder: RunDir, start: Callable[[], Server]) -> Server | None:
    """The run's server, described in run.json. None where the run's time was over before it answered: then there is none for a
    notebook that measures either (lib.time_limit), and the report says why."""
    try:
        with todo.awaiting_server():
            server = start()
    except OutOfTime as error:
        return say(folder, "", str(error))
    about = bench.describe(server)
    repeat.same_server(folder, about["facts"], folder.info().get("facts", {}))
    folder.update_info(**about)
    os.environ["WORKBOOK_API_KEY"] = server.api_key or ""  # to the kernels; never into a notebook
    return server


def _full(folder: RunDir) -> str:
    free = shutil.disk_usage(folder.path).free / 2**20
    return (f"the disk is full ({free:,.1f} MiB free where the run is): what was measured is kept; free some, then "
            f"{goes_on(folder.name)}")


def _execute(folder: RunDir, name: str, parameters: dict, url: str, limit: time_limit.Limit = time_limit.Limit()) -> None:
    """One notebook through papermill, then its page; its state goes to run.json whatever happens."""
    if not limit.lasts:
        _enter(folder, name, limit.left_out())
        return tqdm.write(f"{name} {limit.left_out()['error']}", file=sys.stderr)
    target = folder.path / "notebooks" / f"{name}.ipynb"
    target.parent.mkdir(exist_ok=True)
    declared = declared_parameters(name)
    given = {k: v for k, v in parameters.items() if k in declared} | {"server": url, "run_name": folder.name}
    state, began = {"status": "interrupted"}, time.monotonic()
    _enter(folder, name, state)
    try:
        with time_limit.watched(limit) as dog, tempfile.TemporaryDirectory(prefix="workbook-") as sockets:
            papermill.execute_notebook(
                str(NOTEBOOKS / f"{name}.ipynb"), str(target), parameters={k: v for k, v in given.items() if k in declared},
                kernel_name="python3", progress_bar=False, autosave_cell_every=10,
                kernel_manager_class=QuietKernels,
                # Sockets that no other user can reach, and that a killed runner does not leave in the caller's folder.
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            )
        state = {"status": "done"}
    except Exception as error:  # of a cell; a kernel that died too: the other notebooks go on
        state = {"status": "failed", "error": _told(error, dog.bitten, limit)[:800]}
        tqdm.write(hide(f"{name} failed: {state['error'].splitlines()[0]}"), file=sys.stderr)
    finally:
        full = any(os.strerror(number) in state.get("error", "") for number in FULL)
        state["seconds"] = round(time.monotonic() - began, 1)
        if state["status"] == "done":
            folder.settle()  # before it is said
        _enter(folder, name, state)
        if target.exists() and not full:
            write_page(target, folder.path / "html" / f"{name}.html")
    if full:  # the next ones would measure for nothing
        raise UserError(_full(folder))


def _enter(folder: RunDir, name: str, state: dict) -> None:
    folder.update_info(notebooks=folder.info().get("notebooks", {}) | {name: state})


def _told(error: Exception, bitten: str, limit: time_limit.Limit) -> str:
    """What a user reads of a notebook that failed. bitten: when its time was over, if that is why."""
    cell = f"cell {error.exec_count}: " if isinstance(error, papermill.PapermillExecutionError) else ""
    if bitten:
        return cell + limit.over(bitten, "and a cell still ran")
    if not cell:
        return f"{type(error).__name__}: {error}"
    return cell + (error.evalue if error.ename == UserError.__name__ else f"{error.ename}: {error.evalue}")


def compare(words: list[str], any_model: bool, name: str = "") -> RunDir:
    """The notebook that holds finished runs against each other -> the folder with its page."""
    folder = RunDir(name or datetime.now().strftime("%Y-%m-%d_%H%M%S_compare"))
    _execute(folder, "10_compare", {"runs": words, "any_model": any_model}, "")
    return folder


def write_page(notebook: Path, page: Path) -> None:
    """An executed notebook -> one HTML file that loads nothing from elsewhere."""
    exporter = HTMLExporter(
        embed_images=True, require_js_url="", mathjax_url="", jquery_url="", mermaid_js_url="",
        html_manager_semver_range="", widget_renderer_url="", exclude_input_prompt=True, exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(nbformat.read(notebook, as_version=4))
    page.parent.mkdir(exist_ok=True)
    write_text(page, body)
