"""Start a vLLM server, wait until it really answers, stop it and everything that it started.

A server is named by a *spec*: `embedded` (real vLLM with the small model in data/models), a URL, a model
(hub id or folder), `shape:MODEL` (its architecture with random weights: lib.model_shape), or `auto`: the one
that WORKBOOK_SERVER names, else `embedded`. Either way the result is a `lib.server.Server`.
"""
import argparse
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil

from lib import DATA, OUTPUTS, ROOT, hold, machine, model_shape, time_limit, troubles
from lib.errors import OutOfTime, UserError
from lib.hiding import hide, learn
from lib.progress import progress
from lib.rundir import write_json
from lib.server import Server, connect, get, headers, models
from lib.vllm_plugin import SWITCH

EMBEDDED = DATA / "models" / "tiny-qwen3-vl"
SECRET = ("--api-key", "--hf-token")  # flags whose values are
ADDRESS = re.compile(r"(localhost|\d+(\.\d+){3})(:\d+)?(/.*)?|([\w.-]+|\[[\da-fA-F:]+\]):\d+(/.*)?", re.ASCII)  # no model is named so
PORTS = range(20_000, 32_000)  # below the ephemeral ones (Linux: from 32768, others from 49152)
START_LIMIT_S = 900  # a first start on a GPU compiles kernels; a large model loads for minutes


def named(spec: str) -> str:
    """What `auto` means just now; any other spec as it is, but HOST:PORT with the http:// that it lacks."""
    spec = (os.environ.get("WORKBOOK_SERVER") or "embedded") if spec == "auto" else spec
    return f"http://{spec}" if ADDRESS.fullmatch(spec) else spec


def addressed(spec: str) -> str:
    """The same for a spec that a user gave, `auto` left as it is; that http:// was added is said on stderr."""
    if spec == "auto" or named(spec) == spec:
        return spec
    print(hide(f"{spec} is taken as the address of a server, {named(spec)}"), file=sys.stderr)
    return named(spec)


def is_url(spec: str) -> bool:
    """Does a spec name a server that runs already?"""
    return named(spec).startswith(("http://", "https://"))


def open_server(spec: str = "auto", flags: str | list = "", folder: Path | None = None) -> Server:
    """The server that `spec` names, started if need be. `flags`: vLLM's own, as one string or a list.

    `folder` takes the log and server.json. Raises UserError, in one line, when it cannot be had.
    """
    flags, spec = words(flags), named(addressed(spec))
    if spec.startswith(("http://", "https://")):
        if flags:
            raise UserError(f"{spec} runs already and takes no flags: leave the flags out, or name a model to start")
        return connect(spec, folder=folder)
    if spec == "embedded":
        return start(str(EMBEDDED), [*added_flags(spec), *flags], folder, embedded=True)
    if spec.startswith(model_shape.PREFIX):
        made = model_shape.make(spec.removeprefix(model_shape.PREFIX))
        return start(str(made), [*added_flags(spec), *flags], folder, spec=spec)
    if "://" in spec:
        raise UserError(f"server {spec!r} is no URL that this workbook speaks: it starts with http:// or https://")
    if spec.startswith(("/", "./", "../", "~")):
        spec = str(Path(spec).expanduser())
        if not Path(spec, "config.json").is_file():
            raise UserError(f"the model was not found ({spec} holds no config.json): check the path of its folder")
    return start(spec, flags, folder)


def words(flags: str | list) -> list:
    """vLLM's flags as a list of words, each home folder (`~`) in full. Raises UserError for a quote that does not end."""
    try:
        split = shlex.split(flags) if isinstance(flags, str) else list(flags)
        return [re.sub(r"(^|=)(~[^/=]*/.*)", lambda m: m[1] + os.path.expanduser(m[2]), word, flags=re.S) for word in split]
    except ValueError as error:
        raise UserError(f"the flags cannot be read ({error}): mend the quotes")


def added_flags(spec: str) -> list:
    """The flags that a server of this spec is given before those that were asked for."""
    if spec == "embedded":
        return _embedded_flags()
    if spec.startswith(model_shape.PREFIX):
        return ["--load-format", "dummy", "--served-model-name", spec]  # random weights, and a name that says so wherever it is shown
    return []


def _embedded_flags() -> list:
    """What makes the embedded server start quickly and leave room for others. The user's flags stand after
    these, and of two equal flags vLLM takes the last."""
    flags = ["--max-model-len", "4096", "--max-num-seqs", "64", "--enforce-eager", "--skip-mm-profiling",
             "--limit-mm-per-prompt", '{"image":2,"video":0}']
    if not machine.serves_on_cpu():
        return flags + ["--gpu-memory-utilization", "0.2"]
    # "uni": engine and worker are one process. As two they wait for each other by spinning, which on a few
    # cores takes the processor from the client that measures them, and one process starts sooner.
    return flags + ["--dtype", "float32", "--distributed-executor-backend", "uni"]


def command_line(spec: str, flags: list) -> str:
    """The command that starts a server as this workbook does, to copy: from the checkout, on the usual port, without key."""
    model = str(EMBEDDED) if spec == "embedded" else spec
    if spec.startswith(model_shape.PREFIX):
        model = str(model_shape.make(spec.removeprefix(model_shape.PREFIX)))
    env = {name: value for name, value in _environment(model, "").items() if os.environ.get(name) != value and name != "VLLM_API_KEY"}
    del env["PYTHONPATH"]
    words = [*added_flags(spec), *without_key(flags)]
    # What the reader's own PYTHONPATH holds stays in it; where this process has its packages from is of no use to others.
    return " ".join(["PYTHONPATH=lib/server_site:.${PYTHONPATH:+:$PYTHONPATH}", *(f"{name}={shlex.quote(value)}" for name, value in env.items()),
                     "python", *_program(),
                     shlex.quote(_shown(Path(model)) if Path(model).is_dir() else model), "--host 127.0.0.1", shlex.join(words)])


def _program() -> list[str]:
    """How a server is started: as `vllm serve` does, which alone heeds --api-server-count. vLLM's CPU package, whose `vllm`
    command does not start, has its API server's module for it."""
    return ["-m", "vllm.entrypoints.cli.main", "serve"] if "vllm" in machine.versions() else ["-m", "vllm.entrypoints.openai.api_server", "--model"]


def without_key(flags: list) -> list:
    """Flags as they may be written down: keys are left out."""
    shown, secret = [], False
    for word in flags:
        shown.append("***" if secret and not word.startswith("--") else re.sub(r"^(--(?:api-key|hf-token)=).*", r"\1***", word, flags=re.S))
        secret = word in SECRET or (secret and not word.startswith("--"))
    return shown


class GuardedProcess:
    """The server's processes, owned by lib.guard in a process group of its own."""

    def __init__(self, command: list[str], env: dict, log: Path):
        with log.open("wb") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "lib.guard", str(os.getpid()), "5" if machine.serves_on_cpu() else "0", *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env, start_new_session=True,
                pass_fds=hold.inherited())
        self.pid = self._guard.pid

    def alive(self) -> bool:
        return self._guard.poll() is None

    def code(self) -> int | None:
        """With what it ended, as a shell has it: 128 + the signal's number where a signal did it; None while it runs."""
        return self._guard.poll()

    def stop(self) -> None:
        """Have the guard stop the server; if the guard does not, end the whole process group."""
        if self.alive():
            self._guard.terminate()
            try:
                self._guard.wait(30)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._guard.wait()


def start(model: str, flags: list, folder: Path | None = None, embedded: bool = False,
          spec: str | None = None) -> Server:
    """Start `python -m vllm.entrypoints.openai.api_server` with exactly these flags and wait until it has
    answered a real one-token request. `spec`: what the server was named by, if not by its model.

    It listens on 127.0.0.1 and a free port unless the flags say otherwise, asks for a random key, and ends
    with this process, however this process ends. Raises UserError with cause and remedy when it dies.
    """
    ours, rest = _our_flags(model).parse_known_args(flags)
    if ours.port and not (ours.port.isdecimal() and 0 < int(ours.port) < 65536):
        raise UserError(f"--port {ours.port} is no port: give a number from 1 to 65535, or leave it out")
    if ours.port and _port_taken(int(ours.port)):
        raise UserError(f"the port is taken ({ours.port}): {troubles.remedy('the port is taken')}")
    port = ours.port or _free_port()
    # `--api-key ""` would open it to everybody. Servers of one run have one key: some versions of vLLM compile anew for each.
    ours.api_key = ours.api_key or os.environ.get("WORKBOOK_API_KEY") or secrets.token_urlsafe(24)
    learn("", ours.api_key, ours.hf_token)
    if ours.hf_token:
        os.environ["HF_TOKEN"] = ours.hf_token  # for the server and what else this process starts, on no command line
    command = [sys.executable, *_program(), model, "--host", ours.host, "--port", str(port), *rest]
    if ours.served_model_name:
        command += ["--served-model-name", ours.served_model_name]
    url = f"http://{'127.0.0.1' if ours.host == '0.0.0.0' else ours.host}:{port}"
    folder = Path(folder or OUTPUTS / "servers")
    folder.mkdir(parents=True, exist_ok=True)
    log, began = folder / "server.log", time.monotonic()
    process = GuardedProcess(command, _environment(model, ours.api_key), log)
    try:
        _await_answer(process, url, ours.api_key, log, Path(model).name, began)
        server = connect(url, ours.api_key)
    except BaseException:  # Ctrl-C too: nothing stays behind
        process.stop()
        raise
    server.process, server.log, server.embedded, server.flags = process, log, embedded, without_key(flags)
    server.started_in_s = round(time.monotonic() - began, 1)
    server.spec = "embedded" if embedded else spec or model
    write_json(folder / "server.json", {"url": url, "model": server.model, "version": server.version, "flags": server.flags,
                                        "embedded": embedded, "started_in_s": server.started_in_s, "spec": server.spec,
                                        "pid": process.pid})
    return server


def _our_flags(model: str) -> argparse.ArgumentParser:
    """The few flags for which this workbook has defaults of its own; all others go to vLLM untouched."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port")
    parser.add_argument("--api-key")
    parser.add_argument("--hf-token", nargs="?")
    # A local model is served under its folder's name: the way to it is nobody's business.
    parser.add_argument("--served-model-name", default=Path(model).resolve().name if Path(model).is_dir() else None)
    return parser


def _environment(model: str, key: str) -> dict:
    env = os.environ | {
        "VLLM_API_KEY": key,  # not on the command line, where every user of the machine can read it
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(ROOT / "lib" / "server_site"), str(ROOT), os.environ.get("PYTHONPATH")])
        ),
    }
    if machine.serves_on_cpu():
        env.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        env.setdefault(SWITCH, "1")
        env.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # else the CPU platform overrules "uni"
        env.setdefault("OMP_NUM_THREADS", str(cpu_threads()))
    if Path(model).is_dir():
        env.setdefault("HF_HUB_OFFLINE", "1")
    return env


def cpu_threads() -> int:
    """Threads that a server started here on a CPU computes with. As vLLM does by default, it leaves a core to the API
    server and the client. A forked worker has its threads from its parent's environment; more threads than free
    cores wait for each other."""
    own = os.environ.get("OMP_NUM_THREADS", "")
    return int(own) if own.isdecimal() and int(own) else max(1, (psutil.cpu_count(logical=False) or 2) - 1)


def _await_answer(process: GuardedProcess, url: str, key: str, log: Path, name: str, began: float) -> None:
    with progress(None, f"starting vLLM with {name}") as bar:
        while process.alive():
            bar.refresh()
            waited = f"vLLM gave no answer within {time.monotonic() - began:.0f} s"
            if time_limit.is_over():
                raise OutOfTime(f"{waited}, and the time for it was over ({time_limit.longer()}); its log is {_shown(log)}")
            if time.monotonic() - began > START_LIMIT_S:
                raise UserError(f"{waited}; its log is {_shown(log)}")
            try:
                if get(url, "/health", key, 2).status_code == 200:
                    _one_token(url, key, log)
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.2)
    raise UserError(_why_it_died(log))


def _one_token(url: str, key: str, log: Path) -> None:
    """The proof that it serves: one token of a completion."""
    model = models(url, key)[0]["id"]
    left = time_limit.left_s()
    reply = httpx2.post(f"{url}/v1/completions", headers=headers(key), timeout=300 if left is None else min(300, max(1.0, left)),
                        json={"model": model, "prompt": "1", "max_tokens": 1})
    if reply.status_code != 200:
        raise UserError(f"vLLM started but refused a one-token request ({reply.text[:150]}); its log is {_shown(log)}")


def _why_it_died(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    reason = troubles.diagnose(text) or f"vLLM ended before it answered ({troubles.last_error(text)})"
    return f"{reason}; its log is {_shown(log)}"


def _free_port() -> int:
    """Of those below what systems give to outgoing connections: it takes seconds until vLLM binds it, and a load beside it opens hundreds."""
    while _port_taken(port := secrets.choice(PORTS)):
        pass
    return port


def _port_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def _shown(path: Path) -> str:
    """A path as messages show it: inside the checkout, without the way to it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
