"""The pictures of README.md, taken of a real run with a headless browser: python scripts/pictures.py [RUN]

`docs/report.png`, `docs/phone.png`, `docs/notebook.png` and `docs/desk.png`. RUN: a finished run under outputs/, the newest of the
whole workbook unless named. The desk is run against the embedded server, which is started for it. Needs Chromium or Chrome, and the packages of `test`.
"""
import io
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from lib import NOTEBOOKS, OUTPUTS, ROOT, errors, report, rundir

DOCS = ROOT / "docs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDE, PHONE = {"width": 1180, "height": 820}, {"width": 390, "height": 820}
NOTEBOOK, FROM = "05_multimodal", "What was asked and answered"  # of which notebook, from which words on
LARGEST = 250_000  # bytes


def main(name: str = "") -> None:
    whole = sorted(OUTPUTS.glob(f"*/html/{NOTEBOOK}.html"), key=lambda page: page.stat().st_mtime)
    run = rundir.find(name or (whole[-1].parent.parent.name if whole else "latest"))
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    page_of = run.path / "html" / f"{NOTEBOOK}.html"
    if browser is None:
        raise errors.UserError("no Chromium or Chrome on the PATH: install one (on Debian: apt install chromium)")
    if not page_of.exists():
        raise errors.UserError(f"run {run.name} has no page of {NOTEBOOK}: name a run of the whole workbook")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=browser) as chromium:
        address = report.build(run).as_uri()
        for file, size in (("report", WIDE), ("phone", PHONE)):
            page = chromium.new_page(viewport=size)
            page.goto(address)
            keep(file, page.screenshot())
        page = chromium.new_page(viewport=WIDE)
        page.goto(page_of.as_uri())
        page.get_by_text(FROM).first.evaluate("e => window.scrollTo(0, e.getBoundingClientRect().top + scrollY - 12)")
        keep("notebook", page.screenshot())
        with tempfile.TemporaryDirectory() as home:
            keep("desk", desk(chromium.new_page(viewport=WIDE), Path(home)))


def keep(name: str, picture: bytes) -> None:
    """As a PNG of few colours, which is a third of the size."""
    path = DOCS / f"{name}.png"
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(192).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{report.shown(path)}: {size / 1000:.0f} kB")
    if size > LARGEST:
        raise errors.UserError(f"{report.shown(path)} is larger than {LARGEST / 1000:.0f} kB: take less of the page")


def desk(page: Page, home: Path) -> bytes:
    """JupyterLab with the desk run, a question asked and answered; Lab and server end with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, notebooks = secrets.token_hex(8), home / "notebooks"
    notebooks.mkdir()
    shutil.copy(NOTEBOOKS / "desk.ipynb", notebooks)
    for extension, settings in (("notebook-extension/tracker", '{"windowingMode": "none"}'),  # else only what is in sight is in the page
                                ("apputils-extension/notification", '{"fetchNews": "false", "checkForUpdates": false}')):
        path = home / "settings" / "@jupyterlab" / f"{extension}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(settings)
    env = os.environ | {"JUPYTER_TOKEN": token, "JUPYTER_PORT": str(port), "BROWSER": "true", "JUPYTER_CONFIG_DIR": str(home / "config"),
                        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    lab = subprocess.Popen([sys.executable, "-m", "lib.cli", "lab", str(notebooks)], cwd=ROOT, env=env, start_new_session=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        opened(page, f"http://127.0.0.1:{port}/lab/tree/desk.ipynb?reset&token={token}", lab)
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
        page.get_by_text("(ipykernel) | Idle").wait_for(timeout=90_000)  # sooner, and Run All asks which kernel to take
        page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        panel = page.locator(".playground")
        panel.wait_for(timeout=120_000)
        panel.get_by_label("picture").select_option("drawn: receipt")
        panel.get_by_role("button", name="Ask").click()
        expect(panel.get_by_text("ms in all")).to_be_visible(timeout=60_000)
        page.keyboard.press("Control+b")  # the list of files aside
        panel.scroll_into_view_if_needed()
        page.wait_for_timeout(1500)
        return page.screenshot()
    finally:
        os.killpg(lab.pid, signal.SIGTERM)
        try:
            lab.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(lab.pid, signal.SIGKILL)


def opened(page: Page, address: str, lab: subprocess.Popen, seconds: float = 240) -> None:
    """Open a page as soon as its server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            page.goto(address)
            return
        except Exception:
            if lab.poll() is not None or time.monotonic() > end:
                raise errors.UserError("JupyterLab did not start: `workbook lab` says why")
            time.sleep(1)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except errors.UserError as error:
        sys.exit(f"error: {error}")
