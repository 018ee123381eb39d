"""The `workbook` command. Each command imports what it needs when it needs it, so that a typing mistake is told at once."""
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated

import typer

from lib import NOTEBOOKS, OUTPUTS, errors
from lib.hiding import hide

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Evaluates a vLLM server with notebooks and writes a report.")
SERVER = "embedded, a URL (or HOST:PORT), a model id or folder, shape:MODEL (random weights); auto: what WORKBOOK_SERVER names, else embedded"
ServerOption = Annotated[str, typer.Option(help=SERVER)]
LoadOption = Annotated[str, typer.Option(envvar="WORKBOOK_LOAD", help="a Ray cluster that sends the requests: ray, auto, "
                                         "HOST:PORT or ray://HOST:10001; this machine's processes unless told")]
FlagsOption = Annotated[str, typer.Option(help="vLLM's own flags for a server that is started, as one string")]


@app.command()
def run(
    notebooks: Annotated[list[str] | None, typer.Argument(help="which notebooks (02, single_request, a path); all if none is named")] = None,
    profile: Annotated[str, typer.Option(help="parameters from data/profiles/PROFILE.yaml; smoke unless told")] = "",
    server: ServerOption = "auto",
    flags: FlagsOption = "",
    parameter: Annotated[list[str] | None, typer.Option("-p", "--parameter", help="KEY VALUE (or KEY=VALUE), for the notebooks that declare it")] = None,
    name: Annotated[str, typer.Option(help="the run's folder under outputs/")] = "",
    load: LoadOption = "",
    resume: Annotated[str, typer.Option(metavar="RUN", help="go on with a run that was cut off: what is done stays, the rest is run again")] = "",
    like: Annotated[str, typer.Option(metavar="RUN", help="make a run again as it was, on its server or on --server, and compare the two")] = "",
    within: Annotated[float | None, typer.Option(metavar="MINUTES", help="the run ends by itself so many minutes after it began, report included: "
                                                 "what does not fit is cut short or left out")] = None,
) -> None:
    """Run the notebooks end to end against one server and write the report."""
    from lib import time_limit

    ends = time_limit.Within(within)  # its minutes count from here
    from lib import plans

    given = {"profile": profile, "notebooks": notebooks or [], "parameters": plans.parse_parameters(parameter or []), "flags": flags}
    if resume and (like or name):
        raise errors.UserError(f"--resume goes on in the run's own folder: leave --{'like' if like else 'name'} out")
    if like and any(given.values()):
        raise errors.UserError(f"--like makes a run again as it was: leave out {', '.join(k for k, v in given.items() if v)}")
    if resume:
        from lib import again

        todo = again.resumed(resume, server, load=load, **given)
    elif like:
        from lib import again, finished

        like = str(finished.open_run(like).path)  # before hours pass: what could not be compared
        todo = again.repeated(Path(like).name, server, name, load)
    else:
        todo = plans.make(profile or "smoke", server, given["notebooks"], given["parameters"], flags, name, load)
    from lib import report, runner  # they take seconds, which a mistyped command is told without
    from lib.resume import goes_on

    todo.within = dataclasses.replace(ends, minutes=within or todo.within.minutes)
    folder, well = runner.run(todo)
    print(report.shown(folder.path / "report.html"))
    if folder.name == (OUTPUTS / "latest").resolve().name:
        print(report.shown(OUTPUTS / "latest" / "report.html"))
    if like:
        _compared([like, str(folder.path)])
    if not well:
        print(f"this run is unfinished: {goes_on(folder.name)}", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="embedded, a model id, a folder or shape:MODEL")] = "embedded",
    flags: FlagsOption = "",
) -> None:
    """Start a server to explore against and keep it until Ctrl-C."""
    from lib import launch, report

    with launch.open_server(model, flags) as server:
        print(f"{hide(server.model)} on vLLM {server.version} at {server.url}\n"
              f"  export WORKBOOK_SERVER={server.url} WORKBOOK_API_KEY={server.api_key}\nCtrl-C stops it.")
        while server.alive():
            time.sleep(0.5)
        raise errors.UserError(f"the server ended by itself; its log is {report.shown(server.log)}")


@app.command()
def lab(
    folder: Annotated[Path, typer.Argument(help="the notebooks to open: the workbook's, or a folder with copies of them")] = NOTEBOOKS,
    server: ServerOption = "auto",
    flags: FlagsOption = "",
) -> None:
    """JupyterLab on the notebooks, with a server running; both end together."""
    from lib import launch, rundir

    if not folder.is_dir():
        raise errors.UserError(f"there is no folder {str(folder)!r}: name one that holds notebooks")
    opened = ["--LabApp.default_url=/lab/tree/desk.ipynb"] if (folder / "desk.ipynb").exists() else []
    with launch.open_server(server, flags, rundir.RunDir("desk").path) as running:
        env = os.environ | {"WORKBOOK_SERVER": running.url, "WORKBOOK_API_KEY": running.api_key or ""}
        subprocess.run([sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--notebook-dir={folder}", *opened,
                        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=",
                        *(["--allow-root"] if os.getuid() == 0 else [])], env=env, check=False)


@app.command("report")
def report_(name: Annotated[str, typer.Argument(metavar="RUN", help="a run under outputs/")] = "latest") -> None:
    """Write a run's report again from its files; needs no server."""
    from lib import rundir

    run = rundir.find(name)
    from lib import finished, report

    with finished.reading(run.name, "no report can be made of it"):
        print(report.shown(report.build(run)))


@app.command()
def claims(
    name: Annotated[str, typer.Argument(metavar="RUN", help="a run under outputs/")] = "latest",
    file: Annotated[str, typer.Option(help="a claims file of your own, kept with the run and shown in its report; see data/claims/README.md")] = "",
    lang: Annotated[str, typer.Option(help="en or zh")] = "en",
) -> None:
    """Hold published claims against a run: the article's, or those of a file."""
    from lib import rundir

    run = rundir.find(name)
    from lib import claim_rules, claim_words, finished, report

    with finished.reading(run.name, "the claims cannot be held against it"):
        print(claim_words.as_text(claim_rules.of_file(run, file, lang), lang))
        if (run.path / "claims.yaml").exists():
            print(f"The report and drafts of this run show these claims in place of the article's; `workbook claims {run.name} --file article` "
                  "brings those back.")
        print(report.shown(report.build(run)))


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="the run to compare with, then the others: names under outputs/, folders, or result files "
                                                   "of vllm bench serve, GuideLLM or AIPerf")],
    any_model: Annotated[bool, typer.Option("--any-model", help="compare also runs of different models")] = False,
    name: Annotated[str, typer.Option(help="the folder under outputs/ for the comparison")] = "",
) -> None:
    """Hold runs against each other: ratios with intervals, and what is set differently."""
    _compared(runs, any_model, name)


def _compared(runs: list[str], any_model: bool = False, name: str = "") -> None:
    from lib import compare_runs, finished, report, runner

    found = compare_runs.open_all(runs, any_model)  # what cannot be compared is told before anything is made
    with finished.reading(" and ".join(run.name for run in found), "they cannot be compared"):
        print(compare_runs.as_text(found))
    folder = runner.compare([str(run.path) for run in found], any_model, name)
    print(report.shown(folder.path / "html" / "10_compare.html"))
    if folder.info()["notebooks"]["10_compare"]["status"] != "done":
        raise typer.Exit(1)


@app.command()
def publish(
    name: Annotated[str, typer.Argument(metavar="RUN", help="a run under outputs/")] = "latest",
    lang: Annotated[str, typer.Option(help="en or zh")] = "en",
    format: Annotated[str, typer.Option(help="md (with its plots), html (one file), or ipynb (the notebooks without code)")] = "md",
) -> None:
    """Write a run's blog draft, every number of which is one of its figures; needs no server."""
    from lib import rundir

    run = rundir.find(name)
    from lib import finished, publish as publishing, report

    page = publishing.publish(name, lang, format)
    if left := finished.unfinished(run.info()):
        whole = finished.last_whole()
        print(hide(f"run {run.name} is unfinished ({left}), and its draft says so; " +
                   (f"the last whole one is {whole}: `workbook publish {whole}`" if whole else "there is no whole one")), file=sys.stderr)
    print(report.shown(page))


@app.command()
def doctor(
    server: Annotated[str, typer.Option(help="also check this URL")] = "",
    log: Annotated[list[Path] | None, typer.Option(help="also read this log of a server, from outputs/ or elsewhere")] = None,
) -> None:
    """What is wrong with this machine, and the remedy."""
    from lib import exposure, launch, machine, troubles

    checks = machine.checks() + [exposure.check()] + [troubles.check(path) for path in log or []]
    for check in checks:
        print(f"{'ok  ' if check.ok else 'BAD '} {check.name}: {check.found}" + ("" if check.ok else f"\n     {check.remedy}"))
    if server:
        found = launch.open_server(server)
        print(hide(f"ok   {found.url}: {found.model}, vLLM {found.version}"))
        if warning := exposure.warning(found):
            print(f"     {warning}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _joined(words: list[str]) -> list[str]:
    """`-p KEY VALUE`, papermill's form, as `-p KEY=VALUE`."""
    out, rest = [], iter(words)
    for word in rest:
        out.append(word)
        if word in ("-p", "--parameter"):
            key = next(rest, "")
            out.append(key if "=" in key else f"{key}={next(rest, '')}")
    return out


def main() -> None:
    """Entry point: what a user can mend is one line on stderr, status 2."""
    sys.excepthook = lambda *fault: print(hide("".join(traceback.format_exception(*fault))), file=sys.stderr, end="")  # a fault of ours
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `with` blocks stop their servers
    try:
        sys.exit(app(_joined(sys.argv[1:]), standalone_mode=False) or 0)  # a typer.Exit comes back as its code
    except errors.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno is None:
            raise
        free = shutil.disk_usage(OUTPUTS.parent).free / 2**30
        print(hide(f"error: {error.strerror} ({error.filename or 'no file named'}; {free:.1f} GiB of disk free): "
                   "mend that and run the command again"), file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for a word that it does not know
            raise
        command = f"workbook {error.ctx.info_name}" if getattr(error, "ctx", None) and error.ctx.parent else "workbook"
        print(hide(f"error: {error.format_message() or 'a command is missing'}: `{command} --help` lists what there is"), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
