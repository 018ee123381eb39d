"""Train the embedded model and write its folder.

    python -m training.train --minutes 9                    on a GPU
    torchrun --nproc-per-node 2 -m training.train …         on several: each makes and trains on batches of its own
    python -m training.train --steps 20000 --scale 0.1      on a CPU, in hours
    python -m training.train --steps 0                      random weights, to try a server with

Pictures are made by worker processes from training seeds while the model trains; held-out seeds measure it.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import threading
import time
from collections import defaultdict
from pathlib import Path

from training import compat  # noqa: F401  (before transformers)

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from lib import phrases
from training import data, forward, model as architecture, text
from training.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 1920
HELD_OUT = [("one", (128, 128)), ("one", (224, 224)), ("one", (512, 384)), ("one", (1024, 768)), ("pair", (224, 224)),
            ("turns", (192, 192)), ("long", (256, 256))]
LOSS_SCALE = 4000.0  # answer tokens in a usual batch: keeps the gradient's size near one


def tokenizer_lines() -> list[str]:
    """All text that the tokenizer is trained on: sentences, questions and answers, each wording often."""
    rng = random.Random("wordings")
    lines = text.corpus(lines=2500)
    facts = {"number": "", "word": "", "total": "", "item": "", "price": "", "shop": "", "count": 2, "right": 1}
    for _ in range(40):
        for (ask, lang) in phrases.QUESTIONS:
            facts |= {"shape": rng.choice(list(phrases.SHAPE_ZH)), "color": rng.choice(list(phrases.COLOR_ZH)),
                      "background": rng.choice(list(phrases.COLOR_ZH)), "position": rng.choice(list(phrases.POSITION_ZH)),
                      "right": rng.randint(1, 2)}
            shown = {k: v for k, v in facts.items() if ask != "describe" or k in ("shape", "color", "background")}
            if ask == "describe" and rng.random() < 0.5:
                shown["count"] = 2
            lines += [phrases.question(ask, facts, lang, rng.randrange(99)), phrases.answer(ask, shown, lang)]
    lines += [t for t in phrases.ABSENT.values()] * 20
    lines += [phrases.answer("describe", {"background": c}, lang) for c in phrases.COLOR_ZH for lang in ("en", "zh")] * 4
    for key in ("total", "number", "word"):
        lines += [phrases.answer("describe", {key: "", "shop": "", "background": "red"}, lang) for lang in ("en", "zh")] * 40
    lines += ["Describe the first picture.", "Describe the second picture.", "描述第一张图片。", "描述第二张图片。"] * 40
    return lines


def produce(tokenizer, seed: int, scale: float, worker: int, workers: int, out: mp.Queue) -> None:
    """A worker process: batches worker, worker + workers, … for ever."""
    torch.set_num_threads(1)
    os.nice(15)  # the process that feeds the device comes first
    maker = data.Maker(tokenizer, seed)
    number = worker
    while True:
        batch = maker.batch(number, scale=scale)
        out.put({k: v if k == "asks" else torch.from_numpy(v) for k, v in batch.items()})
        number += workers


def prefetch(queues: list[mp.Queue], ready: queue.Queue, device: str) -> None:
    """A thread: takes batches from the workers in turn and moves them to the device."""
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("RANK", 0)))
    stream = torch.cuda.Stream() if device == "cuda" else None
    turn = 0
    while True:
        batch = queues[turn % len(queues)].get()
        turn += 1
        if stream is None:
            ready.put(batch)
            continue
        with torch.cuda.stream(stream):
            moved = {k: v if k == "asks" else v.pin_memory().to(device, non_blocking=True) for k, v in batch.items()}
        stream.synchronize()
        ready.put(moved)


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
        """Average over processes, clip to norm `limit`, update, clear. Returns 1 if the update was skipped as not finite."""
        if dist.is_initialized():
            dist.all_reduce(self.flat)
            self.flat /= dist.get_world_size()
        norm = self.flat.norm()
        skipped = (~torch.isfinite(norm)).float()
        self.flat *= (limit / norm.clamp(min=limit))
        self.optimizer.found_inf = skipped  # the fused optimizer leaves the weights alone where this is 1
        self.optimizer.step()
        self.flat.zero_()
        return skipped


class Batches:
    """Batches for one process: fresh ones as they are made, each used `reuse` times on average from a pool."""

    def __init__(self, options, device: str, queues: list[mp.Queue], rank: int):
        self.options, self.device, self.rng = options, device, random.Random(f"{options.seed}/{rank}")
        self.ready: queue.Queue = queue.Queue(maxsize=8)
        self.pool, self.fresh, self.used, self.waited = [], 0, 0, 0.0
        threading.Thread(target=prefetch, args=(queues, self.ready, device), daemon=True).start()

    def next(self) -> dict:
        self.used += 1
        if self.pool and self.fresh * self.options.reuse >= self.used:
            return self.rng.choice(self.pool)
        at = time.monotonic()
        batch = self.ready.get()
        self.waited += time.monotonic() - at
        self.fresh += 1
        if self.device == "cuda":
            # Copied on another stream: without this, its memory could be given to a later batch while still being read.
            for value in batch.values():
                if torch.is_tensor(value):
                    value.record_stream(torch.cuda.current_stream())
        if len(self.pool) < self.options.pool:
            self.pool.append(batch)
        else:
            self.pool[self.rng.randrange(len(self.pool))] = batch
        return batch


def train(options: argparse.Namespace) -> None:
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.manual_seed(options.seed)
    if options.resume:
        tokenizer = AutoTokenizer.from_pretrained(options.resume)
    else:
        tokenizer = train_tokenizer(tokenizer_lines(), VOCABULARY)
    if options.steps == 0:
        model = architecture.build_model(architecture.build_config(tokenizer), options.seed)
        return print(f"{options.out}: {architecture.save(options.out, model, tokenizer):,} bytes, random weights")
    queues = [mp.Queue(maxsize=2) for _ in range(options.workers)]
    workers = [mp.Process(target=produce, daemon=True,
                          args=(tokenizer, options.seed, options.scale, rank * options.workers + n, world * options.workers, q))
               for n, q in enumerate(queues)]
    for worker in workers:  # before the device is touched: a forked process cannot use it
        worker.start()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(rank)
        torch.backends.cuda.enable_cudnn_sdp(False)
    if world > 1:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if options.resume:
        model = Qwen3VLForConditionalGeneration.from_pretrained(options.resume, dtype=torch.float32)
    else:
        model = architecture.build_model(architecture.build_config(tokenizer), options.seed)
    model.to(device)

    def autocast():
        return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
                                  lr=options.lr, betas=(0.9, 0.98), fused=True)
    gradients = Gradients(model, optimizer, device)
    held_out = held_out_batches(tokenizer, options, device) if rank == 0 else []
    batches = Batches(options, device, queues, rank)

    step, pictures, progress, losses, skipped = 0, 0, 0.0, [], 0.0
    start = last = time.monotonic()
    while progress < 1:
        if step % 10 == 0:
            if not options.steps:
                progress = (time.monotonic() - start) / (60 * options.minutes)
            if world > 1:  # all stop at the same step
                shared = torch.tensor([progress], device=device)
                dist.broadcast(shared, 0)
                progress = shared.item()
        if options.steps:
            progress = step / options.steps
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, options.lr, options.fall)
        for _ in range(options.accumulate):
            batch = batches.next()
            with autocast():
                loss = batch_loss(model, batch) / options.scale
            (loss / options.accumulate).backward()
            pictures += len(batch["pixels"])
            losses.append((loss.detach(), batch["target_weights"].sum() / LOSS_SCALE / options.scale))
        skipped = skipped + gradients.step()
        step += 1
        if (step % options.report == 0 or step == 60) and rank == 0:
            mean = sum(l.item() for l, _ in losses) / max(1e-9, sum(w.item() for _, w in losses))
            losses.clear()
            now = time.monotonic()
            score = exact_answers(model, held_out, autocast)
            print(f"{now - start:.0f} s step {step} loss {mean:.3f} skipped {float(skipped):.0f} {world * pictures / (now - start):,.0f} "
                  f"pictures/s waited {batches.waited:.0f} s "
                  + " ".join(f"{k} {100 * a / n:.0f}" for k, (a, n) in score.items() if " " in k or "/en" in k), flush=True)
            if mean != mean or float(skipped) > 100:
                print("the loss is not a number: stopped", flush=True)
                os._exit(1)
        elif step % options.report == 0:
            losses.clear()
        if options.checkpoint and rank == 0 and time.monotonic() - last > options.checkpoint * 60:
            last = time.monotonic()
            architecture.save(options.out, model, tokenizer)
    if rank == 0:
        score = exact_answers(model, held_out, autocast)
        for key, (right, n) in score.items():
            print(f"{key:24} {right:5} of {n:5}  {100 * right / n:5.1f} %")
        size = architecture.save(options.out, model, tokenizer)
        summary = {"steps": step, "pictures": world * pictures, "batches_made": world * batches.fresh,
                   "minutes": (time.monotonic() - start) / 60, "seed": options.seed, "bytes": size,
                   "device": f"{world} x {torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}",
                   "options": {k: str(v) for k, v in vars(options).items()}, "held_out": score}
        Path(str(options.out) + "-training.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(f"{options.out}: {size:,} bytes after {step} steps, {world * pictures:,} pictures, {summary['minutes']:.1f} minutes",
              flush=True)
    for worker in workers:
        worker.terminate()
    os._exit(0)  # the prefetching thread waits on queues that nobody fills any more


def held_out_batches(tokenizer, options, device: str) -> list[tuple[str, dict]]:
    """(name, batch) of pictures and questions from seeds that no training batch uses."""
    maker, out = data.Maker(tokenizer, options.seed, split="held-out"), []
    for number, (form, bucket) in enumerate(HELD_OUT):
        batch = maker.batch(number, form, bucket)
        if options.scale < 0.5:
            batch = maker.batch(number, form, bucket, scale=options.scale)
        out.append((f"{form} {bucket[0]}x{bucket[1]}",
                    {k: v if k == "asks" else torch.from_numpy(v).to(device) for k, v in batch.items()}))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "data/models/tiny-qwen3-vl")
    parser.add_argument("--minutes", type=float, default=9.0, help="train for this long")
    parser.add_argument("--steps", type=int, help="train for so many steps instead; 0 writes random weights")
    parser.add_argument("--resume", help="model folder to go on from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1.6e-3)
    parser.add_argument("--fall", type=float, default=0.6, help="share of the run over which the rate falls to zero")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual batch size")
    parser.add_argument("--accumulate", type=int, default=1, help="batches to a step")
    parser.add_argument("--reuse", type=float, default=2.0, help="times that each batch is used on average")
    parser.add_argument("--pool", type=int, default=300, help="batches kept for reuse")
    parser.add_argument("--report", type=int, default=200, help="steps between two lines of progress")
    parser.add_argument("--checkpoint", type=float, default=0, help="minutes between two saves; 0 saves at the end only")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
