"""Every notebook beside every fault: what a user sees when the server misbehaves in the middle.

    python scripts/fault_matrix.py --server http://127.0.0.1:8000 --notebooks 02 03 --faults none die hang
    python scripts/fault_matrix.py --page docs/faults.md

Each cell is a run of one notebook with the parameters of data/profiles/tiny.yaml through lib.fault_proxy. The fault begins at a seeded moment in the
middle: after so many requests of those that the notebook sends without a fault, which the column `none` counts and which
is therefore run first. What came of it is kept in a file, and the page is made from that.
"""
import argparse
import json
import os
import random
import re
import shutil
import time
from pathlib import Path

from lib import OUTPUTS, catalog, execution, plans, rundir, time_limit
from lib.fault_proxy import Fault, between
from lib.rundir import write_json, write_text

CELLS, MACHINE = OUTPUTS / "fault_matrix.json", OUTPUTS / "fault_matrix_roofline.json"
SILENCE_S, SPARE_S, FACTOR = 3.0, 60.0, "0.1"  # in place of minutes: nobody waits for a cell
SMALL = {name: value for name, value in catalog.load_profile("tiny").items() if name != "takes"}
NOTEBOOKS = catalog.all_notebooks()
ALL = {"path": ""}  # not only completions: /metrics, /v1/models and /health too
FAULTS = {
    "none": (),
    "die": (Fault("die", seconds=0.0, **ALL),),
    "restart": (Fault("die", seconds=4.0, **ALL),),
    "out of memory": (Fault("oom", seconds=0.0),),
    "hang": (Fault("hang", **ALL),),
    "ten times as slow": (Fault("slow", **ALL),),
    "drip": (Fault("drip", seconds=1.0),),
    "delay": (Fault("delay", seconds=1.0),),
    "reset": (Fault("reset", share=0.3, after=300),),
    "truncate": (Fault("truncate", share=0.3, after=300),),
    "garble": (Fault("garble", share=0.3, after=300),),
    "429 above 4": (Fault("limit", status=429, most=4),),
    "500": (Fault("status", share=0.3, status=500),),
    "503": (Fault("status", status=503, **ALL),),
}


def moment(notebook: str, fault: str, requests: int, seed: int) -> int:
    """After how many of its requests a notebook meets the fault: from a quarter to three quarters of them."""
    return max(1, round(requests * random.Random(f"{notebook}/{fault}/{seed}").uniform(0.25, 0.75)))


def cell(server: str, notebook: str, fault: str, requests: int, seed: int) -> dict:
    """One run -> what became of it."""
    counted = "completions" if notebook not in ("00_setup", "09_report") else ""
    begin = moment(notebook, fault, requests, seed)
    faults = tuple(Fault(**(vars(f) | {"begin": begin, "counted": counted})) for f in FAULTS[fault])
    name = f"fault-{notebook}-{fault.replace(' ', '-')}"
    shutil.rmtree(OUTPUTS / name, ignore_errors=True)
    folder = rundir.RunDir(name)
    if MACHINE.exists():  # what memory and processor can do is the same for all cells
        shutil.copy(MACHINE, folder.path / "roofline.json")
    with between(server, *faults, seed=seed) as proxy:
        limit = plans.Plan("tiny", proxy.url, [notebook], SMALL, takes={notebook: {"seconds": 60}}).limit(notebook)
        execution.execute(folder, notebook, SMALL, proxy.url, limit)
        found = {"limit_s": limit.seconds, "requests": proxy.came(counted), "begin": begin, "struck": sum(proxy.struck.values())}
    if (folder.path / "roofline.json").exists():
        shutil.copy(folder.path / "roofline.json", MACHINE)
    figures, state = folder.figures(), folder.info()["notebooks"][notebook]
    doubtful = [f["verdict"] for f in figures.values() if not f["verdict"].startswith(("valid", "too few"))]
    rows = sum(len(path.read_bytes().splitlines()) for path in (folder.path / "requests").glob("*.jsonl") if "telemetry" not in path.name)
    found |= {"status": state["status"], "seconds": state["seconds"], "error": state.get("error", ""), "figures": len(figures), "rows": rows,
              "doubt": max(set(doubtful), key=lambda d: (d.startswith("errors"), doubtful.count(d))) if doubtful else "", "doubtful": len(doubtful),
              "traceback": bool(re.match(r"(cell \d+: )?\w*(Error|Exception|Interrupt)\b", state.get("error", "")))}
    shutil.rmtree(folder.path)
    return found


def seen(found: dict, fault: str = "none") -> str:
    """A cell in a line: what the user sees."""
    if fault != "none" and not found["struck"]:
        told = "done: it sends no request that such a fault meets" if found["status"] == "done" else f"failed before the fault: {found['error']}"
    elif found["status"] == "done":
        told = "done" + (f"; {found['doubtful']} of {found['figures']} figures marked: {found['doubt']}" if found["doubtful"] else "")
    else:
        told = re.sub(r"^cell \d+: ", "", found["error"])
    return f"{told} ({found['rows']} records, {found['figures']} figures kept; {found['seconds']:.0f} s)"


def page(cells: dict) -> str:
    """The matrix as Markdown: a table for each notebook."""
    parts = ["# When the server misbehaves\n\nWhat each notebook showed when a fault began in its middle, on the embedded model behind a proxy "
             "that fails on purpose (`scripts/fault_matrix.py`, which also wrote this page). Parameters are small, and the limits of "
             f"time as well: a silence of {SILENCE_S:g} s is waited out where it usually is {time_limit.SILENCE_S:g} s.\n"]
    for notebook in NOTEBOOKS:
        rows = [(fault, cells[f"{notebook}/{fault}"]) for fault in FAULTS if f"{notebook}/{fault}" in cells]
        if rows:
            parts.append(f"\n## {notebook}\n\n| fault | from request | requests it struck | what the user sees |\n|---|---|---|---|")
            sent = cells[f"{notebook}/none"]["requests"]
            begins = {fault: "–" if fault == "none" or not sent else f"{found['begin']} of {sent}" for fault, found in rows}
            parts += [f"| {fault} | {begins[fault]} | {found['struck'] or '–'} | {seen(found, fault).replace('|', '/')} |" for fault, found in rows]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", help="its URL; the key is taken from WORKBOOK_API_KEY")
    parser.add_argument("--notebooks", nargs="*", default=NOTEBOOKS, help="by their beginnings")
    parser.add_argument("--faults", nargs="*", default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within", type=float, default=1e9, help="begin no cell after so many seconds")
    parser.add_argument("--missing", action="store_true", help="only cells that are not there yet")
    parser.add_argument("--page", type=Path, help="write the page, from all cells so far")
    asked = parser.parse_args()
    os.environ |= {time_limit.SILENCE: str(SILENCE_S), time_limit.WIDER: FACTOR}
    os.environ.setdefault("WORKBOOK_API_KEY", "")
    time_limit.SPARE_S, time_limit.GRACE_S = SPARE_S, 10.0
    began, cells = time.monotonic(), json.loads(CELLS.read_text()) if CELLS.exists() else {}
    for notebook in [n for n in NOTEBOOKS if n.startswith(tuple(asked.notebooks))] if asked.server else []:
        for fault in dict.fromkeys(["none", *asked.faults]):
            key = f"{notebook}/{fault}"
            if time.monotonic() - began > asked.within or (key in cells and (asked.missing or (fault == "none" and "none" not in asked.faults))):
                continue
            known = cells.get(f"{notebook}/none", {}).get("requests", 1)
            cells[key] = cell(asked.server, notebook, fault, known, asked.seed)
            write_json(CELLS, cells)
            print(f"{'TRACEBACK ' if cells[key]['traceback'] else ''}{key}: {seen(cells[key], fault)}", flush=True)
    if asked.page:
        write_text(asked.page, page(cells))


if __name__ == "__main__":
    main()
