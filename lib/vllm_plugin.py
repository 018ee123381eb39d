"""A plugin that vLLM loads in servers started by this workbook: quick start-up on a CPU.

vLLM runs as three processes, and its CPU platform insists that each is spawned, so that vLLM is imported
three times, one after the other. Forked from the first, the other two find everything imported. That is
sound here: nothing has used an OpenMP thread before the fork, which is what vLLM itself relies on where it
forks by default.
"""
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
