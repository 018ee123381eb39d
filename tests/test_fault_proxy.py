"""The fault proxy does each fault to whom it should, and nothing to the others: seen by this workbook's own client."""
import asyncio

import pytest

from lib import images
from lib.client import Client, Request
from lib.errors import UserError
from lib.fault_proxy import KINDS, Fault, between
from lib.server import connect
from replies import DONE, OK, answering, chunk, event

REPLY = (OK, chunk(event(1, "one")), chunk(event(2, "two", "stop")), chunk(DONE), chunk(b""))
HELLO = Request([{"role": "user", "content": "hello"}], 2)


async def through(*faults, count=1, timeout_s=5.0):
    """Records of `count` requests, one after the other, to a stand-in behind the proxy."""
    async with answering(*REPLY) as url:
        with between(url, *faults) as proxy:
            async with Client(proxy.url, None, "m", timeout_s) as client:
                return [await client.chat(HELLO) for _ in range(count)], proxy


def test_without_a_fault_every_byte_passes():
    (record,), proxy = asyncio.run(through())
    assert (record.error, record.text, record.output_tokens, record.status) == (None, "onetwo", 2, 200)
    assert proxy.requests == 1 and not proxy.struck


@pytest.mark.parametrize("fault, error", [
    (Fault("reset", after=100), "reset"), (Fault("truncate", after=100), "reset"), (Fault("garble"), "garbage"),
    (Fault("status", status=429), "http"), (Fault("status", status=500), "http"), (Fault("status", status=503), "http"),
    (Fault("hang"), "timeout"), (Fault("delay", seconds=3.0), "timeout"),
])
def test_each_fault_is_seen_by_the_client_as_what_it_is(fault, error):
    (record,), proxy = asyncio.run(through(fault, timeout_s=0.5))
    assert record.error == error, record
    assert fault.kind != "status" or record.status == fault.status
    assert proxy.struck == {fault.kind: 1}


def test_what_came_before_a_reset_is_kept():
    (record,), _ = asyncio.run(through(Fault("reset", after=len(chunk(event(1, "one"))) + 10)))
    assert record.error == "reset" and record.text == "one" and record.output_tokens == 1


def test_a_slow_reply_is_whole_in_the_end():
    (record,), _ = asyncio.run(through(Fault("drip", seconds=0.01)))
    assert record.error is None and record.text == "onetwo" and len(record.reads) == 2


def test_ten_times_as_slow_is_so_for_every_token():
    async def once():
        async with answering(OK, *(part for n in range(1, 5) for part in (0.02, chunk(event(n, "x", "stop" if n == 4 else None)))),
                             chunk(DONE) + chunk(b"")) as url:
            with between(url, Fault("slow")) as proxy:
                async with Client(proxy.url, None, "m", 5.0) as client:
                    return await client.chat(HELLO)
    record = asyncio.run(once())
    assert record.error is None and record.text == "xxxx" and len(record.reads) == 4
    late = [read[0] - 0.2 * (n + 1) for n, read in enumerate(record.reads)]  # a sleep is never shorter than it should be
    assert min(late) > -0.01, record.reads


def test_only_its_share_is_struck_and_the_same_seed_strikes_the_same():
    first, again = (asyncio.run(through(Fault("status", share=0.5), count=20))[0] for _ in range(2))
    errors = [[record.error for record in rows] for rows in (first, again)]
    assert errors[0] == errors[1] and 0 < errors[0].count("http") < 20


def test_other_paths_are_left_alone(server):
    with between(server.url, Fault("status")) as proxy:
        assert connect(proxy.url, server.api_key).model == server.model
        assert proxy.requests > 0 and not proxy.struck


def _about(kind_seed: int) -> Request:
    picture = images.make("number", kind_seed, (224, 224))
    return Request([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": images.data_url(picture)}},
                                                 {"type": "text", "text": "What number is shown?"}]}], 16, fixed_length=False)


def test_pictures_are_exchanged_only_between_requests_in_flight(server):
    """With real vLLM: alone each is answered about its own picture, together about another's."""
    async def both(url):
        async with Client(url, server.api_key, server.model) as client:
            alone = [(await client.chat(_about(seed))).text for seed in (5, 6)]
            return alone, [r.text for r in await asyncio.gather(*(client.chat(_about(seed)) for seed in (5, 6)))]

    with between(server.url, Fault("wrong_picture")) as proxy:
        alone, together = asyncio.run(both(proxy.url))
        assert proxy.struck == {"wrong_picture": 1} == proxy.eligible
    assert alone[0] != alone[1] and sorted(together) in ([alone[0]] * 2, [alone[1]] * 2)


def test_an_unknown_fault_is_told():
    with pytest.raises(UserError, match="known: delay"):
        Fault("earthquake")
    with pytest.raises(UserError, match="between 0 and 1"):
        Fault("delay", share=2)
    assert set(KINDS) >= {"delay", "reset", "truncate", "garble", "status", "drip", "wrong_picture"}
