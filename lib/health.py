"""Is a server well, and what does it say when a client is not?"""
from urllib.parse import urlsplit

import httpx2
import openai
import pandas as pd
import yaml

from lib import DATA
from lib.client import server_message
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
        except (httpx2.TransportError, ValueError, KeyError) as error:
            rows.append({"endpoint": path, "status": "–", "says": type(error).__name__})
    return pd.DataFrame(rows)


def provoke(server: Server) -> pd.DataFrame:
    """Make each mistake that users make, for real, against this server -> what came back, and the remedy."""
    key = server.api_key or "none"
    return pd.DataFrame([
        _mistake("a wrong port", "http://127.0.0.1:9", key, server.model, "你好",
                 "is the server up, and does the address carry the port of --port?"),
        _mistake("a wrong model name", server.url, key, server.model + "-typo", "你好",
                 "use a name that /v1/models lists"),
        _mistake("a prompt longer than the context", server.url, key, server.model,
                 "你好 " * (server.max_model_len or 32768), "shorten it, or raise --max-model-len"),
        _mistake("a wrong key", server.url, "wrong", server.model, "你好",
                 "set WORKBOOK_API_KEY to the key of --api-key"),
    ])


def _mistake(name: str, url: str, key: str, model: str, prompt: str, remedy: str) -> dict:
    row = {"mistake": name, "client sees": "no error", "message": "the server accepts it", "remedy": remedy}
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=TIMEOUT_S)
    try:
        client.completions.create(model=model, prompt=prompt, max_tokens=1)
    except openai.APIStatusError as error:
        row |= {"client sees": f"{type(error).__name__} {error.status_code}", "message": server_message(error)[:200]}
    except openai.APIConnectionError as error:
        row |= {"client sees": type(error).__name__, "message": str(error.__cause__ or error)}
    return row


def article_flags(server: Server) -> pd.DataFrame:
    """The article's server command, flag by flag: its value there, its value here, what it means."""
    address = urlsplit(server.url)
    known = {"model": server.model, "max_model_len": server.max_model_len, "host": address.hostname,
             "port": address.port or address.scheme, "key": "asked for" if asks_for_key(server) else "not asked for"}
    known |= {f"cache.{name}": value for name, value in server.cache.items()}
    rows = []
    for flag in yaml.safe_load((DATA / "flags.yaml").read_text(encoding="utf-8")):
        here = known.get(flag.get("here"), _given(server.flags, flag["flag"]))
        rows.append({"flag": flag["flag"], "article": flag["article"], "here": here, "what it does": flag["meaning"]})
    return pd.DataFrame(rows)


def asks_for_key(server: Server) -> bool:
    """Whether the server turns away who shows a wrong key."""
    try:
        return httpx2.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer wrong"}).status_code in (401, 403)
    except httpx2.TransportError:
        return False


def _given(flags: list, name: str) -> str:
    """The last value of a flag among those that the server was started with."""
    value = "default" if flags else "not known"
    for word, following in zip(flags, [*flags[1:], "--"]):
        if word == name:
            value = "given" if following.startswith("--") else following
    return value
