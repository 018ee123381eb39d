"""Every notebook has the form that readers and papermill rely on, and runs from top to bottom."""
import ast
import os
import re
import subprocess
import sys
from ast import literal_eval

import nbformat
import pytest

from browser import BROWSER
from lib import NOTEBOOKS, ROOT, catalog

NAMES = catalog.all_notebooks()
CHECKED = "nbval-check-output"


@pytest.fixture(params=[*NAMES, *catalog.APART])
def notebook(request):
    return nbformat.read(NOTEBOOKS / f"{request.param}.ipynb", as_version=4)


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def python_of(cell) -> str:
    """The Python in a cell: shell lines and their continuations are left out."""
    return re.sub(r"^!(?:.*\\\n)*.*$", "", cell.source, flags=re.M)


def test_it_opens_with_number_question_and_cost(notebook):
    head = notebook.cells[0].source
    assert re.match(r"# \d\d · .+\?|# \d\d · .+: ", head), "H1 with its number and one question"
    assert all(word in head for word in ("Needs:", "Writes:", "Takes:"))
    assert notebook.metadata.title in head


def test_it_has_one_parameters_cell_of_typed_commented_literals(notebook):
    cells = [c for c in code(notebook) if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    for line in cells[0].source.splitlines():
        match = re.fullmatch(r"(\w+): (\w+|list\[\w+\]) = (.+?)  # .+", line)
        assert match, f"not `name: type = literal  # comment`: {line}"
        assert type(literal_eval(match[3])).__name__ == match[2].split("[")[0]


def test_logic_is_in_lib(notebook):
    for cell in code(notebook):
        tree = ast.parse(python_of(cell))
        nodes = list(ast.walk(tree))
        assert not any(isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)) for n in nodes)
        loops = [n for n in nodes if isinstance(n, (ast.For, ast.While))]
        assert all(n.end_lineno - n.lineno < 3 for n in loops), "a loop of more than three lines"
        assert len(cell.source.splitlines()) <= 15, cell.source


def test_it_predicts_measures_shows_checks_and_reads(notebook):
    heads = [line for c in notebook.cells if c.cell_type == "markdown" for line in c.source.splitlines() if line.startswith("## ")]
    assert heads == ["## Expect", "## Measure", "## See", "## Check", "## Read"]
    assert any(isinstance(n, ast.Assert) for c in code(notebook) for n in ast.walk(ast.parse(python_of(c))))


def test_no_outputs_are_committed_but_those_that_are_compared(notebook):
    for cell in code(notebook):
        kept = CHECKED in cell.metadata.get("tags", [])
        assert bool(cell.outputs) == kept, f"outputs {'missing' if kept else 'left'} in: {cell.source[:60]}"


def test_no_notebook_repeats_ten_lines_of_another():
    seen = {}
    for name in NAMES:
        lines = [line for c in code(nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)) for line in c.source.splitlines()]
        for start in range(len(lines) - 9):
            other = seen.setdefault(tuple(lines[start:start + 10]), name)
            assert other == name, f"{name} and {other} share: {lines[start]}"


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_in_its_own_folder_with_its_committed_defaults(name, as_user, finished_run):
    """nbval: as a reader runs it in JupyterLab. `finished_run` gives the report something to report on."""
    if BROWSER and name not in ("08_endurance", "09_report"):
        pytest.skip("runs from top to bottom in JupyterLab itself (tests/test_desk.py), and has just been run with the smoke profile")
    done = subprocess.run([sys.executable, "-m", "pytest", "--nbval-lax", "-p", "no:cacheprovider", f"notebooks/{name}.ipynb"],
                          cwd=ROOT, env=os.environ | {"WORKBOOK_SERVER": as_user.url}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]


def test_it_runs_by_plain_papermill_from_any_folder(as_user, tmp_path, run_name):
    done = subprocess.run(
        [sys.executable, "-m", "papermill", NOTEBOOKS / "02_single_request.ipynb", "out.ipynb", "-p", "server", as_user.url,
         "-p", "run_name", run_name, "-p", "requests", "25", "-p", "max_tokens", "8", "--no-progress-bar"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    out = nbformat.read(tmp_path / "out.ipynb", 4)
    text = str(out)
    assert "tokens/s" in text and as_user.api_key not in text
    assert sum("image/png" in o.get("data", {}) for c in code(out) for o in c.outputs) == 4
