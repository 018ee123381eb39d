"""The desk: what a hand tries out in JupyterLab. What its panels share, and the sliders for a short measurement; the
others are lib.playground and lib.explorer.

Widgets are there for somebody who can use them. A notebook that papermill or nbval executes gets the same thing done
once, as plain output, so that no page holds controls behind which there is no kernel.
"""
import asyncio
import os
import time
from html import escape

import ipywidgets as widgets
import pandas as pd
from IPython.display import display

from lib import allowed, as_many_tokens, preflight, search, tables
from lib.bench import Bench
from lib.errors import UserError
from lib.stats import Estimate
from lib.workloads import SameLength

TICK_S = 0.1  # how often a clock is drawn anew
JUDGED = ("TTFT", "TPOT", "whole time", "throughput")  # what the table shows
WIDGET = "application/vnd.jupyter.widget-view+json"
LINE = "line-height:1.5; white-space:normal; overflow-wrap:anywhere"


# -- for every panel ---------------------------------------------------------------------------------
def by_hand() -> bool:
    """Does a person sit at this kernel? A Jupyter server names the notebook to the kernels that it starts; those of
    papermill, nbval and nbconvert are started without one."""
    return "JPY_SESSION_NAME" in os.environ


def present(panel: widgets.Widget, what: str) -> None:
    """Display a panel. Where the saved page is read without its kernel, a line stands in its place."""
    line = f"{what}: open this notebook in JupyterLab (make lab) and run it to use it."
    display({WIDGET: panel._repr_mimebundle_()[WIDGET], "text/plain": line}, raw=True)


def said(text: str) -> str:
    """A line for a widget, as text whatever it holds."""
    return f'<div style="{LINE}">{escape(" ".join(text.split())[:600])}</div>'


def started(coroutine, line: widgets.HTML, *buttons: widgets.Button) -> asyncio.Task:
    """Run what a button asked for, the buttons dead meanwhile. What goes wrong becomes a line in place of a traceback."""
    async def guarded():
        for button in buttons:
            button.disabled = True
        try:
            await coroutine
        except UserError as error:
            line.value = said(str(error))
        except Exception as error:  # nobody sees the traceback of a callback
            line.value = said(f"{type(error).__name__}: {error}")
        finally:
            for button in buttons:
                button.disabled = False
    return asyncio.get_running_loop().create_task(guarded())


# -- a short measurement -----------------------------------------------------------------------------
async def trial(desk: Bench, streams: int = 4, prompt_tokens: int = 64, answer_tokens: int = 32, seconds: float = 5.0) -> None:
    """Sliders for users at once and for the lengths of prompt and answer; each press measures a closed loop of
    `seconds`, enters its figures, and adds a line to the table."""
    panel = Trial(desk, streams, prompt_tokens, answer_tokens, seconds)
    if by_hand():
        return present(panel.box, "Sliders for a short measurement")
    await panel.measure(quiet=False)
    display(tables.show(panel.table()))


class Trial:
    """The panel; `box` is the widget, `rows` what was measured, the newest first."""

    def __init__(self, desk: Bench, streams: int, prompt_tokens: int, answer_tokens: int, seconds: float):
        self.desk, self.rows = desk, []
        self._check(streams, prompt_tokens, answer_tokens, seconds)
        longest = desk.server.max_model_len or 4096
        look = {"style": {"description_width": "11em"}, "layout": {"width": "34em"}}
        self.streams = widgets.IntSlider(streams, 1, max(64, streams), description="users at once", **look)
        self.prompt = widgets.IntSlider(prompt_tokens, 1, max(longest // 2, prompt_tokens), description="prompt, tokens", **look)
        self.length = widgets.IntSlider(answer_tokens, 1, max(min(512, longest // 4), answer_tokens), description="answer, tokens", **look)
        self.seconds = widgets.FloatSlider(value=seconds, min=min(1, seconds), max=max(60, seconds), step=0.5, description="seconds", **look)
        self.go = widgets.Button(description="Measure", button_style="primary")
        self.bar = widgets.FloatProgress(layout={"width": "24em"})
        self.line, self.found = widgets.HTML(), widgets.HTML()
        self.box = widgets.VBox([self.streams, self.prompt, self.length, self.seconds, widgets.HBox([self.go, self.bar]), self.line,
                                 self.found]).add_class("trial")
        self.go.on_click(lambda button: started(self.measure(), self.line, self.go))

    async def measure(self, quiet: bool = True) -> None:
        """One closed loop with what the sliders say; its figures go to the run, and a line to the table."""
        streams, prompt, answer, seconds = (s.value for s in (self.streams, self.prompt, self.length, self.seconds))
        self._check(streams, prompt, answer, seconds)
        self.line.value = said("measuring …")
        workload = SameLength(await as_many_tokens.text_of(self.desk.server, prompt), answer)
        advance = asyncio.create_task(self._advance(seconds))
        try:
            series = await self.desk.measure(f"by_hand.{streams}-{prompt}-{answer}", workload, streams, seconds=seconds,
                                             warmup=streams, quiet=quiet)
        finally:
            advance.cancel()
            self.bar.value = 0
        verdicts = self.desk.publish(series).set_index("metric")["verdict"]
        self.rows.insert(0, {"prompt": series.measured["prompt_tokens"].median(), "answer": answer, "verdicts": {name: verdicts[name] for name in JUDGED}} | search.row(series))
        self.found.value = f'<div style="line-height:1.4">{tables.show(self.table()).to_html()}</div>'
        self.line.value = said(f"{series.counts['measured']} requests measured, {series.counts['failed']} failed of "
                               f"{series.counts['sent']} sent; their figures are in run {self.desk.run.name} as {series.name}")

    def _check(self, streams: int, prompt: int, answer: int, seconds: float) -> None:
        preflight.check(concurrency=[streams], turn_tokens=prompt, load_tokens=answer, level_seconds=seconds)
        allowed.check_context(self.desk.server, prompt + answer)

    def table(self) -> pd.DataFrame:
        """What was measured, a row each: values with their 95 % intervals."""
        def shown(row, name):
            return tables.with_interval(Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], row["requests"]))
        return pd.DataFrame([{
            "load": row["load"], "prompt": row["prompt"], "answer": row["answer"], "requests": row["requests"], "failed": row["failed"],
            "TTFT, median, ms": shown(row, "ttft_ms"), "TPOT, median, ms": shown(row, "tpot_ms"),
            "whole time, mean, ms": shown(row, "total_ms"), "throughput, tokens/s": shown(row, "throughput_tps"),
            "verdict": reasons(row["verdicts"])} for row in self.rows])

    async def _advance(self, seconds: float) -> None:
        began, self.bar.max = time.monotonic(), seconds
        while True:
            self.bar.value = min(seconds, time.monotonic() - began)
            await asyncio.sleep(TICK_S)


def reasons(verdicts: dict[str, str]) -> str:
    """The verdicts on several metrics of a series as one: each kind of reason once, in the words that came first, with the
    metrics that it speaks against where it is not all of them."""
    found = {}
    for metric, verdict in verdicts.items():
        for reason in verdict.split("; "):
            if reason != "valid":
                found.setdefault(reason.partition(":")[0], (reason, []))[1].append(metric)
    return "; ".join(reason if len(against) == len(verdicts) else f"{reason} ({', '.join(against)})"
                     for reason, against in found.values()) or "valid"
