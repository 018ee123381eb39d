"""Where the time of a decoding step goes, from a trace of vLLM's torch profiler.

    python -m benchmarks.step TRACE.json.gz [MORE …] --tpot-ms 2.4

Kernels of steps that only decode, by kind. --tpot-ms: what such a step took when nobody traced it; what the kernels leave of it
the GPU spent waiting. The profiler slows the processor, not the kernels, so that the trace's own gaps say little.
"""
import argparse
import gzip
import json
import re
from collections import Counter
from pathlib import Path

KINDS = {  # kind -> how its kernels are called
    "matrices": r"nvjet|gemm|gemv|cutlass(?!.*flash)|splitK|marlin|cublas",
    "attention, and writing keys and values": r"flash|attn|reshape_and_cache",
    "norms, rotary positions, activation, copies between them": r"^triton_|rms_norm|rotary|silu",
    "sampling": r"argmax|softmax|topk|top_p|sort|scan|multinomial|exponential|Gumbel",
}


def kind(name: str) -> str:
    return next((k for k, pattern in KINDS.items() if re.search(pattern, name, re.I)), "the rest")


def steps(trace: dict) -> dict[int, list[dict]]:
    """Streams -> one entry for each step that only decoded: seconds by kind, kernels, and the whole of it on the GPU."""
    events = sorted((e for e in trace["traceEvents"] if e.get("ph") == "X" and "ts" in e), key=lambda e: e["ts"])
    kernels = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    marks = [e for e in events if e.get("cat") == "gpu_user_annotation" and e["name"].startswith("execute_")]
    found: dict[int, list] = {}
    for mark, after in zip(marks, marks[1:]):
        said = re.search(r"context_(\d+)\(\d+\)_generation_(\d+)", mark["name"])
        if not said or int(said[1]):
            continue
        own = [k for k in kernels if mark["ts"] <= k["ts"] < after["ts"]]
        spent = Counter()
        for k in own:
            spent[kind(k["name"])] += k["dur"] / 1e3
        found.setdefault(int(said[2]), []).append({"kernels": len(own), **spent})
    return found


def table(found: dict[int, list[dict]], least: int, tpot_ms: float | None) -> str:
    """Markdown: the mean of all steps with at least so many streams."""
    rows = [row for streams, steps_ in found.items() if streams >= least for row in steps_]
    if not rows:
        return f"no step that only decoded had {least} streams or more"
    means = {k: sum(r.get(k, 0.0) for r in rows) / len(rows) for k in (*KINDS, "the rest")}
    said = sorted({streams for streams in found if streams >= least})
    lines = [f"{said[0]} to {said[-1]} streams, {len(rows)} steps, {sum(r['kernels'] for r in rows) / len(rows):.0f} kernels a step", "",
             "| of a step | ms |", "|---|--:|", *(f"| {k} | {ms:.2f} |" for k, ms in means.items()),
             f"| all kernels | {sum(means.values()):.2f} |"]
    if tpot_ms:
        lines += [f"| the GPU waits | {tpot_ms - sum(means.values()):.2f} |", f"| a step, not traced | {tpot_ms:.2f} |"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.split("\n")[0])
    parser.add_argument("trace", type=Path, nargs="+")
    parser.add_argument("--least", type=int, default=1, help="only steps with so many streams or more")
    parser.add_argument("--tpot-ms", type=float)
    asked = parser.parse_args()
    for path in asked.trace:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as text:
            found = steps(json.load(text))
        print(table(found, asked.least, asked.tpot_ms))


if __name__ == "__main__":
    main()
