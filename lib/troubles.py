"""Known ways in which a vLLM server fails to start: what its log says, the cause, the remedy.

Used by lib.server when a server dies, by `workbook doctor`, and by the notebooks that list failures.
"""
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Trouble:
    """`pattern` finds it in the log; its first group, if it has one, is quoted as the detail."""

    name: str
    pattern: str
    remedy: str

    def found_in(self, log: str) -> str | None:
        match = re.search(self.pattern, log)
        return None if match is None else (match[1] if match.re.groups else "")


# The first that is found is told: a cause stands before what follows from it.
TROUBLES = [
    Trouble("the port is taken", r"Address already in use",
            "stop what listens there (`ss -ltnp`), or name another port, or none: a free one is then taken"),
    Trouble("unknown flag", r"error: unrecognized arguments: (.+)",
            "this vLLM version has no such flag: `python -m vllm.entrypoints.openai.api_server --help` lists them"),
    Trouble("a flag has a value that it cannot take", r"error: argument (.+)",
            "give a value that the flag takes"),
    Trouble("the context length exceeds what the model supports",
            r"max_model_len \((\d+)\) is greater than the derived max_model_len",
            "lower --max-model-len, or leave it out: the model's own is then used"),
    Trouble("the model has no such quantization", r"(Cannot find the config file for \w+|[Qq]uantization method \S+ .*)",
            "leave --quantization out, or name a checkpoint that is quantized that way"),
    Trouble("not enough memory",
            r"(Free memory on device.*?is less than desired GPU memory utilization|CUDA out of memory|"
            r"Available memory on node.*?requested memory for kv[^.]*|No available memory for the cache blocks|"
            r"KV cache is needed, which is larger than the available|DefaultCPUAllocator: can't allocate memory)",
            "stop what else uses the memory, or lower --gpu-memory-utilization (CPU: VLLM_CPU_KVCACHE_SPACE), "
            "--max-model-len or --max-num-seqs"),
    Trouble("more parallel ranks than this machine has devices",
            r"(Not enough allowed NUMA nodes[^.]*|World size \(\d+\) is larger than the number of available GPUs|"
            r"attention heads \(\d+\) must be divisible by tensor parallel size \(\d+\))",
            "lower --tensor-parallel-size, --data-parallel-size or --pipeline-parallel-size"),
    Trouble("the data type does not fit the GPU", r"(Bfloat16 is only supported on GPUs[^.]*)",
            "use --dtype half"),
    Trouble("the model's weights cannot be fetched",
            r"(couldn't connect to '[^']*'|outgoing traffic has been disabled|Cannot find an appropriate cached snapshot|"
            r"(?:401|403) Client Error|GatedRepoError)",
            "connect to the network, fetch the model beforehand (`hf download MODEL`), name a local folder, "
            "or for a gated model set HF_TOKEN"),
    Trouble("the model was not found",
            r"(Repo id must be in the form[^.]*|Invalid repository ID or local directory specified: '[^']*'|"
            r"RepositoryNotFoundError|is not a local folder and is not a valid model identifier)",
            "check the model's name, or the path of its folder (it holds config.json)"),
    Trouble("no GPU", r"(No CUDA GPUs are available|Failed to infer device type|Found no NVIDIA driver)",
            "check `nvidia-smi`; without a GPU use vLLM's CPU build: make KIND=cpu report"),
    Trouble("the flags do not go with this model or with each other", r"Value error, (.+?)(?: \[type=|\n)",
            "change the flag that the message names"),
]

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def diagnose(log: str) -> str | None:
    """One line, "cause (detail): remedy", for the first known trouble in a server's log; else None."""
    log = ANSI.sub("", log)
    for trouble in TROUBLES:
        detail = trouble.found_in(log)
        if detail is not None:
            return f"{trouble.name}{f' ({_short(detail)})' if detail else ''}: {trouble.remedy}"
    return None


def last_error(log: str) -> str:
    """The last line of a log that looks like an error, for troubles that nobody has met before."""
    lines = [line for line in ANSI.sub("", log).splitlines() if re.search(r"\b\w*(Error|Exception)\b: ", line)]
    return _short(lines[-1]) if lines else "its log names no error"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "..."
