"""Progress bars: tqdm in a terminal, one updated line of text in a notebook."""
import sys

from tqdm import tqdm


class _DisplayLine:
    """A file for tqdm that keeps a single notebook output up to date.

    tqdm's own notebook bar is a widget, and a widget leaves "0%" behind in an executed notebook that is
    read as HTML or on a code host. This output ends as what was last written, everywhere.
    """

    def __init__(self):
        from IPython.display import display

        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text):
        if text.strip():
            self._handle.update({"text/plain": text.strip()}, raw=True)

    def flush(self):
        pass


def _in_kernel() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")


def progress(total: int | None, description: str, unit: str = "") -> tqdm:
    """A bar over `total` units, also a context manager. Without a total it shows the time that has passed."""
    look = {"desc": description, "unit": f" {unit}", "total": total}
    if total is None:
        look["bar_format"] = "{desc}: {elapsed}"
    if _in_kernel():
        return tqdm(**look, file=_DisplayLine(), ascii=" ▁▂▃▄▅▆▇█", ncols=100)
    return tqdm(**look, file=sys.stderr, dynamic_ncols=True)
