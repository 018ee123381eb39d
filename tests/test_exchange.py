"""The order in which a client reads and thinks."""
import asyncio
import time

from lib.exchange import PATIENCE_S, QUIET_S, Turns


def run(turns, work):
    async def main():
        return await asyncio.wait_for(work(turns), 5)
    return asyncio.run(main())


def test_thinking_waits_until_the_reads_of_a_step_are_over():
    async def work(turns):
        loop, reads = asyncio.get_running_loop(), []

        def read():
            reads.append(time.monotonic())
            turns.read(reads[-1])
            if len(reads) < 500:
                loop.call_soon(read)  # as sockets do in a burst

        read()
        asked = time.monotonic()
        await turns.turn()
        return time.monotonic() - reads[-1], reads, time.monotonic() - asked

    quiet_s, reads, waited_s = run(Turns(), work)
    held_up = max(b - a for a, b in zip(reads, reads[1:])) > QUIET_S  # other work had the processor: that is a pause, too
    assert (quiet_s > QUIET_S and len(reads) == 500) or waited_s > PATIENCE_S or held_up


def test_thinking_is_not_put_off_for_ever_by_reads_without_a_pause():
    async def work(turns):
        loop = asyncio.get_running_loop()

        def read():
            turns.read(time.monotonic())
            loop.call_soon(read)

        read()
        for _ in range(3):
            await turns.turn()

    run(Turns(), work)  # ends


def test_only_one_task_is_woken_between_two_looks_at_the_sockets():
    async def work(turns):
        order = []

        async def think(name):
            await turns.turn()
            order.append(name)
            asyncio.get_running_loop().call_soon(order.append, "sockets")

        await asyncio.gather(*(think(n) for n in range(3)))
        return order

    assert run(Turns(), work)[:4] == [0, "sockets", 1, "sockets"]
