"""A plugin that vLLM loads in servers started by this workbook: quick start-up on a CPU, and no sudden end.

vLLM runs as three processes, and its CPU platform insists that each is spawned, so that vLLM is imported
three times, one after the other. Forked from the first, the other two find everything imported. That is
sound here: nothing has used an OpenMP thread before the fork, which is what vLLM itself relies on where it
forks by default.

vLLM 0.32 draws a token even where only a part of a prompt has been read, throws it away and winds the request's
random numbers back, by a call that PyTorch's CPU generator lacks: one seeded request whose prefill is cut ends
the engine, and every other request with it. Before its first token a generator is as new: seeded again, it is back.
"""
import functools
import os

SWITCH = "WORKBOOK_FORK_WORKERS"


def fork_workers() -> None:
    """Called by vLLM in each of its processes; acts only on a CPU and only when SWITCH is set to 1."""
    if os.environ.get(SWITCH) != "1":
        return
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    check = current_platform.check_and_update_config

    def check_and_fork(vllm_config):
        check(vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    type(current_platform).check_and_update_config = staticmethod(check_and_fork)
    _rewind_generators()


def _rewind_generators() -> None:
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    bookkeeping = CPUModelRunner._bookkeeping_sync

    @functools.wraps(bookkeeping)
    def with_generators_rewound(self, *args, **more):
        generators, discarded = self.input_batch.generators, self.discard_request_mask.np
        cut = {i: g for i, g in generators.items() if i < self.input_batch.num_reqs and discarded[i]}
        for index, generator in cut.items():
            generator.manual_seed(generator.initial_seed())
            del generators[index]  # hidden from the call that would fail
        try:
            return bookkeeping(self, *args, **more)
        finally:
            generators.update(cut)

    CPUModelRunner._bookkeeping_sync = with_generators_rewound
