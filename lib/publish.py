"""A run -> a blog draft: Markdown with its plots, one HTML file, or the executed notebooks without code.

Before anything is written: the run's files are whole and agree with its records, every number of the draft is one of its
figures (lib.provenance), and nothing in it is a key, a home folder or the name of a host (lib.secrets).
"""
import math
import re
import shlex
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup

from lib import claim_rules, claims, drafts, finished, hiding, plots_zh, provenance, records, rundir, secrets, without_code
from lib.errors import UserError
from lib.rundir import RunDir, read_json
from lib.sentences import Source, clean

FORMATS = ("md", "html", "ipynb")
FIGURE = {"name": str, "value": (int, float, type(None)), "interval": list, "unit": str, "n": (int, float), "verdict": str, "notebook": str,
          "records": str, "headline": bool, "counts": dict}
SCRIPTED = re.compile(rb"(?i)<\s*(?:script|foreignObject|iframe|object|embed|!ENTITY)|\son\w+\s*=|javascript:|"
                      rb"(?:href|src)\s*=\s*[\"'](?!#|data:image/(?:png|jpeg);base64,)|url\(\s*[\"']?(?!#)")


def publish(name: str, lang: str = "en", format: str = "md") -> Path:
    """Write the draft of a run to outputs/RUN/draft/LANG/ and return what to open."""
    for given, known, what in ((lang, drafts.LANGUAGES, "language"), (format, FORMATS, "format")):
        if given not in known:
            raise UserError(f"there is no {what} {given!r}: {' or '.join(known)}")
    run = rundir.find(name)
    figures, info, plots = checked(run)
    tuned = read_json(run.path / "tuning.json", {})
    info |= {"tuning": {"recommended": tuned.get("recommended")}} if isinstance(tuned, dict) else {}
    info |= {"plots": "in English"} if lang == "zh" and plots_zh.font() is None else {}
    with finished.reading(run.name, "no draft can be made of it"):
        files = _notebooks(run, figures, info, lang) if format == "ipynb" else _draft(run, figures, info, plots, lang, format)
    scan(run, files, info)
    folder = run.path / "draft" / lang
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (folder / file).write_bytes(content)
        else:
            rundir.write_text(folder / file, content)
    return folder / next(iter(files))


# -- what is published -------------------------------------------------------------------------------
def _draft(run: RunDir, figures: dict, info: dict, plots: dict, lang: str, format: str) -> dict[str, str | bytes]:
    words, answers = drafts.words(), _answers(run)
    source = Source(lang, figures, info, words)
    settled, repeated = _claims(run, source)
    blocks = drafts.compose(source, plots, answers, settled)
    units = {source.word("units", clean(f["unit"])): f["unit"] for f in figures.values()}
    units |= {f["unit"]: f["unit"] for f in figures.values()} | {"%": "%"}
    provenance.check(blocks, figures, info, units, _quotable(info, figures, answers) | repeated)
    pictures = {block.file: _picture(run, block.file, lang) for block in blocks if block.kind == "plot"}
    if format == "html":
        page = drafts.page(blocks, lang, pictures)
        soup = BeautifulSoup(page, "html.parser")
        soup.style.decompose()
        _nothing_added(blocks, soup.get_text("\n") + "".join(image["alt"] for image in soup.find_all("img")))
        return {"index.html": page}
    text = drafts.markdown(blocks, _front(blocks, info, lang))
    body = text.split("\n---\n", 1)[1]
    _nothing_added(blocks, drafts.plain(re.sub(r"\]\(plots/[^)]*\)", "]", body)))
    return {"index.md": text} | {f"plots/{Path(file).name}": picture for file, picture in pictures.items()}


def _front(blocks: list, info: dict, lang: str) -> dict:
    """What Hugo and Jekyll want to know. A draft to Hugo until somebody says otherwise; Jekyll's `published: false` would be a broken date
    to Hugo, so there it is one as long as it lies in `_drafts`."""
    opening = next((b.lines for b in blocks if b.kind == "text"), [])
    front = {"title": blocks[0].lines[0].cells[0], "summary": drafts.joined([line.cells[0] for line in opening]),
             "tags": ["vLLM", "benchmark", clean(info.get("model", ""), 80)]}
    front = {key: [_bare(v) for v in entry] if isinstance(entry, list) else _bare(entry) for key, entry in front.items()}
    front |= {"date": str(info["began"])[:10]} if info.get("began") else {}
    return front | {"lang": "zh-CN" if lang == "zh" else "en", "draft": True, "layout": "post"}


def _bare(text: str) -> str:
    """For front matter, which themes put into pages as it is."""
    return re.sub(r"[<>{}]", "", text)


def _nothing_added(blocks: list, written: str) -> None:
    """The finished file holds no number that was not in the blocks which were checked."""
    more = provenance.all_numbers(written) - provenance.all_numbers(*(cell for b in blocks for line in b.lines for cell in line.cells))
    if more:
        raise UserError(f"writing the draft out added numbers to it ({', '.join(sorted(more)[:5])}): nothing was written")


def _picture(run: RunDir, file: str, lang: str) -> bytes:
    """A plot of the run, if it is one; its words in the draft's language, where there is a font."""
    path = (run.path / file).resolve()
    if not path.is_relative_to(run.path.resolve() / "plots") or path.suffix != ".svg":
        raise UserError(f"run {run.name}: plots.json names {clean(file, 80)!r}, which is no plot of the run: changed by hand")
    if not path.is_file():
        raise UserError(f"run {run.name} is half there: {clean(file, 80)} is missing; fetch the whole folder, or make the run again")
    svg = path.read_bytes()
    if SCRIPTED.search(svg.split(b"<svg", 1)[-1]):
        raise UserError(f"run {run.name}: {clean(file, 80)} holds a script or a link: no plot of the workbook does")
    return plots_zh.translated(svg) if lang == "zh" else svg


def _notebooks(run: RunDir, figures: dict, info: dict, lang: str) -> dict[str, str]:
    words = drafts.words()
    stamp = [drafts.escaped(line.cells[0]) for block in drafts.unfinished(Source(lang, figures, info, words)) for line in block.lines]
    opening = "\n\n".join([words["notebook_opening"][lang], *([drafts.joined(stamp)] if stamp else [])])
    found = sorted((run.path / "notebooks").glob("*.ipynb"))
    if not found:
        raise UserError(f"run {run.name} holds no executed notebooks: they come from `workbook run`")
    return {f"notebooks/{path.name}": nbformat.writes(without_code.read(path, opening)) + "\n" for path in found}


def _answers(run: RunDir) -> list[dict]:
    """Questions about pictures with the model's replies; lines that are none are left out."""
    for series in drafts.PROBES:
        path = run.requests_file(series)
        if rows := [row for row in records.lines(path)[0] if "question" in row] if path.exists() else []:
            return rows
    return []


def _claims(run: RunDir, source: Source) -> tuple[list, set[str]]:
    """What the run says of the claims that it was given, else of those that the workbook answers."""
    own = run.path / "claims.yaml"
    with finished.reading(run.name, "the claims cannot be held against it"):
        made = claims.load(str(own) if own.exists() else "article")
        return drafts.claimed(source, claim_rules.hold(made, run, source.lang), claims.words(made, "source", source.lang))


def _quotable(info: dict, figures: dict, answers: list[dict]) -> set[str]:
    """What a draft may repeat word for word: questions and replies, and names of notebooks."""
    names = {clean(n) for n in [*info.get("notebooks", {}), *(f["notebook"] for f in figures.values())]}
    return names | {clean(row.get(key) or "–", 160) for row in answers for key in ("question", "reply", "error", "expected")}


# -- may it be published -----------------------------------------------------------------------------
def checked(run: RunDir) -> tuple[dict, dict, dict]:
    """figures.json, run.json and plots.json of a run that is whole. Raises UserError, one line, for any other."""
    parts = ("figures.json", "run.json", "plots.json")
    missing = [part for part in parts[:2] if not (run.path / part).exists()]
    if missing:
        raise UserError(f"run {run.name} is half there: it has no {' and no '.join(missing)}; fetch the whole folder, or make the run again")
    found = [read_json(run.path / part, {}) for part in parts]
    for part, content in zip(parts, found):
        if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values() if part != "run.json"):
            raise UserError(f"run {run.name}: {part} is not what the workbook writes: changed by hand")
    figures, info, plots = found
    for figure_id, figure in figures.items():
        _figure(run, figure_id, figure)
    shapes = {"facts": dict, "parameters": dict, "notebooks": dict, "model": str, "note": str, "command": str, "began": str}
    wrong = [key for key, kind in shapes.items() if key in info and not isinstance(info[key], kind)]
    wrong += [f"notebooks.{name}" for name, state in info.get("notebooks", {}).items() if not isinstance(state, dict)] if not wrong else []
    wrong += [f"{p}" for p, plot in plots.items() if not all(isinstance(plot.get(k), str) for k in ("file", "caption", "notebook"))]
    if wrong:
        raise UserError(f"run {run.name}: {', '.join(clean(w, 60) for w in wrong[:3])} is not what the workbook writes: changed by hand, or of another version")
    if figures:
        with finished.reading(run.name, "its records cannot be read"):
            finished.open_run(str(run.path))  # the figures are those of the records
    return figures, info, plots


def _figure(run: RunDir, figure_id: str, figure: dict) -> None:
    lacking = [key for key in FIGURE if key not in figure]
    if lacking:
        raise UserError(f"run {run.name} was written by another version of the workbook: figure {clean(figure_id, 60)!r} has no {', '.join(lacking)}; "
                        "make the run again with this one")
    low_high = figure["interval"]
    numbers = [figure["value"], figure["n"], *(low_high if isinstance(low_high, list) else [])]
    good = all(isinstance(figure[key], kind) for key, kind in FIGURE.items()) and len(low_high) == 2
    good = good and all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)) for v in numbers)
    good = good and all(type(n) is int for n in figure["counts"].values()) and (None in low_high or low_high[0] <= low_high[1])
    if not good:
        raise UserError(f"run {run.name}: figure {clean(figure_id, 60)!r} is not what the workbook writes: changed by hand")


def scan(run: RunDir, files: dict[str, str | bytes], info: dict) -> None:
    """Raises UserError where a file that would be written holds what must not be seen, with the place."""
    hiding.learn()  # the environment as it is now
    hosts, keys = hiding.known()
    hosts = tuple({*hosts, *_hosts(run, info)})
    for file, content in files.items():
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
        text = re.sub(r"data:image/[\w+.-]+;base64,[A-Za-z0-9+/=]+|\"image/(?:png|jpeg)\": \"[^\"]*\"", "", text)
        text = drafts.plain(text) if file.endswith(".md") else text.replace("\\n", "\n") if file.endswith(".ipynb") else text
        for finding in secrets.find(text, hosts, keys):
            raise UserError(f"{file}, line {finding.line} would show {finding.kind} ({finding.shown}){_origin(run, finding.secret)}: "
                            "nothing was written")


def _origin(run: RunDir, secret: str) -> str:
    """Where in the run folder something comes from."""
    def walk(node, path):
        if isinstance(node, dict):
            for key, value in node.items():
                yield from ([path] if secret in key else [])
                yield from walk(value, f"{path}.{clean(key, 40)}" if path else clean(key, 40))
        elif secret in str(node):
            yield path

    for part in ("run.json", "figures.json", "plots.json"):
        place = next(walk(read_json(run.path / part, {}), ""), None)
        if place is not None:
            return f", from {part}: {place}" if secret not in place else f", from {part}"
    held = next((p for p in sorted((run.path / "requests").glob("*.jsonl")) if secret in p.read_text(encoding="utf-8", errors="replace")), None)
    return f", from requests/{held.name}" if held else ""


def _hosts(run: RunDir, info: dict) -> tuple[str, ...]:
    """Names of hosts that this run knows: its server's, its cluster's."""
    try:
        words = shlex.split(info.get("command", ""))
    except ValueError:
        words = []
    price, server = info.get("price"), read_json(run.path / "server.json", {})
    named = [value for option, value in zip(words, words[1:]) if option in ("--server", "--load") and ("://" in value or ":" in value)]
    named += [str(entry.get(key, "")) for entry, key in ((server, "url"), (price, "server")) if isinstance(entry, dict)]
    return tuple({secrets.host(hiding.real(address)) for address in named} - {""})
