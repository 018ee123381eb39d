"""What a machine can do at most: bandwidth and FLOP/s measured by torch where the server runs, and datasheets of GPUs.

Measured in a process of its own, with as many threads as the server has: torch stays out of the notebook, and a
machine without it loses nothing else. Reading: the fastest of summing a buffer and multiplying it with a vector, over
and over, for working sets from a megabyte up, because a cache is read several times as fast as memory. Computing:
square matrices in the server's dtype, by each of torch's libraries, on a CPU in single precision as well. Of all the
best counts, for a limit must not be passed; the median stands beside it.
"""
import json
import os
import subprocess
import sys
import time

import yaml

from lib import DATA, ROOT, machine
from lib.errors import UserError
from lib.limits import Machine

MIB = 2**20
SIZES_MIB = {"cpu": (1, 2, 4, 8, 16, 32, 64, 128, 512), "cuda": (16, 64, 256, 1024)}
SQUARES = {"cpu": (256, 512, 1024), "cuda": (2048, 4096, 8192)}
TORCH = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
SECONDS = {"cpu": 0.12, "cuda": 0.05}  # for each size
LIMIT_S = 120


def measure(dtype: str, threads: int) -> dict:
    """Measure this machine, some seconds -> {"device", "dtype", "threads", "reads": rows, "multiplies": rows, "took_s"}.

    A row: size (bytes, or the side of the matrices), per_s (best), median_per_s, repeats. Raises UserError where it
    cannot be done.
    """
    command = [sys.executable, "-m", "lib.roofline", TORCH[dtype], str(threads)]
    try:
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True,
                              timeout=LIMIT_S, check=False)
        return json.loads(done.stdout.splitlines()[-1]) | {"dtype": dtype}
    except subprocess.TimeoutExpired:
        raise UserError(f"not measurable here: bandwidth and FLOP/s took more than {LIMIT_S} s; is something else using the machine?")
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"not measurable here: torch could not measure bandwidth and FLOP/s ({last[:150]})")


def measured(found: dict) -> Machine:
    """What `measure` found, as a machine that limits can be told of."""
    memory = next((gpu.memory_gib * 2**30 for gpu in machine.gpus()), None) if found["threads"] == 0 else None
    return Machine(found["device"], tuple((row["size"], row["per_s"]) for row in found["reads"]),
                   {found["dtype"]: max(row["per_s"] for row in found["multiplies"])}, True, memory)


def datasheets() -> dict[str, dict]:
    """data/gpus.yaml: name -> what its datasheet says."""
    return yaml.safe_load((DATA / "gpus.yaml").read_text(encoding="utf-8"))


def datasheet(gpu: str) -> Machine:
    """A GPU of data/gpus.yaml, however its name is written. Raises UserError for one that is not there."""
    known = datasheets()
    plain = {name.lower().replace("-", ""): name for name in known}
    name = plain.get(gpu.lower().replace("-", "").replace(" ", "").replace("_", ""))
    if name is None:
        raise UserError(f"gpu {gpu!r} is not in data/gpus.yaml (there: {', '.join(known)}): name one of these, or add yours there")
    sheet = known[name]
    return Machine(sheet["name"], ((0, sheet["bandwidth"] * 1e9),), {d: t * 1e12 for d, t in sheet["tflops"].items()},
                   memory=sheet["memory"] * 1e9, link=sheet["link"] * 1e9)


def datasheet_of(driver_name: str) -> Machine | None:
    """The datasheet of a card as its driver names it; None if there is none."""
    return next((datasheet(name) for name, sheet in datasheets().items() if driver_name in sheet["matches"]), None)


# -- in the process of its own -----------------------------------------------------------------------
def _best(work, seconds: float, wait) -> tuple[float, float, int]:
    """(best, median, number) of the times of one call, s. On a GPU ten calls stand between two waits."""
    together, times, end = 1 if wait is None else 10, [], time.perf_counter() + seconds
    work()
    while len(times) < 3 or time.perf_counter() < end:
        if wait:
            wait()
        began = time.perf_counter()
        for _ in range(together):
            work()
        if wait:
            wait()
        times.append((time.perf_counter() - began) / together)
    times.sort()
    return times[0], times[len(times) // 2], len(times)


def _measure_here(dtype: str, threads: int) -> dict:
    import torch

    began, device = time.perf_counter(), "cuda" if torch.cuda.is_available() and not machine.serves_on_cpu() else "cpu"
    torch.set_num_threads(max(threads, 1))
    wait = torch.cuda.synchronize if device == "cuda" else None
    found = {"device": torch.cuda.get_device_name(0) if wait else machine.processor(), "threads": 0 if wait else threads,
             "torch": torch.__version__, "reads": [], "multiplies": []}

    def row(size, amount, *works):
        times = [_best(work, SECONDS[device], wait) for work in works]
        best, median, _ = min(times)
        return {"size": size, "per_s": amount / best, "median_per_s": amount / median, "repeats": sum(t[2] for t in times)}

    with torch.inference_mode():
        for mib in SIZES_MIB[device]:
            try:
                rows = torch.ones(mib * MIB // 4096, 1024, device=device)
                vector = torch.ones(1024, device=device)
                found["reads"].append(row(mib * MIB, mib * MIB, rows.sum, lambda: torch.mv(rows, vector)))
            except torch.OutOfMemoryError:  # the server has taken the rest
                break
        for side in SQUARES[device]:
            try:  # random numbers: a GPU is faster with equal ones
                a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
                works = [lambda: torch.mm(a, b)] if wait else _products_of_a_cpu(torch, a, b)
                found["multiplies"].append(row(side, 2 * side**3, *works))
            except torch.OutOfMemoryError:
                break
    return found | {"took_s": round(time.perf_counter() - began, 1)}


def _products_of_a_cpu(torch, a, b) -> list:
    """The product by each of torch's libraries that has it. oneDNN: vLLM computes with it, and with AVX-512 it is twice as fast as MKL on processors that MKL
    does not favour. In single precision, too: a processor without instructions for shorter numbers multiplies them many times as fast as those."""
    def onednn():
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")

    linear = torch.nn.functional.linear  # torch.mm may be six times as slow
    works = [lambda: linear(a, b)]
    if a.dtype != torch.float32:
        works.append(lambda x=a.float(), y=b.float(): linear(x, y))
    try:
        return [*works, onednn] if onednn() is not None else works
    except (AttributeError, RuntimeError):
        return works


if __name__ == "__main__":
    print(json.dumps(_measure_here(sys.argv[1], int(sys.argv[2]))))
