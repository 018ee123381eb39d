"""Is a server well, and what does it say when a client is not?"""
import math
from urllib.parse import urlsplit

import httpx2
import openai
import pandas as pd
import yaml
from PIL import Image

from lib import DATA, allowed, exposure, images, pixels, tables, time_limit, troubles
from lib.client import server_message
from lib.series import Series
from lib.server import Server

TIMEOUT_S = 30


def endpoints(server: Server) -> pd.DataFrame:
    """GET of each endpoint that tells about the server: status and what it said, without local paths."""
    rows = []
    for path, says in (("/health", lambda r: "up" if r.status_code == 200 else r.text[:80]),
                       ("/version", lambda r: r.text[:80]),
                       ("/v1/models", lambda r: ", ".join(m["id"] for m in r.json()["data"])),
                       ("/metrics", lambda r: f"{sum(not line.startswith('#') for line in r.text.splitlines()):,} values")):
        try:
            reply = server.get(path)
            rows.append({"endpoint": path, "status": reply.status_code, "says": says(reply)})
        except (httpx2.TransportError, ValueError, KeyError, TypeError, RecursionError) as error:
            rows.append({"endpoint": path, "status": "–", "says": type(error).__name__})
    return pd.DataFrame(rows)


def provoke(server: Server) -> pd.DataFrame:
    """Make each mistake of data/troubles.yaml that a client can make, for real, against this server -> what came back, and the
    remedy."""
    rows, silent = [], 0
    for trouble in troubles.of_kind("request"):
        rows.append(_mistake(server, trouble) if silent < 2 else {
            "mistake": trouble.name, "client sees": "not tried", "message": "the server does not answer any more", "remedy": trouble.remedy})
        silent += rows[-1]["client sees"] == "no answer"
    return pd.DataFrame(rows)


def _mistake(server: Server, trouble: troubles.Trouble) -> dict:
    context, how = server.max_model_len or 32_768, trouble.request
    row = {"mistake": trouble.name, "client sees": "no error", "message": "the server accepts it", "remedy": trouble.remedy}
    picture = how.get("picture")
    if picture == "large":
        side = math.isqrt(allowed.processor(server).max_pixels)
        if (largest := pixels.tokens(side, side, allowed.processor(server))) <= context:
            return row | {"client sees": "not tried", "message": f"no picture fills this server's context: {largest:,} of {context:,} tokens"}
        picture = images.data_url(images.Picture("grey", 0, Image.new("RGB", (side, side)), {}, "jpeg"))
    elif picture == "broken":
        picture = "data:image/png;base64,aGVsbG8="
    elif how.get("pictures"):
        picture = images.data_url(images.make("shape", 1, (64, 64)))
    number = 0 if picture is None else 1 + (allowed.picture_limit(server.flags) or allowed.MOST_PICTURES) * bool(how.get("pictures"))
    content = [{"type": "image_url", "image_url": {"url": picture}}] * number
    content.append({"type": "text", "text": "你好 " * (context if how.get("words") else 1)})
    tools = {"tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}], "tool_choice": "auto"}
    client = openai.OpenAI(base_url=how.get("url", server.url) + how.get("path", "/v1"), api_key=how.get("key", server.api_key or "none"),
                           max_retries=0, timeout=min(TIMEOUT_S, time_limit.silence_s()))
    try:
        client.chat.completions.create(
            model=server.model + how.get("model", ""), messages=[{"role": "user", "content": content}],
            max_tokens=context + 1 if how.get("max_tokens") else 1, **(tools if how.get("tools") else {}))
    except openai.APIStatusError as error:
        row |= {"client sees": f"HTTP {error.status_code}", "message": server_message(error)[:200]}
    except openai.APIConnectionError as error:
        row |= {"client sees": "no connection" if not isinstance(error, openai.APITimeoutError) else "no answer", "message": str(error.__cause__ or error)}
    return row


LATE_S = 1.0  # the article calls a first token late that takes longer


def late_first_tokens(alone: Series, rush: Series) -> dict[str, str]:
    """When the first token comes late, what is it: the queue, or the work? TTFT of one request and of many at once, with the
    server's own account of them."""
    ttft = rush.frame["ttft_s"].dropna()
    parts = rush.agreement.set_index("quantity")["server"] if len(rush.agreement) else {}
    queue, prefill = (parts.get(f"TTFT, of it {name}", math.nan) for name in ("queue", "prefill"))
    late = int((ttft > LATE_S).sum())
    cause = ("not told by this server" if not math.isfinite(queue) else "the queue: the server has too much to do at once"
             if queue > prefill else "the prefill: prompts are long, or many are read at once")
    return {"one request, TTFT": f"{tables.number(alone.frame['ttft_s'].median() * 1000)} ms",
            f"{len(ttft)} at once, TTFT": f"median {tables.number(ttft.median() * 1000)} ms, longest {tables.number(ttft.max() * 1000)} ms",
            f"later than {LATE_S:g} s": f"{late} of {len(ttft)}",
            "of it in the queue, mean": f"{tables.number(queue)} ms", "of it prefill, mean": f"{tables.number(prefill)} ms", "what it is": cause}


def article_flags(server: Server) -> pd.DataFrame:
    """The article's server command, flag by flag: its value there, its value here, what it means."""
    address = urlsplit(server.url)
    known = {"model": server.model, "max_model_len": server.max_model_len, "host": address.hostname,
             "port": address.port or address.scheme, "key": "asked for" if exposure.asks_for_key(server.url) else "not asked for"}
    known |= {f"cache.{name}": value for name, value in server.cache.items()}
    rows = []
    for flag in yaml.safe_load((DATA / "flags.yaml").read_text(encoding="utf-8")):
        here = known.get(flag.get("here"), _given(server.flags, flag["flag"]))
        rows.append({"flag": flag["flag"], "article": flag["article"], "here": here, "what it does": flag["meaning"]})
    return pd.DataFrame(rows)


def _given(flags: list, name: str) -> str:
    """The last value of a flag among those that the server was started with."""
    value = "default" if flags else "not known"
    for word, following in zip(flags, [*flags[1:], "--"]):
        if word == name:
            value = "given" if following.startswith("--") else following
    return value
