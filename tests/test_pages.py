"""What leaves the workbook, opened by a real browser: whatever a model replied, no page acts, and all can be read.

The run is made here: hostile replies go into its records, its executed notebook and a playground, and from there into every page
that the workbook writes.
"""
import asyncio
import re
from types import SimpleNamespace

import mistune
import nbformat
import pandas as pd
import pytest
from IPython.display import HTML
from nbformat import v4
from playwright.sync_api import sync_playwright

from browser import BROWSER
from lib import execution, gallery, playground, probes, publish, report, rundir, tables
from lib.desk import started
from lib.server import Server
from lib.stats import Estimate
from replies import DONE, OK, answering, chunk, event
from test_publish import made

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH, so no page is opened: install one "
                                                        "(on Debian: apt install chromium)")
HARM = "document.title='harm'"
REPLIES = {
    "script": f"<script>{HARM}</script></pre></style></title><script src=http://evil.example/x.js></script>",
    "html": f"<img src=http://evil.example/x.png onerror=\"{HARM}\"><h1 style='position:fixed;inset:0'>covers</h1><iframe src=http://evil.example>",
    "markdown": f"[click](javascript:{HARM}) ![x](http://evil.example/y.png) <http://evil.example> www.evil.example\n\n# head\n\n> | a | b |\n\n```\n~~~",
    "templates": "{{ site.secret }} {% include x %} {{< rawhtml >}} $\\href{javascript:x}{y}$",
    "terminal": "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\x08\x08\x00 \x9b1m",
    "direction": "\u202egnp.exe\u2066 \u200fright\u2067 \u061cleft",
    "long": "x" * 100_000,
    "long words": "很长 " * 40_000,
}
PAGES = ("report", "notebook", "draft in en", "draft in zh", "Markdown in en", "Markdown in zh", "playground")
PHONE, A4_INSIDE = {"width": 390, "height": 844}, {"width": 718, "height": 1047}  # CSS pixels; A4 within margins of a centimetre


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Each kind of page that the workbook writes, of a run with hostile replies -> name: file."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rundir, "OUTPUTS", folder)
        run = made("some-run")
        asked = probes.questions(["describe", "pair"], n=len(REPLIES) // 2, seed=1)
        rows = [{"kind": p.kind, "picture": p.pictures[0].kind, "seed": p.seed, "ask": p.ask, "size": "x".join(map(str, p.pictures[0].size)),
                 "question": p.question, "expected": p.answer, "reply": reply, "error": None, "message": None, "correct": k == 0}
                for k, (p, reply) in enumerate(zip(asked, REPLIES.values(), strict=True))]
        run.write_rows("picture_probes", rows)
        run.publish("picture_probes.pair", "pair, right answers", Estimate(50.0, 40.0, 60.0, 8), "%", "valid", "05_multimodal", "picture_probes")
        about, folded = run.series()["single"], {"unit": "ms", "measures": "", "client": 1.0, "server": 1.0, "difference": 0.0}
        run.enter_series("single", about | {"agreement": [folded | {"quantity": f"no. {k}", "judgement": "agree"} for k in range(60)]})
        shown = [gallery.show(asked, rows), tables.show(pd.DataFrame({"reply": list(REPLIES.values())}))]
        outputs = [v4.new_output("display_data", {"text/html": o.data if isinstance(o, HTML) else o._repr_html_()}) for o in shown]
        outputs += [v4.new_output("stream", text="".join(f"{reply[:200]!r}\n" for reply in REPLIES.values()))]
        executed = run.path / "notebooks" / "05_multimodal.ipynb"
        nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# 05 · Pictures"), v4.new_code_cell("", outputs=outputs)]), executed)
        execution.write_page(executed, folder / "notebook.html")
        found = {"report": report.build(run), "notebook": folder / "notebook.html", "playground": folder / "playground.html"}
        for lang in ("en", "zh"):
            found[f"draft in {lang}"] = publish.publish(run.name, lang, "html")
            text = publish.publish(run.name, lang, "md").read_text().split("\n---\n", 1)[1]
            found[f"Markdown in {lang}"] = found[f"draft in {lang}"].with_name("rendered.html")
            rendered = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "url", "math"])(text)
            found[f"Markdown in {lang}"].write_text(f"<!doctype html><meta charset=utf-8><title>d</title><link rel=icon href=data:,>{rendered}")
        found["playground"].write_text(f"<!doctype html><meta charset=utf-8><title>p</title>{asyncio.run(played(run))}")
    return found


async def played(run) -> str:
    """The playground after each reply, as a page."""
    parts = []
    for reply in REPLIES.values():
        half = len(reply) // 2
        body = chunk(event(1, reply[:half])) + chunk(event(2, reply[half:], "stop")) + chunk(DONE) + chunk(b"")
        async with answering(OK, body) as url:
            panel = playground.Playground(SimpleNamespace(server=Server(url, "m"), run=run), "data/images", 1)
            await started(panel.answer(), panel.line, panel.ask)
        parts += [panel.line.value, panel.reply.value]
    return "".join(parts)


@pytest.fixture(scope="module")
def browser(pages):  # pages first: while the browser is there, this thread has an event loop
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=BROWSER) as found:
        yield found


def opened(browser, path, **options):
    """A page with what it did: addresses that it asked for, what it complained of."""
    page, asked, complaints = browser.new_page(**options), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda fault: complaints.append(str(fault)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri(), wait_until="load")
    return page, [url for url in asked if not url.startswith(("data:", "file:", "blob:"))], complaints


@pytest.mark.parametrize("name", PAGES)
def test_no_reply_acts_on_a_page_and_nothing_leaves_it(browser, pages, name):
    page, asked, complaints = opened(browser, pages[name])
    assert asked == [] and complaints == [] and page.title() != "harm"
    links = page.evaluate("() => [...document.querySelectorAll('[href], [src]')].map(e => e.getAttribute('href') || e.getAttribute('src'))")
    assert not [link for link in links if re.match(r"\s*(javascript:|(https?:)?//)", link)]
    text = page.evaluate("() => document.body.textContent")  # innerText takes half a minute where a reply is long
    assert HARM in text, "the reply is there, as text"
    assert not re.search("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)
    assert not page.evaluate("() => [...document.querySelectorAll('h1')].some(h => h.textContent == 'covers')")
    assert len(text) < 400_000
    page.close()


@pytest.mark.parametrize("name", ["report", "draft in en", "draft in zh"])
def test_a_page_can_be_read_on_a_phone(browser, pages, name):
    page, *_ = opened(browser, pages[name], viewport=PHONE)
    wide = page.evaluate("() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1] == PHONE["width"], "the page moves up and down only"
    small = page.evaluate(WORDS)
    assert min(size for size, _ in small) >= 12, [words for size, words in small if size < 12][:5]
    page.close()


WORDS = """() => {
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = []
    while (walk.nextNode()) {
        const text = walk.currentNode.textContent.trim()
        if (text) found.push([parseFloat(getComputedStyle(walk.currentNode.parentElement).fontSize), text.slice(0, 60)])
    }
    return found
}"""


def test_paper_shows_all_of_the_report(browser, pages, tmp_path):
    page, *_ = opened(browser, pages["report"], viewport=A4_INSIDE)
    seen = "seen => [...document.querySelectorAll('details > :not(summary)')].every(e => e.checkVisibility() == seen)"
    assert page.locator("details").count() and page.evaluate(seen, False), "folded on the screen"
    page.emulate_media(media="print")
    page.wait_for_function(seen, arg=True)  # no fold on paper, from the next drawing on
    cut = page.evaluate("""page => [...document.querySelectorAll('table, img, pre, b')].filter(e => {
        const box = e.getBoundingClientRect()
        return box.right > page.width + 1 || e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display == 'block'
    }).map(e => e.outerHTML.slice(0, 120))""", A4_INSIDE)
    assert cut == [], "nothing is cut at the right"
    plots = page.evaluate("() => [...document.querySelectorAll('figure')].map(f => [f.getBoundingClientRect().height, getComputedStyle(f).breakInside])")
    assert plots and all(height <= A4_INSIDE["height"] and whole == "avoid" for height, whole in plots), "a plot is on one page"
    sheets = page.pdf(format="A4", margin={side: "1cm" for side in ("top", "right", "bottom", "left")}, path=tmp_path / "report.pdf")
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", sheets)) >= 3
    page.close()
