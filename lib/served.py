"""What limits a server: its model from a config.json, how it is served from its flags, the machine from a measurement.

The only part of the limits that looks at files, servers and machines; lib/limits.py counts, lib/efficiency.py judges.
"""
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from lib import DATA, allowed, launch, limits, machine, roofline, rundir
from lib.errors import UserError
from lib.hiding import real
from lib.limits import Limit, Model
from lib.server import Server, models


@dataclass(frozen=True)
class Yardstick:
    """limit: None where it is not known, and then `why` says so in one line. sheet: the same by the datasheet of the GPU
    that was measured. notes: what had to be supposed. machine: what roofline.measure found."""

    limit: Limit | None
    why: str = ""
    sheet: Limit | None = None
    notes: tuple[str, ...] = ()
    machine: dict | None = None


def yardstick(desk, gpu: str = "", anew: bool = False) -> Yardstick:
    """The limit of the server of lib.bench.Bench on the machine that it runs on; the machine is measured once a run, while
    nothing is asked of the server. gpu: a name of data/gpus.yaml, for a server on another machine; the run keeps it. anew: measure, whatever the run holds.

    Raises UserError for a GPU that is not known; whatever else is missing ends in a Yardstick without a limit.
    """
    if gpu:
        roofline.datasheet(gpu)
        desk.run.update_info(gpu={"name": gpu, "server": desk.server.url})
    named = desk.run.info().get("gpu") or {}
    sheet = roofline.datasheet(named["name"]) if real(named.get("server") or "") == desk.server.url else None
    try:
        config, origin = config_of(desk.server)
        config = _merged(config, overrides(desk.server.flags))
        model = limits.read(config, desk.server.model.split("/")[-1], allowed.processor(desk.server))
        dtype, kv_dtype, shards, replicas, notes = serving(desk.server.flags, config)
        notes += [] if origin is None else [origin]
        if not desk.server.flags:
            notes.append(f"the server's flags are not known, so weights are taken to be {dtype}")
        if sheet:
            return Yardstick(Limit(model, dtype, sheet, kv_dtype, shards, replicas),
                             notes=(*notes, f"bandwidth and FLOP/s are those of the datasheet of the {sheet.name}"))
        found = _of_this_machine(desk, _computed_in(desk.server.flags, config), anew)
        limit = Limit(model, dtype, roofline.measured(found), kv_dtype, shards, replicas)
        beside = roofline.datasheet_of(found["device"])
        return Yardstick(limit, "", beside and Limit(model, dtype, beside, kv_dtype, shards, replicas), tuple(notes), found)
    except UserError as error:
        return Yardstick(None, str(error))


def _of_this_machine(desk, dtype: str, anew: bool) -> dict:
    """roofline.json of the run, measured where there is none for this dtype and as many threads."""
    if urlsplit(desk.server.url).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise UserError("limit not measurable here: the server runs on another machine; name its GPU with -p gpu NAME "
                        f"({', '.join(roofline.datasheets())})")
    threads = launch.cpu_threads() if desk.server.started_in_s else machine.usable_cores()
    path = desk.run.path / "roofline.json"
    found = None if anew else rundir.read_json(path, None)
    if not found or (found["dtype"], found["asked_threads"]) != (dtype, threads):
        found = roofline.measure(dtype, threads) | {"asked_threads": threads}
        rundir.write_json(path, found)
    return found


# -- the model ---------------------------------------------------------------------------------------
def config_of(server: Server) -> tuple[dict, str | None]:
    """The config.json of the served model -> (config, what had to be supposed). From the folder that the server names,
    the hub's cache, or as published (data/published_models.yaml). Raises UserError where none is here."""
    root = next((m.get("root") for m in models(server.url, server.api_key) if m["id"] == server.model), None) or server.model
    name = root.rstrip("/").split("/")[-1]
    for path in (Path(root), DATA / "models" / name):
        if (path / "config.json").is_file():
            return _load(path / "config.json"), None
    if root.count("/") == 1 and not root.startswith("/"):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(root, "config.json")
        if isinstance(cached, str):
            return _load(Path(cached)), None
    if name in published():
        return published()[name]["config"], f"the model's dimensions are the published ones ({published()[name]['source']})"
    raise UserError(f"limit unknown, because the config.json of {name} is not on this machine, and its dimensions are not in "
                    "data/published_models.yaml")


def _load(path: Path) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return config if isinstance(config, dict) else {}
    except (OSError, ValueError) as error:
        raise UserError(f"limit unknown, because {path.parent.name}/config.json cannot be read ({error})")


def published() -> dict[str, dict]:
    """Dimensions of published models: name -> source, parameters, config."""
    return yaml.safe_load((DATA / "published_models.yaml").read_text(encoding="utf-8"))


def model_published(name: str) -> Model:
    return limits.read(published()[name]["config"], name)


def article_model() -> Model:
    """The article's own, for prices and predictions that are not about the server at hand."""
    return model_published("Qwen3-VL-2B-Instruct")


# -- how it is served --------------------------------------------------------------------------------
def serving(flags: list[str], config: dict) -> tuple[str, str, int, int, list[str]]:
    """(dtype of the weights, of keys and values ("": that of the weights), GPUs a copy, copies, what is supposed) from
    vLLM's flags and the config. Raises UserError where one step may bring several tokens."""
    if any(name in ("--speculative-config", "-sc") for name, _, _ in _given(flags)):
        raise UserError("limit unknown, because with speculative decoding one step brings several tokens")
    kept = config.get("quantization_config") or {}
    quantized = flag(flags, "--quantization", "-q") or _quantization(kept)
    cache = flag(flags, "--kv-cache-dtype")
    numbers = [flag(flags, *names) or "1" for names in (("--tensor-parallel-size", "-tp"), ("--data-parallel-size", "-dp"))]
    shards, replicas = (int(n) if n.isdecimal() and int(n) else 1 for n in numbers)
    notes = [] if shards == replicas == 1 else [f"{shards * replicas} GPUs are taken to share the work perfectly"]
    dtype = limits.dtype_named(quantized) if quantized else _computed_in(flags, config)
    return (dtype, "" if cache in (None, "auto") else limits.dtype_named(cache), shards, replicas, notes)


def _computed_in(flags: list[str], config: dict) -> str:
    """The dtype of what is not quantized, --dtype or the config's own."""
    own = config.get("dtype") or config.get("torch_dtype") or config.get("text_config", {}).get("dtype") or "bfloat16"
    asked = flag(flags, "--dtype")
    if asked in (None, "auto"):
        asked = "bfloat16" if str(own).endswith("float32") else own  # vLLM's auto makes 16 bits of 32
    return limits.dtype_named(asked)


def _quantization(kept: dict) -> str | None:
    """The name of the quantization that a checkpoint's quantization_config tells; None for a plain one."""
    method = kept.get("quant_method")
    if method != "compressed-tensors":
        return method
    weights = next(iter((kept.get("config_groups") or {}).values()), {}).get("weights") or {}
    return {(8, "float"): "fp8", (8, "int"): "int8", (4, "int"): "awq-int4"}.get((weights.get("num_bits"), weights.get("type")), method)


def _given(flags: list[str]) -> Iterator[tuple[str, list[str], str]]:
    """(name, the parts that `--name.a.b` sets, value) of each of vLLM's flags, `--flag value` or `--flag=value`."""
    for word, following in zip(flags, [*flags[1:], ""]):
        name, equals, value = word.partition("=")
        name, *parts = name.split(".")
        yield name.replace("_", "-"), parts, value if equals else following


def flag(flags: list[str], *names: str) -> str | None:
    """The value of one of vLLM's flags under any of its names; the last counts."""
    return next((value for name, parts, value in reversed([*_given(flags)]) if name in names and not parts), None)


def overrides(flags: list[str]) -> dict:
    """What --hf-overrides changes in a config, given whole (`--hf-overrides '{"a": {"b": 1}}'`) or in parts (`--hf-overrides.a.b 1`)."""
    changed: dict = {}
    for name, keys, value in _given(flags):
        if name == "--hf-overrides":
            try:
                part = json.loads(value)
            except ValueError:
                part = value  # a word
            for key in reversed(keys):
                part = {key: part}
            changed = _merged(changed, part if isinstance(part, dict) else {})
    return changed


def _merged(config: dict, changed: dict) -> dict:
    """A config with these changes, those of its parts one by one."""
    both = {key: _merged(config[key], value) for key, value in changed.items() if isinstance(value, dict) and isinstance(config.get(key), dict)}
    return config | changed | both
