"""An executed notebook without its code: text, tables and plots as cells of Markdown, and nothing in them that could act."""
import re
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from bs4.element import PreformattedString
from nbformat import v4

from lib.errors import UserError
from lib.foreign import visible

TAGS = {"table", "thead", "tbody", "tr", "th", "td", "div", "p", "b", "i", "em", "strong", "small", "br", "code", "pre", "span", "ul", "ol",
        "li", "img"}
DROPPED = ("script", "style", "iframe", "object", "embed", "form", "input", "button", "svg", "math", "link", "meta", "base", "title")
LONGEST = 20_000  # characters of one text output


def read(path: Path, opening: str) -> nbformat.NotebookNode:
    """The notebook to be published. opening: a first paragraph, Markdown. Raises UserError for a damaged one."""
    try:
        executed = nbformat.read(path, as_version=4)
        cells = [found for cell in executed.cells for found in _cells(cell)]
    except Exception as error:  # whatever is wrong with a file that was cut off or changed
        raise UserError(f"{path.parent.parent.name}/notebooks/{path.name} is damaged ({str(error).splitlines()[0][:100]}): make the run again")
    return v4.new_notebook(cells=[v4.new_markdown_cell(opening), *cells], metadata={"language_info": {"name": "python"}})


def _cells(cell) -> list:
    if cell.cell_type == "markdown":
        return [v4.new_markdown_cell(_text(cell.source))]
    if cell.cell_type != "code":
        return []
    return [found for found in map(_output, cell.outputs) if found]


def _output(output):
    """A cell for an output; None for what is only progress, or cannot be shown."""
    if output.output_type == "stream":
        return v4.new_markdown_cell(_fenced(output.text)) if output.name == "stdout" and output.text.strip() else None
    if output.output_type == "error":
        return v4.new_markdown_cell(_fenced(f"{output.ename}: {output.evalue}"))
    data = output.data
    picture = next((kind for kind in ("image/png", "image/jpeg") if kind in data), None)
    if picture:
        cell = v4.new_markdown_cell("![](attachment:plot)")
        cell["attachments"] = {"plot": {picture: re.sub(r"[^A-Za-z0-9+/=]", "", "".join(data[picture]))}}
        return cell
    if "text/html" in data:
        return v4.new_markdown_cell(harmless("".join(data["text/html"])))
    if "text/markdown" in data:
        return v4.new_markdown_cell(_text("".join(data["text/markdown"])))
    if output.output_type == "execute_result" and "text/plain" in data:
        return v4.new_markdown_cell(_fenced("".join(data["text/plain"])))
    return None


def _text(markdown: str) -> str:
    """Markdown without tags and without links to anything but the web."""
    return re.sub(r"(?i)\]\(\s*(?!https?:|#)[a-z][a-z0-9+.-]*:[^)]*\)", "]()", visible(markdown)[:LONGEST].replace("<", "&lt;"))


def _fenced(text: str) -> str:
    text = visible(text)
    text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return f"~~~~~~text\n{text.replace('~~~~~~', '~~~~~')}\n~~~~~~"


def harmless(page: str) -> str:
    """HTML with tables, text and embedded pictures alone: no script, no style, no attribute but a picture's own."""
    soup = BeautifulSoup(visible(page), "html.parser")
    for node in soup.find_all(string=lambda text: isinstance(text, PreformattedString)):  # comments, declarations
        node.extract()
    for tag in soup.find_all(DROPPED):
        tag.decompose()
    for tag in soup.find_all(True):
        source = tag.get("src", "") if tag.name == "img" else ""
        kept = {"src": source, "alt": tag.get("alt", "")} if re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+$", source) else {}
        kept |= {name: tag[name] for name in ("colspan", "rowspan") if re.fullmatch(r"\d{1,3}", tag.get(name, ""))}
        tag.attrs = kept
        if tag.name not in TAGS or (tag.name == "img" and not kept):
            tag.unwrap()
    text = str(soup).replace("](", "]&#40;")  # no link, wherever Markdown is read inside of it
    return re.sub(r"\n\s*\n+", "\n", text).strip()  # a blank line would end the HTML for Markdown
