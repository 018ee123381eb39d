"""What a server takes, so that too much is refused in one line before any load is sent."""
import json
from typing import TYPE_CHECKING

from lib import DATA, images
from lib.errors import UserError
from lib.pixels import Processor, tokens
from lib.server import Server

if TYPE_CHECKING:
    from lib.client import Request

FLAG = "--limit-mm-per-prompt"


MOST_CONTEXT = 16_384  # tokens, where a notebook may choose: a context that grows to more takes long on any GPU
MOST_PICTURES = 4


def context(server: Server, asked: int) -> int:
    """The context (prompt and answer, tokens) to measure with: what was asked for, refused where it is longer than the
    server's; for 0 the server's own, at most MOST_CONTEXT."""
    if asked == 0:
        return min(server.max_model_len or MOST_CONTEXT, MOST_CONTEXT)
    check_context(server, asked)
    return asked


def check_context(server: Server, context: int) -> None:
    """Refuse a context that is longer than the server's."""
    if server.max_model_len and context > server.max_model_len:
        raise UserError(f"a context of {context:,} tokens is longer than this server's {server.max_model_len:,}: "
                        "ask for less, or start the server with a larger --max-model-len")


def check_pictures(server: Server, number: int) -> None:
    """Refuse more pictures in one request than the server's flags allow, where they are known."""
    limit = picture_limit(server.flags)
    if limit is not None and number > limit:
        raise UserError(f"{number} pictures in one request are more than the {limit} that this server allows: ask for fewer, or "
                        f"start the server with {FLAG} '{{\"image\":{number}}}'")


def picture_numbers(server: Server, most: int) -> list[int]:
    """0, 1, 2, 4 … pictures in a request, up to `most`; for 0 up to what the server allows, at most MOST_PICTURES."""
    if most < 0:
        raise UserError(f"{most} pictures in one request: give 0 for what the server allows, or a number above")
    check_pictures(server, most)
    limit = picture_limit(server.flags)
    most = most or min(MOST_PICTURES, MOST_PICTURES if limit is None else limit)
    return sorted({0, most, *(n for n in (1, 2, 4, 8, 16) if n < most)})


def check_sizes(server: Server, sizes: list[tuple[int, int]], answer: int, each: int = 1) -> None:
    """Refuse pictures, `each` of them in a request, that cannot be drawn or leave no room for `answer` tokens."""
    for width, height in sizes:
        if min(width, height) < images.MIN_SIDE or max(width, height) > images.MAX_SIDE:
            raise UserError(f"a picture of {width}x{height}: its sides must have {images.MIN_SIDE} to {images.MAX_SIDE:,} pixels")
        try:
            need = each * tokens(width, height, processor(server)) + answer
        except ValueError as error:  # far longer than wide
            raise UserError(f"a picture that this server does not take: {error}")
        if server.max_model_len and need > server.max_model_len:
            raise UserError(f"{each} picture{'s' * (each > 1)} of {width}x{height} and the answer are {need:,} tokens, more than "
                            f"this server's {server.max_model_len:,}: take smaller ones, or a larger --max-model-len")


def parse_sizes(texts: list[str]) -> list[tuple[int, int]]:
    """["1024x768"] -> [(1024, 768)]"""
    try:
        return [(int(width), int(height)) for width, height in (text.lower().replace("×", "x").split("x") for text in texts)]
    except (ValueError, AttributeError):
        raise UserError(f"sizes {texts}: each is width x height in pixels, like 1024x768")


async def try_one(server: Server, request: "Request") -> int:
    """Send one request, in no figure -> its prompt tokens. Says in one line why the server refuses it, if it does."""
    async with server.client() as client:
        record = await client.chat(request)
    if record.error:
        raise UserError(f"the server refuses such a request ({record.message})")
    return record.prompt_tokens


def picture_limit(flags: list[str]) -> int | None:
    """Pictures in one request as the server's flags say; None where they say nothing."""
    for flag, value in zip(flags, [*flags[1:], ""]):
        name, _, same = flag.partition("=")
        if name == f"{FLAG}.image":
            return int(same or value)
        if name == FLAG:
            try:
                return json.loads(same or value).get("image")
            except (ValueError, AttributeError):
                return None
    return None


def processor(server: Server) -> Processor:
    """How the served model turns pixels into tokens: from its files where they are here, else as published."""
    folder = DATA / "models" / server.model.split("/")[-1]
    return Processor.load(folder) if (folder / "preprocessor_config.json").is_file() else Processor()
