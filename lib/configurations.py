"""Configurations of a server: read from YAML, and checked before the first start. Pure but for reading files.

    baseline: --max-model-len 8192            # what every configuration has besides
    configurations:
      - name: eager
        flags: --enforce-eager                # one string or a list; overrides the baseline's of the same flag
        why: no compilation, no CUDA graphs   # one line for readers, if you like
        model: OWNER/Model-AWQ                # another checkpoint, if need be
        instead_of: Model                     # left out where the server's model is another than this
        gpus: 2                               # left out where there are fewer

The baseline itself is not in the list.
"""
import shlex
import string
from dataclasses import dataclass, field, replace
from pathlib import Path

from lib import DATA, reading
from lib.errors import UserError
from lib.vllm_flags import Flag, nearest

FOLDER = DATA / "tuning"
KEYS = {"name": str, "flags": (str, list), "why": str, "model": str, "instead_of": str, "gpus": int}
OURS = ("model", "host", "port", "api_key", "served_model_name", "uds", "ssl_keyfile", "root_path")  # dests that a start sets
LOADS_CODE = ("trust_remote_code", "middleware", "tool_parser_plugin", "reasoning_parser_plugin", "logits_processors", "worker_cls",
              "worker_extension_cls", "io_processor_plugin", "allowed_local_media_path", "allowed_media_domains", "kv_transfer_config",
              "ec_transfer_config")
RANKS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
NEED_A_CHECKPOINT = ("awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin", "compressed-tensors", "modelopt", "modelopt_fp4",
                     "quark", "moe_wna16", "inc", "mxfp4", "gpt_oss_mxfp4")


@dataclass(frozen=True)
class Configuration:
    """One way to start a server. letter: its short name in plans and plots, A is the baseline. flags: all of them, the
    baseline's too. left_out: why it is not started here."""

    name: str
    flags: tuple = ()
    own: tuple = ()  # those that tell it from the baseline
    why: str = ""
    model: str = ""
    instead_of: str = ""
    gpus: int = 1
    letter: str = ""
    left_out: str = ""


@dataclass
class List:
    """A list as it stands in YAML, before its flags have been looked at."""

    baseline: tuple = ()
    items: list[Configuration] = field(default_factory=list)


def read(listed: list) -> List:
    """The parameter `configurations`: names of lists in data/tuning, YAML files, or configurations. Raises UserError."""
    out = List()
    for item in listed:
        content = _file(item) if isinstance(item, str) else [item]
        if isinstance(content, dict):
            baseline = content.get("baseline") or ""
            if not isinstance(baseline, (str, list)):
                raise UserError(f"{item}: baseline {str(baseline)[:80]!r} is of the wrong kind: flags are one string or a list")
            out.baseline += _words(baseline, "baseline")
            if unknown := set(content) - {"baseline", "configurations"}:
                raise UserError(f"{item}: {sorted(unknown)[0]!r} is unknown: a list has `baseline` and `configurations`")
            content = content.get("configurations") or []
        if not isinstance(content, list):
            raise UserError(f"{item}: a list of configurations is needed, not {type(content).__name__}")
        out.items += [_configuration(entry) for entry in content]
    if not out.items:
        raise UserError("the list of configurations is empty: give at least one besides the baseline")
    names = [c.name for c in out.items]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise UserError(f"two configurations are named {twice!r}: give each a name of its own")
    return out


def checked(found: List, server_flags: list, flags: dict[str, Flag], devices: int, spec: str = "") -> list[Configuration]:
    """The baseline, then the list, with all their flags; what cannot be is told in one line.

    server_flags: those of the server as it is, which the baseline inherits. flags: vllm_flags.known(). devices: how many
    ranks can run here. spec: the model that is started, an id or a folder.
    """
    base = _merged(_groups(_without_ours(server_flags, flags), flags, "the server's flags", ours_too=True),
                   _groups(found.baseline, flags, "baseline"))
    out = [Configuration("baseline", _flat(base), why="the server as it is", letter="A")]
    for number, item in enumerate(found.items, 1):
        groups = _merged(base, _groups(item.own, flags, item.name))
        left_out = _beyond(item, groups, devices)
        if item.instead_of and Path(item.instead_of).name.lower() != Path(spec).name.lower():
            left_out = f"left out: it stands in for {item.instead_of}"
        _check_quantization(item, groups, Path(item.model or spec))
        out.append(replace(item, flags=_flat(groups), letter=_letter(number), left_out=left_out))
    return out


def check_flags(words: list, flags: dict[str, Flag]) -> None:
    """The flags of the run's own server: what this vLLM does not know, or not with that value, is told in one line."""
    _groups(_without_ours(words, flags), flags, "--flags", ours_too=True)


def twins(configurations: list[Configuration]) -> dict[str, str]:
    """Name -> the name of an earlier configuration that is started in just the same way: a check of the noise."""
    seen, found = {}, {}
    for c in configurations:
        first = seen.setdefault((c.flags, c.model), c.name)
        found |= {c.name: first} if first != c.name else {}
    return found


def _file(name: str) -> object:
    known = sorted(p.stem for p in FOLDER.glob("*.yaml"))
    path = FOLDER / f"{name}.yaml" if name in known else Path(name).expanduser()
    try:
        return reading.yaml_file(path) or []
    except OSError:
        raise UserError(f"there is no list of configurations {name!r} (there: {', '.join(known)}; or the path of a YAML file)")
    except reading.Unreadable as error:
        raise UserError(f"{name}: {error}")


def _configuration(entry) -> Configuration:
    if not isinstance(entry, dict) or not entry.get("name"):
        raise UserError(f"a configuration is a mapping with a `name` and its `flags`, not {str(entry)[:80]!r}")
    for key, value in entry.items():
        if key not in KEYS:
            raise UserError(f"configuration {entry['name']!r}: {key!r} is unknown; known: {', '.join(KEYS)}")
        if not isinstance(value, KEYS[key]) or isinstance(value, bool):
            raise UserError(f"configuration {entry['name']!r}: {key} {value!r} is of the wrong kind")
    return Configuration(entry["name"], own=_words(entry.get("flags", ""), entry["name"]), why=entry.get("why", ""),
                         model=entry.get("model", ""), instead_of=entry.get("instead_of", ""), gpus=entry.get("gpus", 1))


def _words(flags, whose: str) -> tuple:
    try:
        return tuple(shlex.split(flags) if isinstance(flags, str) else map(str, flags or []))
    except ValueError as error:
        raise UserError(f"{whose}: the flags cannot be read ({error}): mend the quotes")


def _groups(words, flags: dict[str, Flag], whose: str, ours_too: bool = False) -> list[tuple[str, tuple]]:
    """Words -> (what is set, the words that set it), in order; the same twice is a contradiction (not in `ours_too`,
    where the later counts, as it does for vLLM)."""
    out, words = [], list(words)
    while words:
        word = words.pop(0)
        if word.startswith("-O"):  # as vLLM's own parser takes -O3, -O=3 and -O 3
            word = "--optimization-level" + (f"={level}" if (level := word[2:].removeprefix("=")) else "")
        name, equals, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        flag = flags.get(name.partition(".")[0])  # --compilation-config.mode 3 sets a part
        if flag is None:
            raise UserError(f"{whose}: {word} is no flag of this vLLM version{nearest(name, flags)}")
        if flag.dest in OURS:
            raise UserError(f"{whose}: {name} is set by the workbook itself: leave it out")
        if flag.dest in LOADS_CODE and not ours_too:
            raise UserError(f"{whose}: {name} runs or opens what its value names, which a list may not: if you mean it, give it to the "
                            "whole run with --flags")
        values = [value] if equals else []
        while not equals and words and not words[0].startswith("--") and (flag.values in ("+", "*") or (flag.values != 0 and not values)):
            values.append(words.pop(0))
        if flag.values == 0 and (equals or (words and not words[0].startswith("-"))):
            raise UserError(f"{whose}: {name} is a switch and takes no value")
        if not values and flag.values not in (0, "?", "*"):
            raise UserError(f"{whose}: {name} needs a value")
        if flag.choices and "." not in name and (wrong := [v for v in values if v not in flag.choices]):
            raise UserError(f"{whose}: {name} {wrong[0]} is not possible: choose one of {', '.join(flag.choices)}")
        what = f"{flag.dest}.{name.partition('.')[2]}" if "." in name else flag.dest
        if what in dict(out) and not flag.many and not ours_too:
            raise UserError(f"{whose}: {' '.join(dict(out)[what])} and {' '.join([name, *values])} contradict each other: keep one")
        out.append((what, (name, *values)))
    compiled = any(what.partition(".")[0] == "compilation_config" for what, _ in out)
    if compiled and ("enforce_eager", ("--enforce-eager",)) in out and not ours_too:
        raise UserError(f"{whose}: --enforce-eager and --compilation-config contradict each other: keep one")
    return out


def _merged(base: list, own: list) -> list:
    return [(what, words) for what, words in base if what not in dict(own)] + own


def _flat(groups: list) -> tuple:
    return tuple(word for _, words in groups for word in words)


def _without_ours(words: list, flags: dict[str, Flag]) -> list:
    """A server's flags without address and key, which each start sets anew."""
    out, words = [], list(words)
    while words:
        word = words.pop(0)
        flag = flags.get(word.partition("=")[0])
        if flag is None or flag.dest not in OURS:
            out.append(word)
        elif "=" not in word:
            words[:1] = []
    return out


def _beyond(item: Configuration, groups: list, devices: int) -> str:
    """Why a configuration needs more devices than there are; "" if it does not. Only `gpus` makes that no mistake."""
    ranks = 1
    for dest in RANKS:
        value = dict(groups).get(dest, ("", "1"))[-1]
        ranks *= int(value) if value.isdigit() else 1
    if item.gpus > devices:
        return f"left out: it needs {item.gpus} GPUs; here: {devices}"
    if ranks > devices:
        raise UserError(f"{item.name}: {ranks} parallel ranks need {ranks} devices and this machine has {devices}: "
                        f"lower the parallel sizes, or write `gpus: {ranks}` to leave it out here")
    return ""


def _check_quantization(item: Configuration, groups: list, model: Path) -> None:
    """Known only of a model that lies here; of others vLLM tells it when it starts."""
    method, about = dict(groups).get("quantization", ("", ""))[-1], model / "config.json"
    if method not in NEED_A_CHECKPOINT or not about.is_file():
        return
    try:
        config = reading.json_file(about)
    except reading.Unreadable as error:
        raise UserError(f"{item.name}: {model.name}/config.json cannot be read ({error})")
    if not isinstance(config, dict) or "quantization_config" not in config:
        raise UserError(f"{item.name}: {model.name} is not quantized with {method}: name a checkpoint that is (`model:`), "
                        "or quantize while loading (--quantization fp8, int8_per_channel_weight_only)")


def _letter(number: int) -> str:
    letters = string.ascii_uppercase
    return letters[number] if number < 26 else letters[number // 26 - 1] + letters[number % 26]
