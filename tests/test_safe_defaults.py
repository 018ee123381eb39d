"""Nobody but its user reaches a server that is started here, and nothing that came from elsewhere is run, or leads out of its folder."""
import ast
import asyncio
import json
import re
import shlex

import nbformat
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from papermill.translators import PythonTranslator

from lib import ROOT, claims, compare_runs, configurations, exposure, own_pictures, plans, publish, report, rundir, server
from lib.claim_rules import hold
from lib.errors import UserError
from lib.vllm_flags import Flag
from test_publish import change, made


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "OUTPUTS", tmp_path / "outputs")
    return made("some-run")


# -- who reaches a server ----------------------------------------------------------------------------
def test_a_server_that_is_started_listens_on_this_machine_alone_and_asks_for_a_random_key(server):
    family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    listening = {c.laddr.ip for process in family for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"} and exposure.asks_for_key(server.url) and len(server.api_key) >= 24
    assert exposure.warning(server) == ""


@pytest.mark.parametrize("places, words", [({8000: "python -m vllm"}, "all addresses"), ({}, "this machine's own address alone")])
def test_a_server_without_a_key_is_warned_of(monkeypatch, places, words):
    monkeypatch.setattr(exposure, "open_ports", lambda: places)
    monkeypatch.setattr(exposure, "_status", lambda url: 200)
    assert words in exposure.warning(server_at("http://127.0.0.1:8000")) and exposure.check().ok is (not places)
    assert "another machine" in exposure.warning(server_at("http://10.0.0.9:8000"))


def test_a_port_of_one_address_alone_is_not_called_open():
    async def listening():
        async with await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0) as here:
            return here.sockets[0].getsockname()[1] in exposure.open_ports()
    assert asyncio.run(listening()) is False  # on this address alone


def server_at(url: str) -> server.Server:
    return server.Server(url, "m")


# -- what would run ----------------------------------------------------------------------------------
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)))
def test_a_parameter_is_the_same_value_in_a_notebook_and_never_code(value):
    assert ast.literal_eval(PythonTranslator.translate(value)) == value


@pytest.mark.parametrize("value", ["__import__('os').system('touch x')", '"; import os; os.system("touch x") #', "!!python/object/apply:os.system ['touch x']"])
def test_a_parameter_that_looks_like_code_is_text_or_refused(value):
    try:
        (found,) = plans.parse_parameters([f"x={value}"]).values()
    except UserError:
        return
    assert found == value or isinstance(found, str)


def test_notebooks_that_came_with_a_run_are_not_run(run, tmp_path):
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')"
    for name in ("02_single_request", "09_report", "10_compare"):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), run.path / "notebooks" / f"{name}.ipynb")
    report.build(run)
    for form in publish.FORMATS:
        publish.publish(run.name, "en", form)
    compare_runs.sides([compare_runs.open_run(str(run.path))] * 2)
    assert not marker.exists()


@pytest.mark.parametrize("flags", ["--trust-remote-code", "--middleware evil.module", "--tool-parser-plugin x.py", "--worker-cls evil.Worker"])
def test_a_list_of_configurations_loads_no_code(flags):
    name = shlex.split(flags)[0]
    known = {name: Flag((name,), name.strip("-").replace("-", "_"), 0 if " " not in flags else None)}
    with pytest.raises(UserError, match="a list may not"):
        configurations.checked(configurations.read([{"name": "x", "flags": flags}]), [], known, 1)


def test_nothing_asks_vllm_or_transformers_to_trust_remote_code():
    files = [*(ROOT / "lib").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "data").rglob("*.yaml"), *(ROOT / "training").glob("*.py")]
    found = [file.name for file in files if "trust_remote_code" in file.read_text() or "trust-remote-code" in file.read_text()]
    assert found == ["configurations.py"]  # which refuses it


# -- what would lead elsewhere -----------------------------------------------------------------------
def test_a_report_shows_no_file_from_outside_the_runs_plots(run, tmp_path):
    (tmp_path / "secret.svg").write_text("<svg>a secret of this machine</svg>")
    for file in ("../../secret.svg", str(tmp_path / "secret.svg"), "run.json"):
        change(run, "plots.json", ["single_ttft", "file"], file)
        assert "base64,PHN2Zz5hIHNl" not in report.build(run).read_text()


def test_a_report_links_to_files_of_the_run_alone(run):
    change(run, "figures.json", ["single.ttft.mean", "records"], "javascript:alert(1)")
    change(run, "run.json", ["notebooks", "../../../evil"], {"status": "done"})
    page = report.build(run).read_text()
    assert 'href="javascript' not in page and 'href="html/..' not in page


def test_a_run_folder_that_leads_elsewhere_is_refused(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (rundir.OUTPUTS / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out of outputs/"):
        rundir.find("linked")
    with pytest.raises(UserError, match="no name of a series"):
        run.requests_file("../../x")


def test_a_series_of_another_folder_is_none_of_the_run(run):
    known = json.loads((run.path / "series.json").read_text())
    (run.path / "series.json").write_text(json.dumps({"../../single": known["single"]}))
    with pytest.raises(UserError, match="no name of a series"):
        compare_runs.open_run(str(run.path))


def test_a_claims_file_reads_vllms_files_alone(run, tmp_path):
    check = {"speaks": "for", "means": "m"}
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps({"source": "s", "model": "any", "hardware": "any", "claims": [
        {"id": "x", "en": "x", "evidence": [check | {"documented": "../" * 12 + str(path).lstrip("/"), "says": "source"}]}]}))
    assert [held.verdict for held in hold(claims.load(str(path)), run)] == ["untestable"]


def test_a_picture_that_leads_elsewhere_is_left_out(tmp_path):
    (tmp_path / "pictures").mkdir()
    own = next((ROOT / "data" / "images").glob("*.png"))
    (tmp_path / "pictures" / "a.png").symlink_to(own)
    found = own_pictures.load_folder(tmp_path / "pictures")
    assert found.pictures == [] and "no file of this folder" in str(found)


def test_every_row_of_the_threat_table_names_a_test_that_is_there():
    rows = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| ")][1:]
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", row)
        assert named and all(not name or f"def {name}(" in (ROOT / "tests" / file).read_text() for file, name in named), row
