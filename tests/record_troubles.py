"""Provokes every trouble of data/troubles.yaml that this machine can provoke, for real, and keeps what vLLM wrote.

    python tests/record_troubles.py [NAME …]

Logs of starts that fail go to tests/data/troubles/, replies to bad requests to requests.json there. Run it when vLLM's
version changes: the tests then say which patterns no longer find anything, and `line` in the table is to be mended.
"""
import json
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

from lib import ROOT, health, launch, troubles

FOLDER = Path(__file__).parent / "data" / "troubles"
LIMIT_S = 90
# What differs from one machine to the next, or tells about this one.
PRIVATE = ((str(ROOT), "."), (sys.prefix, "ENV"), (sys.base_prefix, "PYTHON"), (str(Path.home()), "~"), (f"{tempfile.gettempdir()}/", "TMP/"))
NOISE = re.compile(r"INFO|WARNING|Warning|warnings.warn|^\s*$|^\(\S+ pid=\d+\)\s*$|\^\^\^|~~~|File \"|^usage:|^ +\[|Loading safetensors|Triton is installed|dispatcher")


def slug(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-")


def start(trouble: troubles.Trouble) -> str:
    """The log of a start in which this trouble was provoked."""
    how, folder = trouble.provoke, Path(tempfile.mkdtemp())
    model = how.get("model") or str(_model(how, folder))
    flags = [] if "model" in how else launch.added_flags("embedded")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if "taken_port" in how else launch._free_port()
        env = launch._environment(model, "key") | {k: str(folder) if v == "none" else v for k, v in how.get("env", {}).items()}
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--host", "127.0.0.1",
                   "--port", str(port), *flags, *shlex.split(how.get("flags", ""))]
        process, began = launch.GuardedProcess(command, env, folder / "log"), time.monotonic()
        while process.alive() and time.monotonic() - began < LIMIT_S:
            time.sleep(0.2)
        process.stop()
    text = (folder / "log").read_text(encoding="utf-8", errors="replace")
    shutil.rmtree(folder)
    return text.replace(str(folder), "FOLDER")


def _model(how: dict, folder: Path) -> Path:
    """The embedded model, or a copy of it with what is to be wrong."""
    if not {"config", "cut", "without"} & set(how):
        return launch.EMBEDDED
    copy = Path(shutil.copytree(launch.EMBEDDED, folder / "model"))
    if "config" in how:
        config = copy / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | how["config"]))
    if "cut" in how:
        os.truncate(copy / how["cut"], (copy / how["cut"]).stat().st_size // 2)
    if "without" in how:
        (copy / how["without"]).unlink()
    return copy


def tidy(log: str) -> str:
    """A log without what is private and without the lines that say nothing of the trouble."""
    for secret, word in PRIVATE:
        log = log.replace(secret, word)
    lines = [line[:400] for line in troubles.ANSI.sub("", log).splitlines() if not NOISE.search(line)]
    return "\n".join(lines) + "\n"


def main(wanted: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for trouble in troubles.of_kind("start"):
        if trouble.provoke and (not wanted or trouble.name in wanted):
            log = start(trouble)
            (FOLDER / f"{slug(trouble.name)}.log").write_text(tidy(log), encoding="utf-8")
            print(f"{trouble.name}\n    {troubles.diagnose(log)}", flush=True)
    if not wanted or "requests" in wanted:
        with launch.open_server("embedded", "--max-model-len 900", Path(tempfile.mkdtemp())) as server:
            rows = health.provoke(server)
        kept = rows.assign(message=rows["message"].str.replace(server.url, "URL")).to_dict("records")
        (FOLDER / "requests.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(rows.to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
