"""From pictures to the device: worker processes draw batches ahead of the training, in an order that is always the same.

Batch number i is drawn from seeds of its own and comes i-th, whoever drew it: the number of workers and their speed
change nothing. Which earlier batch is shown again is drawn by a generator with a seed as well.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time

import torch
import torch.multiprocessing as mp

from training import data


def start_workers(tokenizer, seed: int, scale: float, count: int) -> tuple[list, list]:
    """(processes, a queue of each). To be called before the device is touched: a forked process cannot use it."""
    queues = [mp.Queue(maxsize=2) for _ in range(count)]
    workers = [mp.Process(target=produce, daemon=True, args=(tokenizer, seed, scale, n, count, q)) for n, q in enumerate(queues)]
    for worker in workers:
        worker.start()
    return workers, queues


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


class Batches:
    """Batches for training: fresh ones in their order, each used `reuse` times on average, again from a pool of the latest."""

    def __init__(self, options, device: str, queues: list[mp.Queue]):
        self.options, self.device, self.rng = options, device, random.Random(f"{options.seed}/reuse")
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
