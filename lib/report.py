"""A run folder -> report.html: one file, made from what lies on disk, without a server."""
import base64
import re
from pathlib import Path

import jinja2
import pandas as pd
from bs4 import BeautifulSoup
from markupsafe import Markup

from lib import ROOT, claim_rules, cost, efficiency, finished, gallery, resume, tables, tables_tuning, verdicts
from lib.foreign import fit
from lib.rundir import NAME, RunDir, read_json, write_text

TEMPLATE = Path(__file__).parent / "templates" / "report.html"
PROBES = {"01_health_check": "probes", "05_multimodal": "picture_probes"}  # notebook -> its series of questions about pictures


def build(run: RunDir, archive: str = "") -> Path:
    """Write report.html of a run and return its path. Missing and failed notebooks are shown as such. archive: the file beside it in
    which its records will be. Raises UserError for files that are not as the workbook writes them."""
    with finished.reading(run.name, "no report can be made of it"):
        return _build(run, archive)


def _build(run: RunDir, archive: str) -> Path:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True, finalize=_harmless)
    environment.filters["number"] = lambda value: tables.number(value) if not isinstance(value, str) else value
    environment.tests["a_file_of_the_run"] = lambda name: isinstance(name, str) and re.fullmatch(r"requests/[\w+-][\w.+-]*", name) is not None
    environment.tests["match_agree"] = lambda judgement: judgement.startswith("agree")
    figures, info = run.figures(), run.info()
    path = run.path / "report.html"
    write_text(path, environment.get_template(TEMPLATE.name).render(
        run=run.name,
        archive=archive,
        info=info,
        figures=len(figures),
        headlines=[f | {"of": _title(f["notebook"]), "limit": efficiency.beside(f, figures)} for f in figures.values() if f["headline"]],
        attempts=resume.words(info),
        chapters=_chapters(run, figures, info),
        doubts=_doubts(figures),
        calibration=_calibration(run),
        claims=claim_rules.section(run),
        limits=efficiency.section(figures, read_json(run.path / "roofline.json", None)),
        cost=cost.section(info, figures),
        no_price=cost.NO_PRICE,
        kinds=verdicts.KINDS,
        note=info.get("note", ""),
    ))
    return path


def _chapters(run: RunDir, figures: dict, info: dict) -> list[dict]:
    """One chapter per notebook that was asked for or has left something behind."""
    plots = run.plots()
    states = info.get("notebooks", {})
    names = sorted(set(states) | {f["notebook"] for f in figures.values()} | {p["notebook"] for p in plots.values()})
    return [
        {
            "name": name,
            "title": _title(name),
            "state": states.get(name, {"status": "run by hand"}),
            "page": _page(run, name),
            "series": _series([f for f in figures.values() if f["notebook"] == name], run.series()),
            "tuning": tables_tuning.section(read_json(run.path / "tuning.json", None)) if name == "06_tuning" else None,
            "plots": [p | {"data": _embedded(run, p["file"])} for p in plots.values() if p["notebook"] == name],
            "answers": gallery.section(run, PROBES[name]) if name in PROBES else [],
        }
        for name in names
    ]


def _page(run: RunDir, name: str) -> str | None:
    """Where the executed notebook can be read: as a page, or as it is where the pages were not published."""
    pages = (f"html/{name}.html", f"notebooks/{name}.ipynb") if NAME.fullmatch(name) else ()
    return next((page for page in pages if (run.path / page).exists()), None)


def _series(figures: list[dict], about: dict) -> list[dict]:
    """Figures -> one table per records file, or per table that they name: a row per metric, a column per statistic;
    with what is known of the series beside them."""
    out = {}
    for figure in figures:
        if figure.get("table") in (efficiency.TABLE, cost.TABLE):  # they have a section of their own
            continue
        metric, _, statistic = figure["name"].rpartition(", ")
        shared = figure.get("table")
        table = out.setdefault(shared or figure["records"], {
            "records": [], "columns": [], "rows": {}, "counts": {} if shared else figure.get("counts") or {}, "shared": shared})
        if figure["records"] not in table["records"]:
            table["records"].append(figure["records"])
        if statistic not in table["columns"]:
            table["columns"].append(statistic)
        row = table["rows"].setdefault(metric, {"unit": figure["unit"], "formula": figure["formula"], "cells": {}})
        row["cells"][statistic] = figure
    for table in out.values():
        table["about"] = {} if table["shared"] else about.get(Path(table["records"][0]).stem, {})
    return list(out.values())


def _doubts(figures: dict) -> list[dict]:
    """What carries a verdict other than "valid": one entry per notebook and verdict, with the metrics it is about."""
    found = {}
    for figure in figures.values():
        if figure["verdict"] != "valid":
            names = found.setdefault((figure["notebook"], figure["verdict"]), [])
            metric = figure["name"].rpartition(", ")[0]
            names += [metric] if metric not in names else []
    return [{"notebook": n, "verdict": v, "metrics": ", ".join(names)} for (n, v), names in sorted(found.items())]


def _calibration(run: RunDir) -> dict | None:
    """The client's own limits, as a sentence's parts and a table; None where it was not put to the test."""
    found = read_json(run.path / "calibration.json", None)
    if not found or not found["rows"]:
        return None
    table = tables.calibration(pd.DataFrame(found["rows"]))
    return {"streams": found["streams"], "tokens_per_s": found["tokens_per_s"], "columns": list(table.columns),
            "rows": table.to_dict("split")["data"]}


def _title(notebook: str) -> str:
    """`02_single_request` -> `Single request`."""
    return re.sub(r"^\d+_", "", notebook).replace("_", " ").capitalize()


def _embedded(run: RunDir, file: str) -> Markup:
    """A plot as a data URL: the report stays one file, and a picture cannot style or script the page. Nothing is taken from
    outside the run's plots, whatever plots.json names."""
    path = (run.path / file).resolve()
    if not path.is_relative_to((run.path / "plots").resolve()) or path.suffix != ".svg":
        return Markup()
    try:
        return Markup("data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode())
    except OSError:
        return Markup()


def _harmless(value):
    """Whatever a run folder says in words, before it is escaped; our own pictures are as they are."""
    return fit(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def as_text(page: Path) -> str:
    """The words of an HTML page, for checks and for reading in a terminal."""
    return " ".join(_soup(page).get_text(" ").split())


def loads_from_elsewhere(page: Path) -> list[str]:
    """What a browser would fetch from another host on opening the page; links that wait to be clicked are not
    among it."""
    soup = _soup(page)
    named = [tag.get("src") or tag.get("href") for tag in soup.find_all(lambda tag: tag.get("src") or tag.name == "link")]
    styles = " ".join([tag.get_text() for tag in soup.find_all("style")] + [t["style"] for t in soup.find_all(style=True)])
    named += re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", styles)
    return [address for address in named if address and re.match(r"(https?:)?//", address)]


def _soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def shown(path: Path) -> str:
    """A path as a user would type it from the checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
