"""What a running server is: connect to it, ask it for its model, version and limits."""
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from lib import OUTPUTS, hiding, time_limit, troubles
from lib.errors import UserError
from lib.rundir import read_json

if TYPE_CHECKING:
    from lib.client import Client


LARGEST = 64_000_000  # bytes of a reply that is read at once
LONGEST_NAME = 1000


@dataclass
class Server:
    """A server that answers. `flags` and `log` are known only where this workbook started it."""

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    version: str | None = None
    max_model_len: int | None = None
    kv_cache_tokens: int | None = None
    cache: dict = field(default_factory=dict, repr=False)  # the server's own cache settings
    embedded: bool = False
    flags: list = field(default_factory=list)
    started_in_s: float | None = None
    log: Path | None = None
    spec: str | None = None  # what it was started from: embedded, a model id or a folder
    process: object = field(default=None, repr=False)  # has alive() and stop(); see lib.launch

    @property
    def untrained(self) -> bool:
        """Are its weights random, so that its answers mean nothing? Servers of lib.model_shape say so by their name."""
        return self.model.startswith("shape:") or "dummy" in (following for word, following in zip(self.flags, self.flags[1:])
                                                              if word == "--load-format")

    def client(self) -> "Client":
        from lib.client import Client  # openai takes seconds, which a mistyped command is to be told without

        return Client(self.url, self.api_key, self.model, time_limit.silence_s())

    def get(self, path: str, timeout_s: float = 10.0) -> httpx2.Response:
        """GET a path of the server, such as /health or /metrics, with the key."""
        return get(self.url, path, self.api_key, timeout_s)

    def alive(self) -> bool:
        return self.process is None or self.process.alive()

    def stop(self) -> None:
        """Stop what was started here; a server that was only connected to goes on."""
        if self.process is not None:
            self.process.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def connect(url: str, api_key: str | None = None, folder: Path | None = None) -> Server:
    """A server that runs already. The key comes from WORKBOOK_API_KEY when none is given.

    `folder`: a run folder whose server.json may tell more about it (the flags, if it is the same URL).
    """
    url = plain(url).rstrip("/").removesuffix("/v1").rstrip("/")
    api_key = api_key or os.environ.get("WORKBOOK_API_KEY")
    hiding.learn(url, api_key)
    first = models(url, api_key)[0]
    context = first.get("max_model_len")
    server = Server(url, first["id"], api_key, max_model_len=context if type(context) is int and 0 < context < 10**12 else None)
    try:
        version = server.get("/version").json().get("version")
        server.version = version[:100] if isinstance(version, str) else None
    except (httpx2.TransportError, ValueError, AttributeError, RecursionError):
        pass  # not vLLM, or hidden behind a proxy
    server.cache = cache_settings(server)
    size = server.cache.get("kv_cache_size_tokens", "")
    server.kv_cache_tokens = int(size) if re.fullmatch(r"[0-9]{1,15}", size) else None
    for place in filter(None, (folder, OUTPUTS / "servers")):  # the latter: `workbook serve`
        known = read_json(Path(place) / "server.json", {})
        if hiding.real(known.get("url", "")) == url:
            server.flags, server.embedded, server.started_in_s = known["flags"], known["embedded"], known["started_in_s"]
            server.log, server.spec = Path(place) / "server.log", known.get("spec")
            break
    return server


def plain(url: str) -> str:
    """A server's URL, the host behind a mark of lib.hiding put in. Raises UserError where it holds more than an address: a URL is
    written into notebooks."""
    try:
        parts = urlsplit(url)
        more = "a user or a password" if "@" in parts.netloc else "a query" if parts.query or parts.fragment else ""
    except ValueError as error:
        raise UserError(f"the server's address is not a usable URL ({error}): it looks like http://127.0.0.1:8000")
    if more:
        raise UserError(f"the server's address holds {more} ({parts.scheme}://…): leave that out, and put a key into the environment as "
                        "WORKBOOK_API_KEY")
    return hiding.real(url)


def cache_settings(server: Server) -> dict:
    """vLLM's cache configuration as its /metrics tells it: block size, prefix caching, memory share, KV-cache
    size in tokens. Empty where the server shows no metrics."""
    try:
        families = text_string_to_metric_families(server.get("/metrics").text)
        return next((f.samples[0].labels for f in families if f.name == "vllm:cache_config_info"), {})
    except (httpx2.TransportError, ValueError, LookupError):  # a web page, say
        return {}


def models(url: str, key: str | None) -> list[dict]:
    """GET /v1/models, with every way in which that can fail said in one line."""
    try:
        reply = get(url, "/v1/models", key, 10)
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, ValueError) as error:
        raise UserError(f"{url!r} is not a usable URL ({error}): it looks like http://127.0.0.1:8000")
    except httpx2.TimeoutException:
        raise UserError(f"{url} did not answer within 10 s: is the server still loading, or is the address wrong?")
    except httpx2.TransportError as error:
        raise UserError(f"nothing answers at {url} ({error}): {troubles.remedy('nothing listens there')}")
    if reply.status_code in (401, 403):
        what = "takes another key than that of WORKBOOK_API_KEY" if key else "asks for a key, and WORKBOOK_API_KEY is not set"
        raise UserError(f"{url} {what} ({reply.status_code}): {troubles.remedy('no key, or a wrong one')}")
    try:
        models = [m for m in reply.json()["data"] if m["id"]]
        assert reply.status_code == 200 and models and all(isinstance(m["id"], str) and len(m["id"]) <= LONGEST_NAME for m in models)
        return models
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise UserError(f"{url} answers, but not as an OpenAI server (GET /v1/models gave {reply.status_code}): "
                        f"{troubles.remedy('a wrong path')}")


def headers(key: str | None) -> dict:
    return {"Authorization": f"Bearer {key}"} if key else {}


def get(url: str, path: str, key: str | None, timeout_s: float) -> httpx2.Response:
    """GET, with a reply of at most LARGEST bytes that has come within some times `timeout_s`. Raises httpx2.TransportError."""
    with httpx2.Client(headers=headers(key), timeout=timeout_s) as http:
        return bounded(http, url + path, timeout_s)


def bounded(http: httpx2.Client, url: str, timeout_s: float) -> httpx2.Response:
    """GET through a client: a reply that does not end is broken off."""
    until, parts, size = time.monotonic() + 3 * timeout_s, [], 0
    with http.stream("GET", url) as reply:
        for part in reply.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > LARGEST or time.monotonic() > until:
                raise httpx2.ReadError("the reply does not end")
        plain = [(name, value) for name, value in reply.headers.items() if name.lower() not in ("content-encoding", "content-length", "transfer-encoding")]
        return httpx2.Response(reply.status_code, headers=plain, content=b"".join(parts), request=reply.request)
