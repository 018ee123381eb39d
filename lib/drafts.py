"""A run -> the blocks of its blog draft, and the blocks as Markdown and as one HTML file."""
import base64
import html
import re
import shlex
from pathlib import Path

import jinja2
import yaml

from lib import claim_words, claims, draft_tables, provenance, sentences
from lib.finished import PASSING
from lib.foreign import clean
from lib.sentences import Block, Line, Source

TEMPLATES = Path(__file__).parent / "templates"
PROBES = ("picture_probes", "probes")  # records of questions about pictures, the first that are there
LANGUAGES = ("en", "zh")


def words() -> dict:
    """The prose in both languages."""
    return yaml.safe_load((TEMPLATES / "draft.yaml").read_text(encoding="utf-8"))


def compose(source: Source, plots: dict, answers: list[dict], settled: list[Block] = ()) -> list[Block]:
    """The whole draft. plots: of plots.json; answers: rows of lib.probes.judged; settled: a claims table, where there is one."""
    blocks = [Block("title", [sentences.sentence(source, source.words["title"]) or Line([f"vLLM {_w(source, 'facts')}"])]), *unfinished(source)]
    blocks += sentences.paragraphs(source, source.words["opening"])
    blocks += _left_out(source, plots)
    blocks += _under(source, "facts", _facts(source))
    headlines = {i: f for i, f in source.figures.items() if f["headline"]}
    blocks += _under(source, "headline", draft_tables.listed(source, headlines) or sentences.paragraphs(source, source.words["no_headline"]))
    measured, shown = {entry["notebook"] for entry in [*source.figures.values(), *plots.values()]}, {"01_health_check"}
    for section in source.words["sections"]:
        there = section["notebook"] in measured or section["notebook"] == "limits"
        found = _section(source, section, plots) if there else []
        blocks += _headed(section["title"][source.lang], found)
        if section["notebook"] == "05_multimodal":
            blocks += _under(source, "sight", _seen(source, answers))
        shown.add(section["notebook"])
    for notebook in dict.fromkeys(f["notebook"] for f in source.figures.values() if f["notebook"] not in shown):
        others = {i: f for i, f in source.figures.items() if f["notebook"] == notebook and not i.startswith(("limit.", "cost."))}
        blocks += _headed(f"{_w(source, 'others')}: {clean(notebook)}", draft_tables.listed(source, others, whose=False), [clean(notebook)])
    blocks += list(settled)
    return blocks + _under(source, "doubts", _doubts(source)) + _under(source, "repeat", _repeat(source))


def _w(source: Source, key: str) -> str:
    return source.words[key][source.lang]


def _headed(title: str, blocks: list[Block], quotes: tuple = ()) -> list[Block]:
    return [Block("heading", [Line([title], quotes=list(quotes))]), *blocks] if blocks else []


def _under(source: Source, key: str, blocks: list[Block]) -> list[Block]:
    return _headed(_w(source, key), blocks)


def _section(source: Source, section: dict, plots: dict) -> list[Block]:
    """Sentences, tables and plots of one way of using the server."""
    found = sentences.paragraphs(source, section["text"])
    for kind, *given in section["tables"]:
        found += getattr(draft_tables, kind)(source, *given)
    for plot_id, plot in plots.items():
        if plot["notebook"] == section["notebook"]:
            known = source.words["plots"].get(plot_id, {}).get(source.lang)
            told = clean(plot["caption"]) if source.lang == "en" and not re.search(r"\d", plot["caption"]) else ""
            caption = known or told or sentences.section_title(source, section["notebook"])
            found.append(Block("plot", [Line([caption])], plot["file"]))
    return found


def _seen(source: Source, answers: list[dict]) -> list[Block]:
    """What share of questions about pictures was answered rightly, and some of the answers."""
    kinds = draft_tables.some(source, r"(?:picture_probes|probes|pictures\.ocr|own_pictures)\.\w+")
    said = draft_tables.replies(source, answers)
    return ((sentences.paragraphs(source, source.words["seen"]) + kinds if kinds else [])
            + (sentences.paragraphs(source, source.words["answers"]) + said if said else []))


def _left_out(source: Source, plots: dict) -> list[Block]:
    """Which ways of using the server this run says nothing of."""
    measured = {entry["notebook"] for entry in [*source.figures.values(), *plots.values()]}
    missing = [s["title"][source.lang] for s in source.words["sections"] if s.get("mode") and s["notebook"] not in measured]
    between = "、" if source.lang == "zh" else "; "
    return [Block("text", [Line([_w(source, "left_out").replace("{modes}", between.join(missing))])])] if missing else []


def claimed(source: Source, held: list, about: str) -> tuple[list[Block], set[str]]:
    """A table of somebody's claims that this run settles, and which it does not; and what it repeats word for word.
    held: of lib.claim_rules, in the draft's language; about: whose claims they are.

    A reason stands there only if this run's own figures carry all of its numbers: limits and ratios that were worked out
    from them are in the report.
    """
    rows, said, left = [], {clean(about)}, []
    for claim in held:
        words, told = clean(claim.claim.zh if source.lang == "zh" and claim.claim.zh else claim.claim.en), claim_words.VERDICTS[claim.verdict]
        checks = [*claim.claim.checks, *claim.claim.evidence]
        wanted = ("；" if source.lang == "zh" else "; ").join(dict.fromkeys(filter(None, (claim_words.claimed(c, source.lang) for c in checks))))
        quotes = [words, wanted, *(clean(text) for c in checks for text in (claims.words(c, "means", source.lang), c.documented) if text)]
        said |= set(quotes)
        if claim.verdict in claim_words.UNSETTLED:
            left.append(words)
            continue
        sources = ["run:facts.server", *(i for found in claim.found for i in found.ids)]
        line = Line([words, wanted or "–", told[LANGUAGES.index(source.lang)]], sources, quotes)
        why = [reason for reason in map(clean, claim.reasons) if provenance.said(Line([reason], sources, quotes), source.figures, source.info)]
        if not {clean(found.reason) for found in claim.found if found.holds is not None} & set(why):  # what settled it cannot be said here
            why.insert(0, _w(source, "computed"))
        line.cells.append(("；" if source.lang == "zh" else "; ").join(why))
        rows.append(line)
    if not rows:
        return [], said
    lead = Block("text", [Line([_w(source, "of_claims").replace("{source}", clean(about))], quotes=[clean(about)])])
    rest = Block("list", [Line([words], quotes=[words]) for words in left])
    outside = any(line.cells[-1].startswith(_w(source, "computed")) for line in rows)
    open_ = [Block("text", [Line([_w(source, "of_computed")])])] if outside else []
    open_ += [Block("text", [Line([_w(source, "unsettled")])]), rest] if left else []
    return _under(source, "claims", [lead, *draft_tables.table(source, ["claim", "claimed", "verdict", "because"], rows), *open_]), said


def _facts(source: Source) -> list[Block]:
    facts = source.info.get("facts", {})
    rows = [Line([title[source.lang], source.word("found", clean(PASSING.sub("", str(facts[name]))))], [f"run:facts.{name}"])
            for name, title in source.words["facts_names"].items() if name in facts and (facts[name] != "none" or name == "GPU")]
    return draft_tables.table(source, ["what", "found"], rows)


def unfinished(source: Source) -> list[Block]:
    """What a reader must know first: which notebooks did not end well."""
    states = source.info.get("notebooks")
    if not states:
        return [Block("warning", [Line([_w(source, "by_hand")])])]
    lines = []
    for name, state in states.items():
        if state.get("status") != "done":
            status = source.words["status"].get(state.get("status"), {}).get(source.lang) or clean(state.get("status"), 40)
            why = clean(str(state.get("error", "")).split("\n")[0], 160)
            line = f"{sentences.section_title(source, name)} {status}" + (f" ({why})" if why else "")
            lines.append(Line([line], [f"run:notebooks.{name}.error", f"run:notebooks.{name}.status"], [clean(name)]))
    if "plan" in source.info and not source.info.get("ended"):  # what a run notes at its beginning, and at its end
        lines.append(Line([_w(source, "cut_off")]))
    return [Block("warning", [Line([_w(source, "unfinished")]), *lines])] if lines else []


def _doubts(source: Source) -> list[Block]:
    found = {}
    for figure_id, f in source.figures.items():
        if sentences.kinds(f["verdict"]) and f["value"] is not None:
            found.setdefault((sentences.owner(source, figure_id, f), f["verdict"]), []).append((figure_id, f))
    rows = []
    for (whose, verdict), entries in found.items():
        names = dict.fromkeys(sentences.metric_name(source, f) for _, f in entries)
        between, colon = ("；", "：") if source.lang == "zh" else ("; ", ": ")
        rows.append(Line([f"{whose}{colon}{between.join(names)}{' — ' if source.lang == 'en' else '——'}{sentences.reasons(source, verdict)}"],
                         [i for i, _ in entries], [n for n in {clean(f["notebook"]) for _, f in entries} if n == whose]))
    lead = sentences.paragraphs(source, source.words["doubtful" if rows else "none_doubtful"]) if source.figures else []
    return [*lead, *([Block("list", rows)] if rows else []), *sentences.paragraphs(source, source.words["meaning"])]


def _repeat(source: Source) -> list[Block]:
    command = source.info.get("command")
    shown = [Block("text", [Line([_w(source, "command")])]),
             Block("code", [Line([public(str(command))], ["run:command"])])] if command else []
    return shown + sentences.paragraphs(source, source.words["repeating"])


def public(command: str) -> str:
    """A run's command without the address of the server or of the cluster, and without folders of this machine."""
    try:
        parts = shlex.split(clean(command, 2000))
    except ValueError:  # changed by hand
        return clean(command, 2000)
    for at, (option, value) in enumerate(zip(parts, parts[1:])):
        if option in ("--server", "--load") and ("://" in value or re.search(r":\d+$", value)):
            parts[at + 1] = "URL" if option == "--server" else "ADDRESS"
        elif option == "--server" and value.startswith(("/", "~", ".", "\\")):
            parts[at + 1] = "FOLDER"
    return shlex.join(parts)


# -- as Markdown -------------------------------------------------------------------------------------
def markdown(blocks: list[Block], front: dict) -> str:
    """For Hugo, Jekyll and whatever else reads Markdown. front: what stands above it, as YAML."""
    return ("---\n" + yaml.safe_dump(front, allow_unicode=True, sort_keys=False, width=1000) + "---\n\n"
            + "\n\n".join(filter(None, (_block(b) for b in blocks))) + "\n")


def _block(block: Block) -> str:
    lines = [[escaped(cell) for cell in line.cells] for line in block.lines]
    if block.kind == "title":
        return ""  # the front matter has it
    if block.kind == "heading":
        return f"## {lines[0][0]}"
    if block.kind == "warning":
        first, *rest = (cells[0] for cells in lines)
        return "\n".join([f"> **{first}**", *([">"] if rest else []), *(f"> - {line}" for line in rest)])
    if block.kind == "list":
        return "\n".join(f"- {cells[0]}" for cells in lines)
    if block.kind == "table":
        rows = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if block.kind == "code":
        words = block.lines[0].cells[0].replace("{{", "{ {").replace("{%", "{ %")
        fence = "`" * max(3, *(len(ticks) + 1 for ticks in re.findall("`+", words) or [""]))
        return f"{fence}sh\n{words}\n{fence}"
    if block.kind == "plot":
        return f"![{lines[0][0]}](plots/{Path(block.file).name})\n\n*{lines[0][0]}*"
    return joined([cells[0] for cells in lines])


def joined(said: list[str]) -> str:
    """Sentences to a paragraph: Chinese has no space between them."""
    return "".join(s if not n or said[n - 1].endswith(("。", "？", "！", "：")) else f" {s}" for n, s in enumerate(said))


def escaped(text: str) -> str:
    """Text that Markdown, HTML, Liquid (Jekyll) and Hugo's shortcodes take for text, and that stays as it is: both would set dashes and
    quotation marks as a printer does, and a flag in `--flags '{"image": 4}'` could not be copied any more."""
    text = re.sub(r"[\\`*_\[\]|~$^#!\"]|-(?=-)|(?<=-)-|(?<!\w)'|'(?!\w)", r"\\\g<0>", text)
    text = re.sub(r"[<>&{}]", lambda m: f"&#{ord(m[0])};", text)
    return re.sub(r"(?i)(?<=[a-z]):(?=//)|(?<=www)\.", lambda m: f"&#{ord(m[0])};", text)  # no links by themselves


def plain(text: str) -> str:
    """What a reader of `escaped` sees."""
    return html.unescape(re.sub(r"\\([\\`*_\[\]|~$^#!\"'-])", r"\1", text))


# -- as HTML -----------------------------------------------------------------------------------------
def page(blocks: list[Block], lang: str, pictures: dict[str, bytes]) -> str:
    """One file that loads nothing. pictures: file of a plot -> its SVG."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    data = {file: "data:image/svg+xml;base64," + base64.b64encode(svg).decode() for file, svg in pictures.items()}
    return environment.get_template("draft.html").render(blocks=blocks, lang=lang, pictures=data, joined=joined, numeric=numeric)


def numeric(cell: str) -> bool:
    """Is a cell of a table a number, perhaps with its interval and unit? Such stand at the right."""
    return bool(re.match(r"[-−]?[\d–]", cell)) and len(cell) < 60
