"""One notebook through papermill, what became of it, and its page."""
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbconvert import HTMLExporter
from tqdm import tqdm
from traitlets.config import Config

from lib import OUTPUTS, ROOT, catalog, hold, resume, time_limit
from lib.errors import UserError
from lib.hiding import hide, hide_in
from lib.rundir import RunDir, write_text

FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or what one may have of it


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


def execute(folder: RunDir, name: str, parameters: dict, url: str, limit: time_limit.Limit = time_limit.Limit()) -> None:
    """One notebook through papermill, then its page; its state goes to run.json whatever happens."""
    if not limit.lasts:
        _enter(folder, name, limit.left_out())
        return tqdm.write(f"{name} {limit.left_out()['error']}", file=sys.stderr)
    target = folder.path / "notebooks" / f"{name}.ipynb"
    target.parent.mkdir(exist_ok=True)
    declared = catalog.declared_parameters(name)
    given = {k: v for k, v in parameters.items() if k in declared} | {"server": url, "run_name": folder.name}
    state, began = {"status": "interrupted"}, time.monotonic()
    _enter(folder, name, state)
    try:
        with time_limit.watched(limit) as dog, tempfile.TemporaryDirectory(prefix="workbook-") as sockets:
            papermill.execute_notebook(
                str(catalog.source(name)), str(target), parameters={k: v for k, v in given.items() if k in declared},
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
        raise UserError(disk_full(folder))


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


def write_page(notebook: Path, page: Path) -> None:
    """An executed notebook -> one HTML file that loads nothing from elsewhere."""
    exporter = HTMLExporter(
        embed_images=True, require_js_url="", mathjax_url="", jquery_url="", mermaid_js_url="",
        html_manager_semver_range="", widget_renderer_url="", exclude_input_prompt=True, exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(nbformat.read(notebook, as_version=4))
    page.parent.mkdir(exist_ok=True)
    write_text(page, body)


def disk_full(folder: RunDir) -> str:
    """What is said of a disk that is."""
    free = shutil.disk_usage(folder.path).free / 2**20
    return (f"the disk is full ({free:,.1f} MiB free where the run is): what was measured is kept; free some, then "
            f"{resume.goes_on(folder.name)}")
