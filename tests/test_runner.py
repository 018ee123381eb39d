"""`workbook run`: what is wrong is told before anything starts; what fails stops nothing else."""
import contextlib
import json
import math
import os
import subprocess
import sys

import nbformat
import pytest

from lib import NOTEBOOKS, OUTPUTS, ROOT, again, catalog, cli, execution, metrics, plans, records, report, runner
from lib.errors import UserError
from lib.rundir import RunDir
from lib.server import Server

STATISTICS = ("mean", "median", "min", "max", "p95", "p99")


# -- a run that goes well ----------------------------------------------------------------------------
def test_every_notebook_ran_and_left_its_page(finished_run):
    folder, well = finished_run
    states = {name: (state["status"], state.get("error")) for name, state in folder.info()["notebooks"].items()}
    assert states == {name: ("done", None) for name in catalog.all_notebooks()} and well
    for name in states:
        told = json.loads((folder.path / "notebooks" / f"{name}.ipynb").read_text())["metadata"]["papermill"]
        assert not any(os.path.isabs(told[key]) for key in ("input_path", "output_path")), "a notebook is shown: where it lay is nobody's business"
        page = folder.path / "html" / f"{name}.html"
        assert page.stat().st_size > 50_000 and report.loads_from_elsewhere(page) == []


def test_every_figure_is_there_sane_and_leads_back_to_its_records(finished_run):
    folder, _ = finished_run
    figures, asked = folder.figures(), folder.info()["parameters"]
    requests, tokens = asked["requests"], asked["max_tokens"]
    for metric in metrics.METRICS:
        for statistic in STATISTICS:
            figure = figures[f"single.{metric.removesuffix('_s')}.{statistic}"]
            assert (folder.path / figure["records"]).exists() and figure["notebook"] == "02_single_request"
            if statistic not in ("p95", "p99"):  # which so few requests need not carry
                assert 0 < figure["value"] < math.inf and figure["unit"]
                assert figure["n"] == requests or metric not in metrics.PER_REQUEST
    rows = metrics.measured(metrics.per_request(records.read(folder.requests_file("single"))))
    assert figures["single.ttft.median"]["value"] == pytest.approx(rows["ttft_s"].median() * 1000)
    low, high = figures["single.decode_tps.mean"]["interval"]
    assert low <= figures["single.decode_tps.mean"]["value"] <= high
    assert rows["output_tokens"].eq(tokens).all() and len(rows) == requests


def test_the_report_holds_figures_and_plots_and_loads_nothing(finished_run):
    folder, _ = finished_run
    page = folder.path / "report.html"
    text, source = report.as_text(page), page.read_text()
    assert "TTFT" in text and "Single request" in text and folder.info()["model"] in text
    assert source.count("data:image/svg+xml;base64,") == len(folder.plots()) >= 5
    assert report.loads_from_elsewhere(page) == []


def test_no_key_is_written_anywhere(finished_run, server):
    folder, _ = finished_run
    for path in folder.path.rglob("*"):
        if path.is_file():
            assert server.api_key.encode() not in path.read_bytes(), path


# -- a notebook that fails ---------------------------------------------------------------------------
def test_a_failed_notebook_stops_nothing_and_is_shown(as_user, run_name, tmp_path, monkeypatch, capsys):
    for name in ("01_health_check", "09_report"):
        (tmp_path / f"{name}.ipynb").write_bytes((NOTEBOOKS / f"{name}.ipynb").read_bytes())
    broken = nbformat.read(NOTEBOOKS / "01_health_check.ipynb", 4)
    broken.cells = broken.cells[:2] + [nbformat.v4.new_code_cell("raise ValueError('planted fault')")]
    nbformat.write(broken, tmp_path / "00_setup.ipynb")
    monkeypatch.setattr(catalog, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(catalog, "load_profile", lambda profile: {"questions": 1, "rush_streams": 8})  # of the sound one
    monkeypatch.setattr(sys, "argv", ["workbook", "run", "--name", run_name])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    states = json.loads((OUTPUTS / run_name / "run.json").read_text())["notebooks"]
    assert [states[n]["status"] for n in sorted(states)] == ["failed", "done", "done"]
    text = report.as_text(OUTPUTS / run_name / "report.html")
    assert "planted fault" in text and "failed" in text
    told = capsys.readouterr().err
    assert "00_setup failed" in told and f"`workbook run --resume {run_name}` goes on with it" in told


# -- bad input ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("arguments, words", [
    (["--profile", "smok"], "did you mean 'smoke'"),
    (["--profile", "../secrets"], "there is no profile"),
    (["03_nothing"], "there is no notebook"),
    (["02_single_requests"], "did you mean '02_single_request'"),
    (["-p", "request", "10"], "did you mean 'requests'"),
    (["-p", "requests", "many"], "'requests' takes int"),
    (["-p", "requests", "1.5"], "'requests' takes int"),
    (["-p", "temperature", "[1]"], "'temperature' takes float"),
    (["-p", "requests", "{"], "not readable"),
    (["-p", "run_name", "x"], "--name"),
    (["06", "-p", "configurations", "my.yaml"], """write '["my.yaml"]' for that one"""),
    (["00", "-p", "requests", "10"], "none of the chosen notebooks declares 'requests'"),
    (["-p", "concurrency", "[4, 0]"], "at least 1 request"),
    (["-p", "concurrency", "[1000000000]"], "file descriptor"),
    (["-p", "tpot_target_ms", "0"], "cannot be met"),
    (["-p", "level_seconds", "0"], "greater than 0"),
    (["-p", "requests", "-5"], "requests -5: give a whole number of at least 1"),
    (["-p", "temperature", "-1"], "temperature -1.0: give a number of at least 0"),
    (["-p", "pictures", "/no/such/folder"], "no such folder"),
    (["--flags", "--max-model-len '8192"], "mend the quotes"),
    (["02", "--flags", "--max-model-length 4096"], "--flags: --max-model-length is no flag of this vLLM version; did you mean --max-model-len?"),
    (["02", "--flags", "--dtype float7"], "choose one of auto"),
    (["--server", "http://127.0.0.1:9"], "nothing answers"),
    (["--server", "/no/such/model"], "the model was not found"),
    (["--within", "0"], "--within 0: give a number of minutes above 0"),
    (["--within", "-3"], "--within -3: give a number"),
    (["--within", "nan"], "--within nan: give a number"),
    (["--within", "inf"], "at most 1,000,000"),
    (["--within", "soon"], "Invalid value for '--within'"),
    (["--within", "0.01", "--server", "http://127.0.0.1:9"], "nothing answers"),
    (["--name", "../escape", "--server", "http://127.0.0.1:9"], "not usable"),
])
def test_bad_input_is_one_line_and_a_status(arguments, words, monkeypatch, capsys, run_name):
    name = [] if "--name" in arguments else ["--name", run_name]
    monkeypatch.setattr(sys, "argv", ["workbook", "run", *name, *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert end.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], lines
    assert not (OUTPUTS / run_name).exists(), "what was refused left an empty run"


def test_an_interrupted_run_names_the_command_that_goes_on_with_it(run_name, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.launch, "open_server", interrupted)
    monkeypatch.setattr(sys, "argv", ["workbook", "run", "02", "--name", run_name])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130 and f"`workbook run --resume {run_name}` goes on with it" in capsys.readouterr().err
    assert again.resumed(run_name, "auto").notebooks == ["02_single_request"]


def test_a_run_never_overwrites_another(finished_run, server):
    folder, _ = finished_run
    with pytest.raises(UserError, match="exists: choose another"):
        runner.run(plans.make("smoke", server.url, [], {}, name=folder.name))


def test_values_are_read_never_evaluated():
    assert plans.parse_parameters(["a=__import__('os').getcwd()", "b=[1, 2]", "c=0.5"]) == {
        "a": "__import__('os').getcwd()", "b": [1, 2], "c": 0.5}


def test_parameters_take_papermills_form_and_the_short_one():
    assert cli._joined(["run", "-p", "requests", "5", "-p", "seed=3", "02"]) == ["run", "-p", "requests=5", "-p", "seed=3", "02"]


@pytest.mark.parametrize("words", [[], ["frobnicate"], ["run", "--bogus"], ["run", "--server"],
                                   ["run", "--flags", "--foo 'bar"], ["run", "--flags", "--port abc"]])
def test_a_mistyped_command_is_one_line(words, monkeypatch, capsys, run_name):
    monkeypatch.setattr(sys, "argv", ["workbook", *words, *(["--name", run_name] if "--flags" in words else [])])
    with pytest.raises(SystemExit) as end:
        cli.main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines


@pytest.mark.parametrize("words", [["run", "--profile", "smok"], ["run", "99"], ["run", "-p", "requests", "-5"], ["run", "--within", "0"], ["report", "nowhere"]])
def test_a_mistyped_command_is_told_before_what_takes_seconds_is_imported(words):
    told = subprocess.run([sys.executable, "-c", "import sys\nfrom lib import cli\ntry:\n    cli.main()\nfinally:\n    print(*sys.modules)", *words],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.stderr.startswith("error: "), told.stderr
    assert not {"openai", "pandas", "scipy", "nbformat", "papermill", "IPython"} & set(told.stdout.split())


def test_a_mistyped_option_names_the_nearest_and_the_help_of_its_own_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["workbook", "run", "--profle", "quick"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert "--profile" in said and "`workbook run --help`" in said


def test_a_key_among_the_flags_is_not_written_down():
    from lib import launch

    assert launch.without_key(["--api-key", "s3cret", "--port", "1"]) == ["--api-key", "***", "--port", "1"]
    assert launch.without_key(["--api-key=s3cret"]) == ["--api-key=***"]


def test_the_report_needs_no_server_so_none_is_started_for_it(run_name, monkeypatch):
    """After 06_tuning a large model is not there any more; the notebook after the report gets it again."""
    asked, ran = [], []
    kept = type("Kept", (), {"server": lambda self, last, made_room=False: asked.append((last, made_room)) or Server("http://127.0.0.1:9", "m")})
    monkeypatch.setattr(runner, "Keeper", lambda *given: kept())
    monkeypatch.setattr(runner.launch, "open_server", lambda *given: contextlib.nullcontext(Server("http://127.0.0.1:9", "m")))
    monkeypatch.setattr(runner.bench, "describe", lambda server: {"facts": {}})
    monkeypatch.setattr(execution, "execute", lambda folder, name, *given: ran.append(name))
    monkeypatch.setattr(RunDir, "make_latest", lambda self: None)
    todo = plans.make("smoke", "http://127.0.0.1:9", ["06", "09", "02"], {})
    with contextlib.ExitStack() as started:
        runner._measure(todo, RunDir(run_name), started)
    assert ran == ["06_tuning", "09_report", "02_single_request"]
    assert asked == [("", False), ("06_tuning", True)]


def test_a_run_of_the_report_alone_starts_no_server(run_name, monkeypatch):
    monkeypatch.setattr(runner.launch, "open_server", lambda *asked: pytest.fail("a server was started"))
    todo = plans.make("smoke", "embedded", ["09"], {}, name=run_name)
    assert "server" not in todo.announced()
    folder, well = runner.run(todo)
    assert well and "This run holds no figures" in report.as_text(folder.path / "report.html")
