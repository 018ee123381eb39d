"""Who can use a vLLM server: whoever reaches its address, unless it asks for a key."""
from urllib.parse import urlsplit

import httpx2
import psutil

from lib.machine import Check
from lib.server import Server, get

HERE = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")
USUAL_PORT = 8000  # vLLM's own, unless it is told another
REMEDY = "give it `--api-key`, or `--host 127.0.0.1` to serve this machine alone"
TIMEOUT_S = 5.0


def warning(server: Server) -> str:
    """What a user should know of who can reach a server, in a sentence; "" where it asks for a key."""
    if asks_for_key(server.url):
        return ""
    parts = urlsplit(server.url)
    if parts.hostname in HERE and (parts.port or 80) in open_ports():
        return f"This server listens on all addresses of this machine and asks for no key: everybody who reaches the machine may use it. {_upper(REMEDY)}."
    if parts.hostname not in HERE:
        return f"This server is on another machine and asks for no key: everybody who reaches that machine may use it. {_upper(REMEDY)}."
    return "This server asks for no key. It listens on this machine's own address alone, so that only its users can use it."


def check() -> Check:
    """What `workbook doctor` says of the vLLM servers that run on this machine."""
    found = [port for port, command in sorted(open_ports().items())
             if (port == USUAL_PORT or "vllm" in command) and serves_anybody(f"http://127.0.0.1:{port}")]
    return Check("no server here is open to everybody", not found,
                 f"port {', '.join(map(str, found))}: all addresses, no key" if found else "none listens on all addresses without a key", REMEDY)


def open_ports() -> dict[int, str]:
    """Ports on which something listens on all addresses of this machine -> its command line, "" where it is not told."""
    try:
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.ip in EVERYWHERE]
    except psutil.Error:  # macOS tells it only to root
        return {}
    return {c.laddr.port: _command(c.pid) for c in listening}


def _command(pid: int | None) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline()) if pid else ""
    except psutil.Error:
        return ""


def asks_for_key(url: str) -> bool:
    """Whether a server turns away who shows a wrong key."""
    return _status(url) in (401, 403)


def serves_anybody(url: str) -> bool:
    return _status(url) == 200


def _status(url: str) -> int:
    try:
        return get(url, "/v1/models", "wrong", TIMEOUT_S).status_code
    except (httpx2.HTTPError, ValueError):
        return 0


def _upper(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
