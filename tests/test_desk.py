"""The desk in JupyterLab: every control does what it says, and where there is no hand there are no controls.

The first half needs no browser. The second drives real JupyterLab, started as `make lab` does, with a headless Chromium.
"""
import asyncio
import json
import math
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import httpx2
import nbformat
import pandas as pd
import papermill
import pytest
from playwright.sync_api import Error, expect, sync_playwright

from conftest import own_run
from lib import NOTEBOOKS, ROOT, desk, execution, explorer, images, playground, records, rundir, tables
from lib.errors import UserError
from lib.exchange import Exchange
from lib.server import Server
from lib.shapes import Closed
from lib.stats import Estimate
from lib.workloads import Brief
from browser import BROWSER, COMPARED, RUN, SMALL
from replies import DONE, OK, answering, chunk, event
from series import run as run_series
from test_compare_runs import make as run_of
from test_notebooks import (code, test_it_has_one_parameters_cell_of_typed_commented_literals, test_logic_is_in_lib,  # noqa: F401
                            test_no_outputs_are_committed_but_those_that_are_compared)

HOSTILE = '<script>document.title = "harm"</script><img src=x onerror="harm()"> [a](http://evil.example) \x1b[31m \u202e $x$'


@pytest.fixture
def notebook():
    """What the tests of test_notebooks look at, here: they are run again for the desk."""
    return nbformat.read(NOTEBOOKS / "desk.ipynb", as_version=4)


# -- without a browser -------------------------------------------------------------------------------
async def press(run, url: str, question: str | None = None) -> playground.Playground:
    """A playground whose button has been pressed once."""
    panel = playground.Playground(SimpleNamespace(server=Server(url, "m"), run=run), "data/images", 1)
    if question is not None:
        panel.question.value = question
    await desk.started(panel.answer(), panel.line, panel.ask)
    return panel


@pytest.fixture
def run(tmp_path, monkeypatch):
    for module in (rundir, explorer):
        monkeypatch.setattr(module, "OUTPUTS", tmp_path)
    return rundir.RunDir("a-run")


def asked(run, *parts) -> playground.Playground:
    """Pressed once, with a stand-in that answers so."""
    async def once():
        async with answering(*parts) as url:
            return await press(run, url)
    return asyncio.run(once())


def test_whatever_a_model_replies_is_shown_as_text(run):
    """A stand-in says what the embedded model never would."""
    body = chunk(event(1, HOSTILE[:20])) + chunk(event(2, HOSTILE[20:], "stop")) + chunk(DONE) + chunk(b"")
    panel = asked(run, OK, body)
    assert "<script" not in panel.reply.value and "<img" not in panel.reply.value
    assert "&lt;script&gt;" in panel.reply.value and "[a](http://evil.example)" in panel.reply.value
    assert records.read(run.requests_file("playground"))["text"].tolist() == [HOSTILE]


def test_a_reply_in_a_table_is_text_too():
    shown = tables.show(pd.DataFrame({"text": [HOSTILE], "tokens": [3.0]})).to_html()
    assert "<script" not in shown and "<img" not in shown and "&lt;script&gt;" in shown


def test_a_table_without_rows_says_so():
    empty = pd.DataFrame({"configuration": [], "tokens": pd.Series([], dtype=float)})
    assert "none" in tables.show(empty).to_html() and "none" not in tables.show(pd.DataFrame({"configuration": ["A"], "tokens": [1.0]})).to_html()


def test_a_reply_of_100_000_characters_stays_in_its_box(run):
    panel = asked(run, OK, chunk(event(1, "x" * 100_000, "stop")) + chunk(DONE) + chunk(b""))
    assert 10_000 <= panel.reply.value.count("x") < 11_000 and "(100,000 characters)" in panel.reply.value and "overflow:auto" in panel.reply.value
    assert records.read(run.requests_file("playground"))["text"].str.len().tolist() == [100_000]


def test_a_server_that_refuses_a_picture_is_quoted_in_one_line(run):
    answer = json.dumps({"error": {"message": f"no pictures here {HOSTILE}"}}).encode()
    panel = asked(run, b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
    assert "no pictures here" in panel.line.value and "<script" not in panel.line.value and not panel.ask.disabled


def test_a_server_that_is_down_is_one_line_and_a_row(run):
    panel = asyncio.run(press(run, "http://127.0.0.1:9"))
    assert "no connection could be made" in panel.line.value and "Traceback" not in panel.line.value
    assert records.read(run.requests_file("playground"))["error"].tolist() == ["refused"]


def test_an_empty_question_is_not_sent(run):
    panel = asyncio.run(press(run, "http://127.0.0.1:9", "  \n "))
    assert "the question is empty" in panel.line.value and not run.requests_file("playground").exists()


def test_the_picture_that_is_shown_is_the_one_that_is_asked_about_also_where_a_choice_comes_while_another_is_drawn(run, monkeypatch):
    """In JupyterLab a click and a choice are handled by two threads of the kernel."""
    panel, make = playground.Playground(SimpleNamespace(server=Server("http://127.0.0.1:9", "m"), run=run), "data/images", 1), images.make
    early, late = (playground.DRAWN + kind for kind in ("word", "count"))
    choice = threading.Thread(target=lambda: setattr(panel.choice, "value", late))

    def slowly(kind, seed):
        if playground.DRAWN + kind == early:
            choice.start()
            choice.join(0.5)  # it waits for this picture, or would be overtaken by it
        return make(kind, seed)
    monkeypatch.setattr(images, "make", slowly)
    panel.choice.value = early
    choice.join()
    assert bytes(panel.image.value) == panel.picture.data == make("count", panel.seed).data


def test_the_verdicts_of_a_series_are_each_told_once():
    several = {"TTFT": "client-bound: busy", "TPOT": "client-bound: busy; too few samples: 13", "ITL": "client-bound: busy"}
    assert desk.reasons(several) == "client-bound: busy; too few samples: 13 (TPOT)"
    assert desk.reasons({"TTFT": "valid", "TPOT": "valid"}) == "valid"


def test_text_is_read_from_any_pieces_of_the_stream():
    first = event(0) + event(1, "Grüße")
    stream, exchange = first + b": keep-alive\n\n" + event(2, "，星") + DONE, Exchange()
    arrived = playground.Arrived(exchange)
    for at in range(len(stream)):
        exchange.read_at.append(float(at))
        exchange.read_to.append(at + 1)
        arrived.feed(stream[at:at + 1])
    assert arrived.text == "Grüße，星" and arrived.first_at == len(first) - 2  # the byte that ended its line


def test_an_answer_is_shown_while_it_comes(run):
    """A stand-in that pauses: the embedded model has said all of a short answer before a second drawing."""
    async def once():
        async with answering(OK, chunk(event(1, "A red ")), 0.5, chunk(event(2, "star.", "stop")) + chunk(DONE) + chunk(b"")) as url:
            panel, seen = playground.Playground(SimpleNamespace(server=Server(url, "m"), run=run), "data/images", 1), []
            panel.reply.observe(lambda change: seen.append(change.new), "value")
            await desk.started(panel.answer(), panel.line, panel.ask)
            return seen
    assert [re.search(r">([^<]*)</pre>", reply)[1] for reply in asyncio.run(once())] == ["", "A red ", "A red star."]


def said_of(run_folder, series: str) -> str:
    """What the explorer says of a series of a folder under outputs/; no picture may stand beside a complaint."""
    panel = explorer.Explorer(run_folder)
    panel.series.value = series
    assert not any(image.value for image in panel.images)
    assert "Traceback" not in panel.line.value and panel.line.value.count("<div") == 1
    return panel.line.value


ROW = {"series": "s", "index": 0, "phase": "measure", "sent": 1.0, "first": 2.0, "last": 3.0, "done": 3.0, "output_tokens": 3,
       "reads": [[1.0, 1], [2.0, 2]], "text": "abc"}


@pytest.mark.parametrize("content, words", [
    ("", "holds no requests with times"),
    ('{"torn', "holds no requests with times"),
    (json.dumps(ROW | {"error": "refused", "reads": [], "output_tokens": 0}), "has no TTFT"),
    (json.dumps(ROW | {"reads": [[1, 2, 3], "x"]}), "holds no requests with times"),
    (json.dumps(ROW | {"sent": HOSTILE}), "holds no requests with times"),
])
def test_records_that_tell_nothing_are_one_line(run, content, words):
    run.requests_file("s").write_text(content)
    assert words in said_of("a-run", "s")


def test_a_damaged_file_beside_the_records_is_named(run):
    run.requests_file("s").write_text(json.dumps(ROW))
    (run.path / "series.json").write_text("{torn")
    assert "series.json in run a-run is damaged" in said_of("a-run", "s")


def test_a_run_of_which_only_the_records_are_left_is_shown(run):
    run.requests_file("s").write_text("".join(json.dumps(ROW | {"index": i, "sent": i, "first": i + 1}) + "\n" for i in range(5)) + '{"torn')
    panel = explorer.Explorer("a-run")
    assert all(bytes(image.value).startswith(b"\x89PNG") for image in panel.images)
    assert "load not told" in panel.line.value and "1 torn lines" in panel.line.value


def test_what_is_drawn_is_what_is_chosen_also_where_a_choice_comes_while_something_else_is_drawn(run, monkeypatch):
    """As in JupyterLab, which has a click and a choice handled by two threads of the kernel."""
    for name in ("early", "late"):
        run.requests_file(name).write_text("".join(json.dumps(ROW | {"series": name, "index": i}) + "\n" for i in range(5)))
    panel, draw = explorer.Explorer("a-run"), explorer.shown
    choice = threading.Thread(target=lambda: setattr(panel.series, "value", "late"))

    def slowly(name, series, *others):
        if series == "early":
            choice.start()
            choice.join(0.5)  # it waits for this drawing, or would be overtaken by it
        return draw(name, series, *others)
    monkeypatch.setattr(explorer, "shown", slowly)
    panel.again.click()
    choice.join()
    assert panel.series.value == "late" and "late in run a-run" in panel.line.value


def test_an_empty_outputs_folder_says_what_to_do(run):
    assert "measure something" in explorer.Explorer().line.value


def test_a_past_run_that_does_not_exist_is_named(run):
    with pytest.raises(UserError, match="there is no run 'yesterday'"):
        explorer.explorer("yesterday")


def test_without_a_hand_everything_is_done_once_and_no_dead_control_is_left(as_user, run_name, tmp_path, monkeypatch):
    """papermill, then a page: what a reader of a run or of a code host gets."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)  # where these tests are run from a notebook
    done = subprocess.run(
        [sys.executable, "-m", "papermill", NOTEBOOKS / "desk.ipynb", "out.ipynb", "-p", "run_name", run_name, "-p", "look_at", run_name,
         "-p", "seconds", "2", "--no-progress-bar"],
        cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    execution.write_page(tmp_path / "out.ipynb", tmp_path / "out.html")
    source, page = (tmp_path / "out.ipynb").read_text(), (tmp_path / "out.html").read_text()
    assert desk.WIDGET not in source and not re.search(r"<(button|select|textarea|input)\b|jupyter-widgets\"", page.split("<body")[1])
    assert "(TTFT)" in page and "throughput, tokens/s" in page and page.count("data:image/png") >= 3


# -- in JupyterLab -----------------------------------------------------------------------------------
in_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH, so the notebooks are not tested in JupyterLab: "
                                                        "install one (on Debian: apt install chromium)")
ENDED = """() => {  // a cell that waits or runs has a star; what comes after one that failed has nothing again
    const prompts = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputArea-prompt')].map(p => p.textContent)
    return prompts.some(p => /\\d/.test(p)) && !prompts.some(p => p.includes('*'))
}"""


@pytest.fixture(scope="module")
def lab(server, tmp_path_factory):
    """Real JupyterLab as `make lab` starts it, on copies of the notebooks, with small parameters -> (URL, folder).
    The settings are the tests' own, and all cells are in the page, not only those in sight."""
    home, token, port = tmp_path_factory.mktemp("lab"), secrets.token_hex(8), free_port()
    tracker = home / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')
    env = os.environ | {
        "WORKBOOK_SERVER": server.url, "WORKBOOK_API_KEY": server.api_key, "JUPYTER_TOKEN": token, "JUPYTER_PORT": str(port),
        "BROWSER": "true", "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "IPYTHONDIR": str(home / "ipython")}
    with own_run(RUN), own_run(COMPARED[0]), own_run(COMPARED[1]):
        for seed, name in enumerate(COMPARED):
            run_of(name, seed, slower=1 + 0.2 * seed)
        folder = copies(home / "notebooks", RUN)
        process = subprocess.Popen([sys.executable, "-m", "lib.cli", "lab", str(folder)], cwd=ROOT, env=env, start_new_session=True,
                                   stdin=subprocess.DEVNULL, stdout=(home / "lab.log").open("wb"), stderr=subprocess.STDOUT)
        api = httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/", headers={"Authorization": f"token {token}"}, timeout=30)
        try:
            until(lambda: answers(api), 60, lambda: (home / "lab.log").read_text())
            yield SimpleNamespace(url=f"http://127.0.0.1:{port}", token=token, folder=folder, api=api)
            api.post("shutdown")
            assert process.wait(60) == 0, "workbook lab ends with JupyterLab"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def copies(folder, run: str):
    """The notebooks with small parameters; their results go to `run`."""
    folder.mkdir()
    for path in NOTEBOOKS.glob("*.ipynb"):
        declared = papermill.inspect_notebook(str(path))
        given = {k: v for k, v in ({"run_name": run} | SMALL.get(path.stem, {})).items() if k in declared}
        notebook = papermill.iorw.load_notebook_node(str(path))
        nbformat.write(papermill.parameterize.parameterize_notebook(notebook, given), folder / path.name)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(true, seconds: float, otherwise=lambda: ""):
    """Wait for `true()`."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"waited {seconds} s in vain: {otherwise()[-3000:]}"
        time.sleep(0.2)
    return found


def answers(api) -> bool:
    try:
        return api.get("status").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture(scope="module")
def series_to_look_at(server, lab):
    """Two real series in the run."""
    for name, streams in (("alone", 1), ("together", 4)):
        folder = rundir.RunDir(RUN).path / "requests"
        run_series(server, folder, Brief(8, 0.0, 1, name), Closed(streams), count=30)
        (folder / "s.jsonl").rename(folder / f"{name}.jsonl")


@pytest.fixture(scope="module")
def page(lab, series_to_look_at):
    """A page of a headless browser. While it is there, this thread has an event loop: asyncio.run has to come before."""
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=BROWSER) as browser:
        yield browser.new_page(viewport={"width": 1500, "height": 1000})


def run_all(page, lab, name: str, seconds: float = 300):
    """Run all of the notebook that is being opened by the menu, save it -> what was saved, and what went wrong in the page itself."""
    faults = []
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
    until(lambda: ready(lab, name), 60)
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
    page.wait_for_function(ENDED, timeout=seconds * 1000, polling=300)  # ms; unless told it looks at every frame, and takes a third of a core
    page.keyboard.press("Control+s")
    saved = until(lambda: whole(lab.folder / f"{name}.ipynb"), 30)
    return saved, faults


def ready(lab, name: str) -> bool:
    """Does the notebook have a kernel that waits for work?"""
    return any(s["path"] == f"{name}.ipynb" and s["kernel"]["connections"] and s["kernel"]["execution_state"] == "idle"
               for s in lab.api.get("sessions").json())


def whole(path):
    """A notebook, once it has been saved with all it has put out."""
    try:
        notebook = nbformat.read(path, 4)
    except nbformat.reader.NotJSONError:  # JupyterLab is writing it: it empties the file first
        return None
    ran = [c.execution_count is not None for c in code(notebook)]
    return notebook if all(ran) or errors(notebook) else None


def errors(notebook) -> list[str]:
    return [f"{o.ename}: {o.evalue}" for c in code(notebook) for o in c.outputs if o.output_type == "error"]


def close(page, lab) -> None:
    """Close the notebook and end its kernel: two cores and their memory are needed again."""
    page.locator(".jp-mod-current .lm-TabBar-tabCloseIcon").click()
    page.locator(".jp-Notebook").wait_for(state="detached")
    for session in lab.api.get("sessions").json():
        lab.api.delete(f"sessions/{session['id']}")


@in_browser
@pytest.mark.parametrize("name", [name for name in SMALL if name != "desk"])
def test_a_notebook_runs_from_top_to_bottom_in_jupyterlab(page, lab, name):
    if not page.url.startswith(lab.url) or page.locator(".jp-Notebook").count():  # else the page stays: it loads for seconds
        page.goto(f"{lab.url}/lab?reset&token={lab.token}")
    page.locator(".jp-DirListing-item", has_text=f"{name}.ipynb").dblclick(timeout=60_000)
    notebook, faults = run_all(page, lab, name)
    close(page, lab)
    assert errors(notebook) == [] and faults == []


@pytest.fixture(scope="module")
def desk_page(lab, page):
    """The desk, run from top to bottom, with its three panels in the page."""
    first = httpx2.get(f"{lab.url}/?token={lab.token}", follow_redirects=False).headers["location"]
    assert "/lab/tree/desk.ipynb" in first, "make lab opens the desk"
    page.goto(f"{lab.url}/lab/tree/desk.ipynb?reset&token={lab.token}")
    notebook, faults = run_all(page, lab, "desk")
    assert errors(notebook) == [] and faults == []
    for panel in (".playground", ".trial", ".explorer"):
        expect(page.locator(panel)).to_be_visible(timeout=20_000)
    yield page
    close(page, lab)


@in_browser
def test_the_playground_streams_an_answer_about_the_picture_beside_it(desk_page):
    panel = desk_page.locator(".playground")
    panel.get_by_label("picture").select_option("drawn: receipt")
    expect(panel.locator("img")).to_be_visible()
    assert panel.get_by_label("question").input_value()
    desk_page.evaluate("""() => {  // what stood there, from moment to moment
        window.seen = []
        new MutationObserver(() => window.seen.push(document.querySelector('.playground .reply').textContent))
            .observe(document.querySelector('.playground'), {subtree: true, childList: true, characterData: true})
    }""")
    for _ in range(10):  # a busy machine may read a short answer in one piece
        panel.get_by_role("button", name="Ask").click()
        expect(panel.get_by_text("ms in all")).to_be_visible(timeout=30_000)
        reply = panel.locator(".reply").inner_text()
        grew = desk_page.evaluate("window.seen.splice(0)")
        if any(0 < len(part) < len(reply) for part in grew):
            break
    assert any(0 < len(part) < len(reply) and reply.startswith(part) for part in grew), grew
    picture, answer = (panel.locator(part).bounding_box() for part in ("img", ".reply"))
    assert answer["x"] > picture["x"] + picture["width"] and answer["y"] < picture["y"] + picture["height"], "beside each other"
    row = records.read(rundir.RunDir(RUN).requests_file("playground")).iloc[-1]
    shown = re.search(r"first token after ([\d.,]+) ms", panel.inner_text())[1]
    assert row["text"] == reply and row["error"] is None
    assert float(shown.replace(",", "")) == pytest.approx((row["first"] - row["sent"]) * 1000, rel=1e-3)


@in_browser
def test_the_playground_says_in_a_line_that_a_question_is_missing(desk_page):
    panel = desk_page.locator(".playground")
    panel.get_by_label("question").fill(" ")
    panel.get_by_role("button", name="Ask").click()
    expect(panel.get_by_text("the question is empty: write one")).to_be_visible()


@in_browser
def test_the_sliders_run_a_measurement_and_show_interval_and_verdict(desk_page):
    panel = desk_page.locator(".trial")
    panel.locator(".widget-readout").first.fill("2")
    panel.locator(".widget-readout").first.press("Enter")
    panel.get_by_role("button", name="Measure").click()
    expect(panel.locator("td", has_text="closed loop, 2 in flight")).to_be_visible(timeout=60_000)
    figures = rundir.RunDir(RUN).figures()
    ttft = figures["by_hand.2-64-32.ttft.median"]
    ends = [math.nan if end is None else end for end in ttft["interval"]]  # a slow machine answers too few for one
    assert tables.with_interval(Estimate(ttft["value"], *ends, ttft["n"])) in panel.inner_text()
    published = {name: figures[f"by_hand.2-64-32.{key}.mean"]["verdict"]
                 for key, name in zip(("ttft", "tpot", "total", "throughput_tps"), desk.JUDGED)}
    assert desk.reasons(published) in panel.inner_text()


@in_browser
def test_the_explorer_draws_anew_when_another_series_is_picked(desk_page):
    panel = desk_page.locator(".explorer")
    panel.get_by_role("button", name="look again").click()
    panel.get_by_label("run").select_option(RUN)
    plots = [[None, None]]
    for series in ("alone", "together"):
        panel.get_by_label("series").select_option(series)
        expect(panel.get_by_text(f"{series} in run {RUN}")).to_be_visible(timeout=20_000)
        plots.append(until(lambda: both(panel, lambda new: new[0] != plots[-1][0] and new[1] != plots[-1][1]), 20, lambda: "another series, other plots"))
    panel.get_by_label("metric").select_option("TPOT")
    expect(panel.get_by_text("TPOT = ")).to_be_visible(timeout=20_000)
    until(lambda: both(panel, lambda new: new[0] != plots[-1][0] and new[1] == plots[-1][1]), 20, lambda: "another metric of the same requests")


def both(panel, are) -> list | None:
    """The two pictures of the explorer, as pixels, once they `are` so: each comes by itself, and a page that is drawn anew has none for a moment."""
    try:
        found = [pixels_of(image) for image in panel.locator("img").all()]
    except Error:  # one was taken away while it was looked at
        return None
    return found if len(found) == 2 and are(found) else None


def pixels_of(image) -> list[int]:
    """A picture in the page as the browser has decoded it."""
    return image.evaluate("""async image => {
        await image.decode()
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight), context = canvas.getContext('2d')
        context.drawImage(image, 0, 0)
        const digest = await crypto.subtle.digest('SHA-256', context.getImageData(0, 0, canvas.width, canvas.height).data)
        return [...new Uint8Array(digest)]
    }""")
