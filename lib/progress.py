"""Progress bars: tqdm in a terminal, one updated line of text in a notebook.

A notebook that the runner executes has no terminal. It leaves its line in the file that PROGRESS_FILE names,
and the runner's own bar shows it.
"""
import os
import re
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm


PROGRESS_FILE = "WORKBOOK_PROGRESS"


class _DisplayLine:
    """A file for tqdm that keeps a single notebook output up to date.

    tqdm's own notebook bar is a widget, and a widget leaves "0%" behind in an executed notebook that is
    read as HTML or on a code host. This output ends as what was last written, everywhere.
    """

    def __init__(self):
        from IPython.display import display

        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text):
        text = text.replace("\x1b[A", "").strip()  # a bar inside another moves the cursor up
        if text:
            self._handle.update({"text/plain": text}, raw=True)
            if path := os.environ.get(PROGRESS_FILE):
                Path(path).write_text(text)

    def flush(self):
        pass


def _in_kernel() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")


def progress(total: int | None, description: str, unit: str = "", quiet: bool = False, seconds: float | None = None) -> tqdm:
    """A bar over `total` units, also a context manager. Without a total it shows the time that has passed, of how
    many `seconds` if that is known, and what has been counted, if there is a unit."""
    look = {"desc": description, "unit": f" {unit}", "total": total}
    if total is None:
        of = f" of {tqdm.format_interval(seconds)}" if seconds else ""
        look["bar_format"] = f"{{desc}}: {{n}} {{unit}}, {{elapsed}}{of} {{postfix}}" if unit else f"{{desc}}: {{elapsed}}{of}"
    if quiet:
        return tqdm(**look, disable=True)
    if _in_kernel():
        return tqdm(**look, file=_DisplayLine(), ascii=" ▁▂▃▄▅▆▇█", ncols=100)
    return tqdm(**look, file=sys.stderr, dynamic_ncols=True)


@contextmanager
def mirrored(bar: tqdm, path: Path):
    """While inside, `bar` shows what notebooks report in `path`, twice a second."""
    os.environ[PROGRESS_FILE] = str(path)
    ended = threading.Event()

    def watch():
        while not ended.wait(0.5):
            try:
                bar.set_postfix_str(re.sub(r"\s*\d+%\|.*\|", "", path.read_text()))  # without the drawn bar
            except FileNotFoundError:
                bar.refresh()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        os.environ.pop(PROGRESS_FILE)
        path.unlink(missing_ok=True)
