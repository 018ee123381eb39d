"""Text that fills a prompt of as many tokens as something else does; the server counts."""
import random

from lib import allowed, conversations, images, picture_load
from lib.client import Request
from lib.errors import UserError
from lib.server import Server


async def text_of(server: Server, tokens: int, seed: int = 1) -> str:
    """Text that makes a prompt of about so many tokens (chat format included), found by asking the server to count."""
    rng = random.Random(f"text/{seed}")
    material = [line for topic in conversations.dialogues()["en"] for line in topic["material"]]
    text = ""
    while len(text) < tokens * 6:
        text += conversations.filled(rng.choice(material), "en", rng) + " "
    length = min(len(text), tokens * 3)
    async with server.client() as client:
        for _ in range(4):
            record = await client.chat(Request([{"role": "user", "content": text[:length]}], 1))
            if record.error:
                raise UserError(f"the server refuses a text of {length:,} characters ({record.message})")
            if record.prompt_tokens == tokens:
                break
            length = max(1, min(len(text), round(length * tokens / record.prompt_tokens)))
    return text[:length]


async def twins(server: Server, of: list[int], size: tuple[int, int], seed: int = 1) -> dict[int, str]:
    """Number of pictures -> text that fills as many prompt tokens; the server counts. A number that the server refuses
    is left out, with a line in its own words: what it allows is not known of a server that was started elsewhere.
    Raises UserError where it refuses even the least."""
    found = {}
    for number in filter(None, of):
        batch = picture_load.Batch()
        batch.add([batch.fresh("shape", seed + k, size) for k in range(number)], images.Question("describe", "en", "What do you see?", ""), 1)
        try:
            need = await allowed.try_one(server, batch.requests[0])
        except UserError as error:
            if not found:
                raise
            print(f"{number} pictures are left out: {error}")
            continue
        found[number] = await text_of(server, need, seed + number)
    return found
