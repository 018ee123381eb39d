"""The notebooks one after another: one server for the whole run, one folder for what comes of it."""
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime

from lib import OUTPUTS, bench, catalog, execution, hold, launch, repeat, report, resume, schedule
from lib.errors import OutOfTime, UserError
from lib.keeper import Keeper, say
from lib.plans import Plan
from lib.progress import mirrored
from lib.rundir import RunDir
from lib.server import Server
from lib.time_limit import REPORT


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
                print(f"interrupted: {resume.goes_on(folder.name)}", file=sys.stderr)
                raise
            except UserError:
                if not todo.resumed:
                    _leave_nothing(folder)
                raise
    except OSError as error:
        if error.errno in execution.FULL:
            raise UserError(execution.disk_full(folder)) from None
        raise


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
            profile=todo.profile, parameters=todo.parameters, command=repeat.command(todo, catalog.load_profile(todo.profile), catalog.all_notebooks()),
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
            execution.write_page(folder.path / "notebooks" / f"{name}.ipynb", page)
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
                        server, last = keeper.server(last, made_room=last == catalog.TUNING and not server.embedded), name
                    limit = todo.limit(name)
                execution.execute(folder, name, todo.parameters, server.url if server else "", limit)
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
        say(folder, "", str(error))
        return None
    about = bench.describe(server)
    repeat.same_server(folder, about["facts"], folder.info().get("facts", {}))
    folder.update_info(**about)
    os.environ["WORKBOOK_API_KEY"] = server.api_key or ""  # to the kernels; never into a notebook
    return server


def compare(words: list[str], any_model: bool, name: str = "") -> RunDir:
    """The notebook that holds finished runs against each other -> the folder with its page."""
    folder = RunDir(name or datetime.now().strftime("%Y-%m-%d_%H%M%S_compare"))
    execution.execute(folder, "10_compare", {"runs": words, "any_model": any_model}, "")
    return folder
