"""Train the embedded model and write its folder.

    python -m training.train                                on a GPU, in a quarter of an hour
    python -m training.train --scale 0.17 --steps 200000              as many pictures on 16 CPU cores, in about a day
    python -m training.train --steps 0                      random weights, to try a server with

Pictures are drawn by worker processes from training seeds while the model trains; held-out seeds measure it. It stops
after a fixed number of steps, and everything drawn is seeded: another machine goes through the same pictures in the
same order at the same learning rates. What remains different is the rounding of another device.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from pathlib import Path

from training import compat  # noqa: F401  (before transformers)

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from training import data, feed, forward, model as architecture
from training.tokenizer import tokenizer_lines, train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 1920
HELD_OUT = [("one", (128, 128)), ("one", (224, 224)), ("one", (512, 384)), ("one", (1024, 768)), ("pair", (224, 224)),
            ("turns", (192, 192)), ("long", (256, 256))]
LOSS_SCALE = 4000.0  # answer tokens in a usual batch: keeps the gradient's size near one


def batch_logits(model, batch: dict) -> torch.Tensor:
    """(T, vocabulary): what is predicted for each target, from the token before it."""
    hidden = forward.hidden_states(model, batch["ids"], batch["positions"], batch["pixels"], batch["picture_index"])
    chosen = hidden.flatten(0, 1).index_select(0, batch["target_index"] - 1)
    return model.lm_head(chosen)


def batch_loss(model, batch: dict) -> torch.Tensor:
    """Weighted cross entropy over the targets, summed and divided by LOSS_SCALE.

    Dividing by a constant, not by the batch's own weight, lets every answer count the same in small and large batches.
    """
    targets = batch["ids"].flatten()[batch["target_index"]]
    each = F.cross_entropy(batch_logits(model, batch).float(), targets, reduction="none")
    return (each * batch["target_weights"]).sum() / LOSS_SCALE


@torch.no_grad()
def exact_answers(model, batches: list[tuple[str, dict]], autocast) -> dict[str, tuple[int, int]]:
    """Per kind of answer: (answers whose every token is the most likely one, answers). That is greedy decoding."""
    score = defaultdict(lambda: [0, 0])
    for name, batch in batches:
        with autocast():
            right = batch_logits(model, batch).argmax(-1) == batch["ids"].flatten()[batch["target_index"]]
        group = batch["target_groups"]
        wrong = torch.zeros(len(batch["asks"]), dtype=torch.int32, device=right.device).index_add_(0, group[group >= 0], (~right[group >= 0]).int())
        for ask, mistakes in zip(batch["asks"], wrong.tolist()):
            if not ask.startswith("chat"):
                for key in (f"{name}", ask):
                    score[key][0] += mistakes == 0
                    score[key][1] += 1
    return {k: tuple(v) for k, v in sorted(score.items())}


def learning_rate(progress: float, peak: float, fall: float) -> float:
    """Warm up over 2 %, hold, then fall in a straight line to zero over the last share `fall`."""
    return peak * min(1.0, progress / 0.02, max(0.0, (1.0 - progress) / fall))


class Gradients:
    """All gradients in one flat buffer: one operation sums, checks, clips or clears them."""

    def __init__(self, model, optimizer, device: str):
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.flat = torch.zeros(sum(p.numel() for p in parameters), device=device)
        start = 0
        for p in parameters:
            p.grad = self.flat[start:start + p.numel()].view_as(p)
            start += p.numel()
        self.optimizer = optimizer

    def step(self, limit: float = 1.0) -> torch.Tensor:
        """Clip to norm `limit`, update, clear. Returns 1 if the update was skipped as not finite."""
        norm = self.flat.norm()
        skipped = (~torch.isfinite(norm)).float()
        self.flat *= (limit / norm.clamp(min=limit))
        self.optimizer.found_inf = skipped  # the fused optimizer leaves the weights alone where this is 1
        self.optimizer.step()
        self.flat.zero_()
        return skipped


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    if options.resume:
        tokenizer = AutoTokenizer.from_pretrained(options.resume)
    else:
        tokenizer = train_tokenizer(tokenizer_lines(), VOCABULARY)
    if options.steps == 0:
        model = architecture.build_model(architecture.build_config(tokenizer), options.seed)
        return print(f"{options.out}: {architecture.save(options.out, model, tokenizer):,} bytes, random weights")
    workers, queues = feed.start_workers(tokenizer, options.seed, options.scale, options.workers)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # it made a loss that is not a number
    if options.resume:
        model = Qwen3VLForConditionalGeneration.from_pretrained(options.resume, dtype=torch.float32)
    else:
        model = architecture.build_model(architecture.build_config(tokenizer), options.seed)
    model.to(device)
    if options.compile:
        forward.compile_blocks()

    def autocast():
        return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
                                  lr=options.lr, betas=(0.9, 0.98), fused=True)
    gradients = Gradients(model, optimizer, device)
    held_out = held_out_batches(tokenizer, options, device)
    batches = feed.Batches(options, device, queues)

    pictures, losses, skipped = 0, [], 0.0
    start = last = time.monotonic()
    for step in range(1, options.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate((step - 1) / options.steps, options.lr, options.fall)
        batch = batches.next()
        with autocast():
            loss = batch_loss(model, batch) / options.scale
        loss.backward()
        pictures += len(batch["pixels"])
        losses.append((loss.detach(), batch["target_weights"].sum() / LOSS_SCALE / options.scale))
        skipped = skipped + gradients.step()
        if step % options.report == 0 or step == 60:
            mean = sum(l.item() for l, _ in losses) / max(1e-9, sum(w.item() for _, w in losses))
            losses.clear()
            elapsed = time.monotonic() - start
            score = exact_answers(model, held_out, autocast)
            print(f"{elapsed:.0f} s step {step} loss {mean:.3f} skipped {float(skipped):.0f} {pictures / elapsed:,.0f} "
                  f"pictures/s waited {batches.waited:.0f} s "
                  + " ".join(f"{k} {100 * a / n:.0f}" for k, (a, n) in score.items() if " " in k or "/en" in k), flush=True)
            if mean != mean or float(skipped) > 100:
                print("the loss is not a number: stopped", flush=True)
                os._exit(1)
        if options.checkpoint and time.monotonic() - last > options.checkpoint * 60:
            last = time.monotonic()
            architecture.save(options.out, model, tokenizer)
    score = exact_answers(model, held_out, autocast)
    minutes = (time.monotonic() - start) / 60
    for key, (right, n) in score.items():
        print(f"{key:24} {right:5} of {n:5}  {100 * right / n:5.1f} %")
    size = architecture.save(options.out, model, tokenizer)
    summary = {"steps": options.steps, "pictures": pictures, "batches_made": batches.fresh, "minutes": minutes, "bytes": size,
               "skipped": float(skipped), "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
               "options": {k: str(v) for k, v in vars(options).items()}, "held_out": score}
    Path(str(options.out) + "-training.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{options.out}: {size:,} bytes after {options.steps} steps, {pictures:,} pictures, {batches.fresh} batches drawn, "
          f"{minutes:.1f} minutes", flush=True)
    for worker in workers:
        worker.terminate()
    os._exit(0)  # the prefetching thread waits on queues that nobody fills any more


def held_out_batches(tokenizer, options, device: str) -> list[tuple[str, dict]]:
    """(name, batch) of pictures and questions from seeds that no training batch uses."""
    maker, out = data.Maker(tokenizer, options.seed, split="held-out"), []
    for number, (form, bucket) in enumerate(HELD_OUT):
        batch = maker.batch(number, form, bucket, scale=min(1.0, max(options.scale, 0.02)))
        out.append((f"{form} {bucket[0]}x{bucket[1]}",
                    {k: v if k == "asks" else torch.from_numpy(v).to(device) for k, v in batch.items()}))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "data/models/tiny-qwen3-vl")
    parser.add_argument("--steps", type=int, default=20000, help="0 writes random weights")
    parser.add_argument("--resume", help="model folder to go on from, with a new schedule")
    parser.add_argument("--seed", type=int, default=2, help="the default's run met all targets (model card, third run)")
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--fall", type=float, default=0.6, help="share of the run over which the rate falls to zero")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--scale", type=float, default=1.7, help="size of a batch; 1 is about 180 pictures")
    parser.add_argument("--reuse", type=float, default=2.0, help="times that each batch is used on average")
    parser.add_argument("--pool", type=int, default=300, help="batches kept for reuse")
    parser.add_argument("--report", type=int, default=1000, help="steps between two lines of progress")
    parser.add_argument("--checkpoint", type=float, default=0, help="minutes between two saves; 0 saves at the end only")
    parser.add_argument("--compile", action="store_true", help="compile the blocks first: pays on a CPU")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
