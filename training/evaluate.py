"""Measure the model through a running server, and compare it with transformers.

    python -m training.evaluate http://127.0.0.1:8000/v1 --n 100 --out accuracy.json       (its key: WORKBOOK_API_KEY)

Prints a table per kind, the control with grey pictures, sizes, and the share of greedy replies that transformers
gives too. Probe seeds are never training seeds.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import tempfile
import time
from pathlib import Path

from training import compat  # noqa: F401  (before transformers)

import torch
from PIL import Image
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from lib import load, probes
from lib.errors import UserError
from lib.server import connect

ROOT = Path(__file__).resolve().parent.parent
SIZE_SWEEP = [(64, 64), (128, 128), (224, 224), (448, 336), (1024, 768)]


def table(rows: list[dict], by: str = "kind") -> str:
    frame = probes.accuracy(rows, by)
    lines = [f"| {by} | questions | right | share | 95 % interval |", "|---|---|---|---|---|"]
    for name, row in frame.iterrows():
        failed = f" ({row.failed:.0f} failed)" if row.failed else ""
        lines.append(f"| {name} | {row.n:.0f} | {row.correct:.0f}{failed} | {100 * row.share:.1f} % | "
                     f"{100 * row.low:.1f}–{100 * row.high:.1f} % |")
    return "\n".join(lines)


def transformers_replies(folder: Path, some: list[probes.Probe], max_tokens: int = 48) -> list[str]:
    """Greedy replies of transformers' own generate, one at a time, in float32."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    replies = []
    for probe in some:
        prompt = processor.apply_chat_template(probe.messages, tokenize=False, add_generation_prompt=True)
        # What was sent, decoded again: a JPEG's pixels are not those that were encoded.
        inputs = processor(text=[prompt], images=[_decoded(p) for p in probe.pictures], return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        replies.append(processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
    return replies


def _decoded(picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.data)).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--folder", type=Path, default=ROOT / "data/models/tiny-qwen3-vl")
    parser.add_argument("--n", type=int, default=100, help="questions of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--agree", type=int, default=200, help="questions to ask transformers too")
    parser.add_argument("--extra", action="store_true", help="also the harder kinds and the sizes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = {"n": options.n, "seed": options.seed}

    try:
        server = connect(options.url)
    except UserError as error:
        raise SystemExit(f"{error}")

    def put(some):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probes.jsonl"
            asyncio.run(load.run(server, path, "probes", probes.requests(some), 16, timeout_s=300))
            return probes.judged(some, path)

    start = time.monotonic()
    some = probes.questions(probes.KINDS, options.n, options.seed)
    result["rows"] = rows = put(some)
    if all(row["error"] for row in rows):
        raise SystemExit(f"no question was answered: {rows[0]['message']}")
    print(f"{len(rows)} questions, seed {options.seed}, {time.monotonic() - start:.0f} s\n\n{table(rows)}\n", flush=True)
    for row in [r for r in rows if not r["correct"]][:30]:
        print(f"  {row['kind']} {row['size']}: {row['question']} -> {row['reply'] or row['message']} (right: {row['expected']})")
    result["grey"] = grey = put(probes.questions(probes.KINDS, max(20, options.n // 2), options.seed, grey=True))
    print(f"\nControl, grey pictures\n\n{table(grey)}\n", flush=True)
    if options.extra:
        result["extra"] = extra = put(probes.questions([k for k in probes.ALL_KINDS if k not in probes.KINDS], options.n // 2, options.seed))
        print(f"Other kinds\n\n{table(extra)}\n", flush=True)
        sweep = [p for size in SIZE_SWEEP for p in probes.questions(("describe", "number", "word", "count"), options.n // 4, options.seed, size=size)]
        result["sizes"] = sizes = put(sweep)
        print(f"Sizes (describe, number, word, count)\n\n{table(sizes, 'size')}\n", flush=True)
    if options.agree:
        step = max(1, len(some) // options.agree)
        theirs = transformers_replies(options.folder, some[::step][:options.agree])
        ours = [row["reply"] for row in rows[::step][:options.agree]]
        same = sum((a or "").strip() == b.strip() for a, b in zip(ours, theirs))
        result["agreement"] = [same, len(theirs)]
        print(f"Same greedy reply from transformers: {same} of {len(theirs)}")
        for a, b in zip(ours, theirs):
            if (a or "").strip() != b.strip():
                print(f"  server: {a!r}  transformers: {b!r}")
    if options.out:
        options.out.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
