"""A draft says nothing that was not measured, gives nothing away, and lets nothing in a run act."""
import json
import re
import tarfile

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from nbformat import v4

from lib import bench, cli, draft_tables, drafts, finished, metrics, plots_zh, provenance, publish, records, report, rundir, sentences, without_code
from lib.errors import UserError
from lib.plots import histogram
from lib.rundir import RunDir
from lib.sentences import Block, Line
from lib.series import Series
from lib.stats import Estimate
from lib.tables import number
from scripts import publish_run

HOSTILE = ("<script>alert(1)</script><img src=http://evil.example/x.png onerror=alert(1)>[click](javascript:alert(1)) ![x](http://evil.example/y.png) "
           "{{ site.secret }} {% include x %} {{< rawhtml >}} \x1b[31mred\x1b]0;title\x07 \u202egnp.exe\u2066 a | b `c` *d* _e_ $f$ ~~g~~ \x00\u200f\n\n# h")
FORMATS = [(lang, format) for lang in ("en", "zh") for format in ("md", "html")]


def row(k: int, phase: str) -> dict:
    """A request of 11 tokens, the first after about 0.1 s and the others 0.01 s apart, its figures a little different each time."""
    wait, sent = 0.1 + 0.001 * ((7 * k) % 10), 10.0 + k * 0.25
    reads = [[wait + 0.01 * i, 1] for i in range(11)]
    return {"series": "single", "index": k, "phase": phase, "sent": sent, "first": sent + wait, "last": sent + wait + 0.1,
            "done": sent + wait + 0.1001, "reads": reads, "sent_at": [], "scheduled": None, "clock_error_s": None, "turn": None,
            "requested_tokens": 11, "prompt_tokens": 29, "output_tokens": 11, "finish": "length", "status": 200, "error": None,
            "message": None, "text": "words"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "OUTPUTS", tmp_path)
    return made("some-run")


def made(name: str) -> RunDir:
    """A run with one series, as notebook 02 leaves it, questions about pictures, a plot and an executed notebook."""
    folder = RunDir(name)
    path = folder.requests_file("single")
    path.write_text("".join(json.dumps(row(k, "warmup" if k < 5 else "measure")) + "\n" for k in range(45)))
    frame = metrics.per_request(records.read(path))
    window = metrics.steady_window(frame[frame["phase"] == "measure"], 1)
    series = Series("single", metrics.mark_steady(frame, window), "closed loop, 1 in flight", window, streams=1)
    folder.enter_series("single", series.about())
    desk = bench.Bench("02_single_request", None, folder)
    desk.publish(series, headline=("ttft_s", "decode_tps", "total_s"))
    summary = series.summaries()["ttft_s"]
    desk.keep("single_ttft", histogram(series.measured, "ttft_s", summary["mean"], summary["median"]), "A caption.")
    folder.publish("picture_probes.count", "count, right answers", Estimate(90.0, 70.0, 97.2, 20), "%", "valid", "05_multimodal", "picture_probes")
    folder.write_rows("picture_probes", [{"kind": "count", "question": "How many?", "expected": "There are 8.", "reply": "There are 7.",
                                          "correct": False, "error": None}])
    folder.update_info(model="tiny-model", note="Measured against tiny-model.", command="workbook run --profile smoke", began="2026-11-23 15:03:15+00:00",
                       facts={"model": "tiny-model", "server": "vLLM 0.32.0, started here in 17.6 s", "context": "4,096 tokens"},
                       parameters={"max_tokens": 11, "seed": 1}, notebooks={"02_single_request": {"status": "done", "seconds": 9.9}}, seconds=12.3)
    (folder.path / "notebooks").mkdir()
    code = v4.new_code_cell("key = 1", outputs=[
        v4.new_output("stream", text="said\n"), v4.new_output("display_data", {"image/png": "aGVsbG8=", "text/plain": "x"}),
        v4.new_output("display_data", {"text/html": f"<style>a{{}}</style><table><tr><td onclick=x>cell {HOSTILE}</td></tr></table>"})])
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell(f"# Title {HOSTILE}"), code]), folder.path / "notebooks" / "02_single_request.ipynb")
    return folder


def change(run, file, path, value):
    """Edit a JSON file of the run by hand."""
    content = json.loads((run.path / file).read_text())
    *parents, last = path
    node = content
    for key in parents:
        node = node[key]
    if value is KeyError:
        del node[last]
    else:
        node[last] = value
    (run.path / file).write_text(json.dumps(content))


def written(run, lang="en", format="md") -> str:
    return publish.publish(run.name, lang, format).read_text()


def refused(run, lang="en", format="md") -> str:
    """The one line with which it is refused; nothing was written."""
    with pytest.raises(UserError) as caught:
        publish.publish(run.name, lang, format)
    assert "\n" not in str(caught.value) and not (run.path / "draft").exists()
    return str(caught.value)


# -- what it says ------------------------------------------------------------------------------------
@pytest.mark.parametrize("lang, format", FORMATS)
def test_figures_stand_with_interval_unit_and_sample_size(run, lang, format):
    text, figure = written(run, lang, format), run.figures()["single.ttft.mean"]
    for part in (f"{number(figure['value'])} ms", *map(number, figure["interval"]), number(figure["n"]), "tiny-model", "2026-11-23", "4,096"):
        assert part in text, part


def test_a_missing_figure_takes_only_its_own_sentence_along(run):
    before = written(run)
    change(run, "figures.json", ["single.article_tps.mean"], KeyError)
    after = written(run)
    assert "Divide tokens by the whole time" in before and "Divide tokens" not in after and "The median wait" in after
    change(run, "run.json", ["parameters"], {})
    assert "seed" not in written(run)


@pytest.mark.parametrize("lang, words", [("en", "doubtful: client-bound"), ("zh", "存疑：压测端受限")])
def test_a_doubtful_figure_is_called_so_where_it_stands_and_explained(run, lang, words):
    reason = "client-bound: a load worker used 97% of a processor"
    change(run, "figures.json", ["single.ttft.median", "verdict"], reason)
    text = drafts.plain(written(run, lang))
    sentence = next(line for line in text.splitlines() if words in line)
    assert number(run.figures()["single.ttft.median"]["value"]) in sentence
    assert (reason if lang == "en" else "97%") in text.split("## ")[-2]


def test_front_matter_is_what_hugo_and_jekyll_both_read(run):
    """Hugo 0.168 stops at `published: false`, which it takes for a date that is none."""
    front, text = written(run).removeprefix("---\n").split("\n---\n", 1)
    front = yaml.safe_load(front)
    assert front["draft"] is True and not {"published", "publishDate"} & set(front)
    assert front["summary"].startswith("This post says") and front["summary"] in drafts.plain(text)


@pytest.mark.parametrize("flags", ["--max-model-len 8192 --limit-mm-per-prompt '{\"image\": 4}'", "--- a -- b --", "it's 'so' \"called\"", "-1 - 2"])
def test_dashes_and_quotation_marks_are_not_set_otherwise(flags):
    """Hugo and Jekyll do so by default; markdown-it does on demand."""
    typographer = MarkdownIt("commonmark", {"typographer": True}).enable(["replacements", "smartquotes"])
    assert BeautifulSoup(typographer.render(f"Flags {drafts.escaped(flags)}"), "html.parser").get_text().strip().replace("’", "'") == f"Flags {flags}"


@pytest.mark.parametrize("lang, words", [("en", "unfinished"), ("zh", "没有完成")])
def test_an_unfinished_run_says_so_at_its_top(run, lang, words):
    change(run, "run.json", ["notebooks", "04_concurrency"], {"status": "failed", "error": "cell 3: UserError: <b>away</b>"})
    text = written(run, lang)
    assert words in text.split("---\n\n")[1].split("\n\n")[0] and "away" in text and "<b>" not in text


@pytest.mark.parametrize("lang, words", [("en", "it was cut off before its end"), ("zh", "运行在结束之前被切断")])
def test_a_run_whose_end_was_never_noted_was_cut_off(run, lang, words):
    assert words not in written(run, lang), "a run of a time when ends were not noted says nothing"
    run.update_info(plan={}, ended=None)
    assert words in written(run, lang)
    run.update_info(ended="2026-11-23 15:10:15+00:00")
    assert words not in written(run, lang)


@pytest.mark.parametrize("lang, once", [("en", "numbers from outside this run"), ("zh", "依据本次测量以外的公开数值")])
def test_that_numbers_from_outside_settled_claims_is_said_once(run, lang, once):
    check = {"published": "Qwen3-VL-2B-Instruct text_config.max_position_embeddings", "comparator": "at most", "value": 32768, "unit": "tokens"}
    (run.path / "claims.yaml").write_text(yaml.safe_dump({"source": "a page", "model": "any", "hardware": "any", "claims": [
        {"id": name, "en": f"claim {name}", "zh": f"说法 {name}", "evidence": [dict(check)]} for name in "ab"]}))
    text = written(run, lang)
    assert text.count(once) == 1 and {"en": "claim b", "zh": "说法 b"}[lang] in text


def test_publishing_an_unfinished_run_says_so_and_names_the_last_whole_one(run, monkeypatch, capsys):
    monkeypatch.setattr(finished, "OUTPUTS", rundir.OUTPUTS)
    change(run, "run.json", ["notebooks", "04_concurrency"], {"status": "interrupted"})
    monkeypatch.setattr("sys.argv", ["workbook", "publish", run.name, "--format", "ipynb"])

    def said():
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr().err
        assert end.value.code == 0 and told.count("\n") == 1 and "some-run is unfinished (04_concurrency interrupted), and its draft says so" in told
        return told

    assert "there is no whole one" in said()
    for name, began in (("older", "2026-11-21"), ("whole", "2026-11-22"), ("cut-off", "2026-11-24")):
        made(name).update_info(began=began, plan={"profile": "smoke"})
    change(RunDir("cut-off"), "run.json", ["notebooks", "02_single_request", "status"], "failed")
    assert "the last whole one is whole: `workbook publish whole`" in said()
    page = run.path / "draft" / "en" / "notebooks" / "02_single_request.ipynb"
    assert "This run is unfinished: Many users at once was interrupted" in nbformat.read(page, 4).cells[0].source


def figure(name, value, low=None, high=None, unit="%", notebook="07_consistency", verdict="valid"):
    return {"name": name, "value": value, "interval": [low, high], "unit": unit, "n": 30, "verdict": verdict, "notebook": notebook,
            "records": "requests/x.jsonl", "headline": False, "counts": {}}


@pytest.mark.parametrize("low, high, en, zh", [(1.1, 1.3, "faster", "更快"), (0.5, 0.9, "slower", "更慢"), (0.9, 1.2, "no difference shown", "未见差别")])
def test_a_configuration_is_called_faster_only_where_its_interval_is(low, high, en, zh):
    figures = {"tuning.A.throughput_tps.value": figure("baseline: throughput, value", 100.0, unit="tokens/s"),
               "tuning.B.throughput_tps.value": figure("other: throughput, value", 110.0, unit="tokens/s"),
               f"tuning.B.{draft_tables.RATIO}": figure("other: throughput, times the baseline", (low + high) / 2, low, high, unit="")}
    for lang, word in (("en", en), ("zh", zh)):
        table = draft_tables.tuning(sentences.Source(lang, figures, {}, drafts.words()))[0]
        assert [line.cells[-1] for line in table.lines[2:]] == [word] and number(low) in table.lines[2].cells[2]


def test_consistency_and_limits_are_a_row_a_condition():
    figures = {f"consistency_batch_8.{key}": figure(f"{name}, 8 at once", share, share - 5, share + 5) for key, name, share in (
        ("same", "the same answer as alone", 70.0), ("meaning", "the same meaning as alone", 80.0), ("right", "right answers", 90.0))}
    figures |= {"limit.x.share": figure("decode speed of one user, of the limit", 12.5, 12, 13), "limit.x.limit": figure("decode speed of one user, limit", 8e3, unit="tokens/s")}
    source = sentences.Source("zh", figures, {}, drafts.words())
    assert draft_tables.consistency(source)[0].lines[1].cells == ["8 并发", "70（65～75）", "80（75～85）", "90（85～95）", "有效"]
    assert draft_tables.limits(source)[0].lines[1].cells == ["单用户的生成速度", "12.5（12～13）", "8,000 tokens/s", "有效"]


def test_the_doubt_of_a_level_says_which_of_its_figures_it_is_about():
    late, cold = "delivery-bound: a token took 8% longer to come", "warming up: the first 9 requests took 1.2 times as long"
    verdicts = {8: {"tpot": f"{late}; {cold}", "ttft": cold}, 16: dict.fromkeys(("total", "throughput_tps", "ttft", "tpot"), cold), 32: {}}
    figures = {f"concurrency.{n}.at_once.{m}": figure(m, 10.0, verdict=doubts.get(m, "valid")) for n, doubts in verdicts.items()
               for m in ("total", "throughput_tps", "ttft", "tpot")}
    for lang, told in (("en", ["warming up (TTFT, TPOT), delivery-bound (TPOT)", "warming up", "valid"]), ("zh", ["仍在预热（TTFT，TPOT）、交付受限（TPOT）", "仍在预热", "有效"])):
        table = draft_tables.levels(sentences.Source(lang, figures, {}, drafts.words()))[0]
        assert [line.cells[-1] for line in table.lines[1:]] == told


def test_the_command_names_no_server_and_no_folder():
    assert drafts.public("workbook run --server http://gpu7:8000 --load ray://head:10001 02") == "workbook run --server URL --load ADDRESS 02"
    assert drafts.public("workbook run --server /data/models/x -p seed 3") == "workbook run --server FOLDER -p seed 3"
    assert drafts.public("workbook run --server Qwen/Qwen3-VL-2B-Instruct") == "workbook run --server Qwen/Qwen3-VL-2B-Instruct"


def test_the_prose_types_no_number_and_both_languages_speak_of_the_same_figures():
    def pairs(node):
        if isinstance(node, dict) and {"en", "zh"} <= set(node):
            yield node["en"], node["zh"]
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
            yield from pairs(child)

    prose = [pair for key, part in drafts.words().items() if key not in ("names", "patterns") for pair in pairs(part)]
    assert len(prose) > 60
    for en, zh in prose:
        if isinstance(en, str):
            assert not re.search(r"\d", sentences.PLACE.sub("", en + zh).replace("p95", "").replace("p99", "")), en
            assert not en or sorted(sentences.PLACE.findall(en)) == sorted(sentences.PLACE.findall(zh)), en


# -- the check of its numbers ------------------------------------------------------------------------
@pytest.mark.parametrize("lang, format", FORMATS)
@pytest.mark.parametrize("planted", ["It was 12.34 ms.", "Of it {single.ttft.mean|plain} is 99 %.", "A sixth, {single.ttft.mean|n} tokens/s.", "Twice: ２ times."])
def test_a_planted_number_is_refused(run, monkeypatch, planted, lang, format):
    words = drafts.words()
    words["opening"][0].append({"en": planted, "zh": planted})
    monkeypatch.setattr(drafts, "words", lambda: words)
    assert "none of the figures" in refused(run, lang, format)


@pytest.mark.parametrize("name, wrong", [("value", lambda source, figure: f"{number(figure['value'] * 1.001)} {figure['unit']}"),
                                         ("interval", lambda source, figure: "1 to 2"),
                                         ("metric_name", lambda source, figure: "of 17")])
def test_a_number_that_composing_got_wrong_is_refused(run, monkeypatch, name, wrong):
    for module in (sentences, draft_tables):
        monkeypatch.setattr(module, name, wrong)
    assert "none of the figures" in refused(run)


def test_another_figures_number_is_refused_where_it_does_not_belong(run):
    figures = run.figures()
    total = number(figures["single.total.mean"]["value"])
    with pytest.raises(UserError, match="none of the figures"):
        provenance.check([Block("text", [Line([f"TTFT is {total} ms."], ["single.ttft.mean"])])], figures, {}, {"ms": "ms"})


@pytest.mark.parametrize("format", ["md", "html"])
def test_a_number_that_writing_out_added_is_refused(run, monkeypatch, format):
    monkeypatch.setattr(drafts, "escaped", lambda text: text + " 4711")
    monkeypatch.setattr(drafts, "joined", lambda said: "".join(said) + " 4711")
    assert "4711" in refused(run, format=format)


def test_a_quotation_that_nobody_said_is_refused(run, monkeypatch):
    monkeypatch.setattr(publish, "_quotable", lambda *_: set())
    assert "nobody said" in refused(run)


@given(st.floats(-1e7, 1e7), st.floats(-1e7, 1e7))
def test_only_the_published_value_passes_whatever_it_is(value, other):
    figures = {"s.x": {"name": "X, mean", "value": value, "interval": [None, None], "unit": "ms", "n": 30, "counts": {}, "verdict": "valid"}}
    block = [Block("text", [Line([f"It took {number(other)} ms."], ["s.x"])])]
    if number(value) == number(other):
        assert provenance.check(block, figures, {}, {"ms": "ms"}) == 1
    else:
        with pytest.raises(UserError):
            provenance.check(block, figures, {}, {"ms": "ms"})


# -- what it gives away ------------------------------------------------------------------------------
SECRET = "hf_AbCdEfGhIjKlMnOpQrSt"
PLACES = {
    "model": lambda run: change(run, "run.json", ["model"], f"x {SECRET}"),
    "facts.flags": lambda run: change(run, "run.json", ["facts", "flags"], f"--hf-token {SECRET}"),
    "command": lambda run: change(run, "run.json", ["command"], f"workbook run --flags '--x {SECRET}'"),
    "notebooks.04.error": lambda run: change(run, "run.json", ["notebooks", "04"], {"status": "failed", "error": f"401 for {SECRET}"}),
    "single.ttft.mean.name": lambda run: change(run, "figures.json", ["single.ttft.mean", "name"], f"TTFT {SECRET}, mean"),
    "single.ttft.mean.verdict": lambda run: change(run, "figures.json", ["single.ttft.mean", "verdict"], f"errors: {SECRET}"),
    "picture_probes.jsonl": lambda run: run.requests_file("picture_probes").write_text(json.dumps(
        {"question": "q", "expected": "e", "reply": SECRET, "correct": True})),
    "plots": lambda run: (run.path / "plots" / "single_ttft.svg").open("a").write(f"<!-- {SECRET} -->"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_planted_secret_is_refused_with_its_place_and_not_repeated(run, place):
    PLACES[place](run)
    line = refused(run)
    assert "a Hugging Face token" in line and place in line and SECRET not in line and "line " in line


@pytest.mark.parametrize("format", ["html", "ipynb"])
def test_secrets_are_looked_for_in_every_format(run, format):
    path = run.path / "notebooks" / "02_single_request.ipynb"
    path.write_text(path.read_text().replace("said", f"said {SECRET}"))
    change(run, "run.json", ["model"], SECRET)
    assert "a Hugging Face token" in refused(run, format=format)


@pytest.mark.parametrize("text, kind", [("/home/maria/models/x", "a home folder"), ("http://node-7:8000/v1", "host name"), ("a key abcdwxyz", "a key of this environment"),
                                        ("from 10.1.2.3", "an address"), ("https://u:passw0rd@example.org/x", "a password in a URL")])
def test_folders_hosts_and_this_environments_key_are_refused_too(run, monkeypatch, text, kind):
    monkeypatch.setenv("WORKBOOK_API_KEY", "abcdwxyz")
    change(run, "run.json", ["facts", "flags"], text)
    assert kind in refused(run)


def test_the_host_of_the_runs_own_server_is_known(run):
    change(run, "run.json", ["command"], "workbook run --server http://ampere:8000")
    assert "URL" in written(run)
    change(run, "run.json", ["facts", "server"], "vLLM on ampere")
    with pytest.raises(UserError, match="a host name of this run"):
        publish.publish(run.name)


# -- what a run could do to a reader -----------------------------------------------------------------
@pytest.mark.parametrize("lang, format", FORMATS)
def test_hostile_words_are_words(run, lang, format):
    change(run, "run.json", ["model"], HOSTILE)
    change(run, "run.json", ["facts", "flags"], HOSTILE)
    change(run, "run.json", ["command"], f"workbook {HOSTILE}".replace("'", ""))
    change(run, "run.json", ["notebooks", HOSTILE], {"status": HOSTILE, "error": HOSTILE})
    change(run, "figures.json", ["single.ttft.mean", "name"], f"{HOSTILE}, mean")
    change(run, "figures.json", ["single.ttft.mean", "verdict"], f"errors: {HOSTILE}")
    change(run, "plots.json", ["single_ttft", "caption"], HOSTILE)
    run.write_rows("picture_probes", [{"question": HOSTILE, "expected": HOSTILE, "reply": HOSTILE + "x" * 100_000, "correct": False}])
    path = publish.publish(run.name, lang, format)
    text = path.read_text()
    assert len(text) < 600_000 and not re.search("[\x00-\x08\x0b-\x1f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)
    if format == "html":
        soup = BeautifulSoup(text, "html.parser")
        assert not soup.find_all(["script", "iframe", "object"]) and report.loads_from_elsewhere(path) == []
        assert all(image["src"].startswith("data:image/svg+xml") for image in soup.find_all("img"))
        assert not any(name.startswith("on") for tag in soup.find_all(True) for name in tag.attrs)
    else:
        body = text.split("\n---\n", 1)[1]
        fenced = re.sub(r"(?s)```.*?```", "", body)
        assert "<" not in fenced
        assert "http://" not in fenced and not re.search(r"(?<!\\)\]\((?!plots/)", fenced)
        assert "{{" not in body and "{%" not in body


def test_a_long_reply_is_cut(run):
    run.write_rows("picture_probes", [{"question": "q", "expected": "e", "reply": "y" * 100_000, "correct": False}])
    assert max(map(len, re.findall("y+", written(run)))) < 200


@pytest.mark.parametrize("svg", ["<script>1</script>", '<rect onload="x()"/>', '<image href="http://evil.example/x"/>', "<foreignObject/>",
                                 '<a xlink:href="javascript:1"/>', "<style>@import url(http://evil.example)</style>"])
def test_a_plot_that_could_act_is_refused(run, svg):
    path = run.path / "plots" / "single_ttft.svg"
    path.write_text(path.read_text().replace("</svg>", f"{svg}</svg>"))
    assert "holds a script or a link" in refused(run)


def test_notebooks_are_published_without_code_and_without_anything_that_acts(run):
    published = nbformat.read(publish.publish(run.name, "zh", "ipynb"), as_version=4)
    text = "\n".join(cell.source for cell in published.cells)
    assert {cell.cell_type for cell in published.cells} == {"markdown"} and "key = 1" not in text
    assert "<script" not in text and "onclick" not in text and "<style" not in text and "](javascript:" not in text and "\x1b" not in text
    assert "said" in text and "<td>cell" in text and any("attachments" in cell for cell in published.cells)
    nbformat.validate(published)


@given(st.text(max_size=300))
def test_any_html_output_becomes_harmless(text):
    for page in (text, f"<table><tr><td>{text}</td></tr></table>", f"<img src='{text}'>", f"<svg>{text}</svg>"):
        soup = BeautifulSoup(without_code.harmless(page), "html.parser")
        assert {tag.name for tag in soup.find_all(True)} <= without_code.TAGS
        assert all(set(tag.attrs) <= {"src", "alt", "colspan", "rowspan"} for tag in soup.find_all(True))


@given(st.text(max_size=400))
def test_escaped_text_reads_as_it_was_and_cannot_open_a_tag(text):
    shown = drafts.escaped(sentences.clean(text))
    assert drafts.plain(shown) == sentences.clean(text) and "<" not in shown and "{" not in shown


# -- runs that cannot be published -------------------------------------------------------------------
BROKEN = {
    "half there: no figures": (lambda run: (run.path / "figures.json").unlink(), "half there: it has no figures.json"),
    "half there: no run.json": (lambda run: (run.path / "run.json").unlink(), "half there: it has no run.json"),
    "half there: no records": (lambda run: run.requests_file("single").unlink(), "half there"),
    "half there: no series": (lambda run: (run.path / "series.json").unlink(), "half there"),
    "half there: no plot": (lambda run: (run.path / "plots" / "single_ttft.svg").unlink(), "half there: plots/single_ttft.svg"),
    "older": (lambda run: change(run, "figures.json", ["single.ttft.mean", "verdict"], KeyError), "another version"),
    "torn": (lambda run: (run.path / "figures.json").write_text('{"a": '), "damaged"),
    "a list": (lambda run: (run.path / "run.json").write_text("[]"), "changed by hand"),
    "figure is text": (lambda run: change(run, "figures.json", ["single.ttft.mean", "value"], "fast"), "changed by hand"),
    "figure is not a number": (lambda run: change(run, "figures.json", ["single.ttft.mean", "value"], float("nan")), "changed by hand"),
    "figure is true": (lambda run: change(run, "figures.json", ["single.ttft.mean", "value"], True), "changed by hand"),
    "interval turned round": (lambda run: change(run, "figures.json", ["single.ttft.mean", "interval"], [9, 1]), "changed by hand"),
    "prettier than its records": (lambda run: change(run, "figures.json", ["single.ttft.mean", "value"], 50.0), "by its records"),
    "facts are text": (lambda run: change(run, "run.json", ["facts"], "T4"), "changed by hand"),
    "window is text": (lambda run: change(run, "series.json", ["single", "window_s"], "all"), "changed by hand"),
    "a plot outside": (lambda run: change(run, "plots.json", ["single_ttft", "file"], "../../secret.svg"), "no plot of the run"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_run_that_is_not_whole_is_refused_in_one_line(run, fault):
    do, words = BROKEN[fault]
    do(run)
    assert words in refused(run)


ODD = {
    "a figure without unit": lambda run: change(run, "figures.json", ["single.ttft.mean", "unit"], KeyError),
    "a figure without interval": lambda run: change(run, "figures.json", ["single.ttft.mean", "interval"], None),
    "notebooks are a list": lambda run: change(run, "run.json", ["notebooks"], [1]),
    "a plot is a number": lambda run: (run.path / "plots.json").write_text('{"a": 3}'),
    "tuning is a list": lambda run: (run.path / "tuning.json").write_text("[1]"),
    "tuning of an older version": lambda run: (run.path / "tuning.json").write_text('{"summary": [{"name": "x"}], "configurations": [{"name": "a"}, {}]}'),
    "another roofline": lambda run: (run.path / "roofline.json").write_text('{"a": 1}'),
    "another calibration": lambda run: (run.path / "calibration.json").write_text('{"rows": [{}]}'),
    **{fault: BROKEN[fault][0] for fault in ("older", "torn", "a list", "figure is text", "facts are text")},
}


@pytest.mark.parametrize("command, faults", [("report", ODD), ("claims", ("a list", "figure is text", "tuning of an older version"))])
def test_a_run_that_was_changed_has_no_report_and_no_claims_and_says_so_in_one_line(run, command, faults):
    whole = {path: path.read_bytes() for path in run.path.glob("*.json")}
    for fault in faults:
        ODD[fault](run)
        with pytest.raises(UserError, match="changed by hand|another version|damaged") as caught:
            cli.app([command, run.name], standalone_mode=False)
        assert "\n" not in str(caught.value) and run.name in str(caught.value), fault
        for path in run.path.glob("*.json"):
            path.write_bytes(whole[path]) if path in whole else path.unlink()


def test_what_is_unknown_is_told(run):
    for given, words in ((dict(lang="fr"), "en or zh"), (dict(format="pdf"), "md or html or ipynb")):
        with pytest.raises(UserError, match=words):
            publish.publish(run.name, **given)
    with pytest.raises(UserError, match="no run 'other'"):
        publish.publish("other")


def test_an_empty_run_gives_a_draft_that_says_so(run):
    for file in ("figures.json", "plots.json", "series.json"):
        (run.path / file).write_text("{}")
    assert "no headline figures" in written(run) and "Not measured in this run: A single request" in written(run)


def test_the_command_prints_where_the_draft_is(run, capsys):
    cli.app(["publish", run.name, "--lang", "zh", "--format", "html"], standalone_mode=False)
    assert capsys.readouterr().out.strip().endswith("draft/zh/index.html")


# -- a real run --------------------------------------------------------------------------------------
@pytest.mark.parametrize("lang", drafts.LANGUAGES)
def test_a_whole_real_run_can_be_published_in_every_format(finished_run, lang):
    run, _ = finished_run
    pages = {format: publish.publish(run.name, lang, format) for format in publish.FORMATS}
    text = drafts.plain(pages["md"].read_text())
    headlines = [f for f in run.figures().values() if f["headline"]]
    assert headlines and all(number(f["value"]) in text for f in headlines)
    modes = [section["title"][lang] for section in drafts.words()["sections"] if section.get("mode")]
    assert all(f"## {mode}\n" in text for mode in modes) and len(modes) == 5
    assert report.loads_from_elsewhere(pages["html"]) == []
    said = {label for path in (run.path / "plots").glob("*.svg") if path.stem != "consistency_openings"
            for label in re.findall("<!-- (.*?) -->", path.read_text()) if re.search("[a-z]{3}", label) and "mathdefault" not in label}
    assert [label for label in said if plots_zh.chinese(label) is None and label != "tokens/s"] == [], "words of plots have Chinese ones"


# -- a whole run -------------------------------------------------------------------------------------
def test_a_published_run_has_its_notebooks_drafts_and_records_and_a_report_that_leads_to_them(run, tmp_path, monkeypatch):
    monkeypatch.setattr(publish_run, "OUTPUTS", tmp_path)
    (run.path / "html").mkdir()
    (run.path / "html" / "02_single_request.html").write_text("a page, too large to be published")
    (run.path / "server.log").write_text("whatever a server says")
    place = publish_run.main(run.name, "shown")
    page = BeautifulSoup((place / "report.html").read_text(), "html.parser")
    links = {a["href"] for a in page.select("a[href]") if not a["href"].startswith(("#", "http"))}
    assert links == {"notebooks/02_single_request.ipynb", "requests.tar.xz", "figures.json"} and all((place / link).exists() for link in links)
    assert all((place / "draft" / lang / "index.md").exists() for lang in ("en", "zh")) and not {"html", "server.log"} & {f.name for f in place.iterdir()}
    with tarfile.open(place / "requests.tar.xz") as archive:
        assert {"requests/single.jsonl", "series.json"} <= set(archive.getnames())
    assert not (tmp_path / "shown").exists(), "the copy that it is made of"
    monkeypatch.setattr(publish_run, "LARGEST", 1000)
    with pytest.raises(UserError, match="are the most"):
        publish_run.main(run.name, "shown")
    assert (place / "report.html").exists() and not (tmp_path / "shown").exists(), "what was there stays"
