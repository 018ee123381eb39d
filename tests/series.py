"""A series in one call, for tests."""
import asyncio

from lib import load


def run(server, path, workload, shape, **options):
    """The records of a series whose file lies in the folder `path`."""
    return asyncio.run(load.run(server, path / "s.jsonl", "s", workload, shape, quiet=True, **options))
