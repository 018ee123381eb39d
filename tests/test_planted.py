"""Secrets are planted in everything that goes into a run; none of them is in anything that comes out.

The server is a stand-in that says its own secrets, and those that it was told, wherever a server can say something.
"""
import base64
import json
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
from PIL import Image

from lib import OUTPUTS, ROOT, cli, launch, publish
from replies import DONE, event

KEY, TOKEN, OTHER = "sk-proj-Planted0Key1ForThisRun", "hf_PlantedTokenOfMineAbcd", "hf_PlantedTokenInAPicture"
SERVERS = "/home/svc-planted/models/tiny-qwen3-vl"  # the way to the model, which is also its id
SAID = f"{SERVERS} at http://node-9-planted:8000?token=planted4711, https://me:plantedpass@hub.example, from 10.77.88.99, ghp_{'Planted0' * 4}"
METRICS = f'''# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{model_name="{SERVERS}",at="http://node-9-planted:8000"}} 0.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{enable_prefix_caching="True",path="{SERVERS}",kv_cache_size_tokens="4096"}} 1.0
'''
PLANTED = ["lanted", "svc-", "node-9", "10.77.88.99", "maria-home"]  # a part of each


def answer(path: str, headers: dict, body: dict) -> tuple[int, str, bytes]:
    """(status, type, body) of a reply; whoever asks is told his own key."""
    said = f"{SAID}, {headers.get('authorization')}"
    if path.startswith("/metrics"):
        return 200, "text/plain", METRICS.replace("hub", said.replace('"', "")).encode()
    if path == "/v1/models" and headers.get("authorization") != f"Bearer {KEY}":
        return 401, "application/json", json.dumps({"error": {"message": said}}).encode()
    if path == "/v1/models":
        return 200, "application/json", json.dumps({"data": [{"id": SERVERS, "root": SERVERS, "max_model_len": 4096, "owner": said}]}).encode()
    if path in ("/health", "/version"):
        return 200, "application/json", json.dumps({"version": f"0.32.0 {said}"}).encode()
    if not path.endswith("completions") or body.get("model") != SERVERS or (body.get("max_tokens") or 0) > 4000:
        return 400, "application/json", json.dumps({"error": {"message": f"refused: {said}"}}).encode()
    if not body.get("stream"):
        return 200, "application/json", json.dumps({"id": "x", "object": "text_completion", "created": 1, "model": SERVERS, "choices": [
            {"index": 0, "text": said, "finish_reason": "length"}], "usage": {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}}).encode()
    words = said.split(" ")
    n = body.get("max_tokens") or len(words)
    return 200, "text/event-stream", b"".join(event(k, f"{words[(k - 1) % len(words)]} ") for k in range(1, n + 1)) + event(n, "", "length") + DONE


class Telltale(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.loads(self.rfile.read(int(headers.get("content-length", 0))) or b"{}")
        status, kind, content = answer(self.path, headers, body)
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": len(content), "x-said": SAID, "x-key": headers.get("authorization")}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def telltale():
    """The stand-in's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Telltale)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def found_in(content: bytes) -> list[str]:
    """The planted words in a file, and in the pictures that it holds."""
    pictures = re.findall(rb"[A-Za-z0-9+/]{200,}={0,2}", content.replace(rb"\n", b""))
    decoded = b"".join(base64.b64decode(p + b"=" * (-len(p) % 4)) for p in pictures)
    return [word for word in PLANTED if word.encode() in content or word.encode() in decoded]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with a picture that tells more than it shows."""
    folder = tmp_path / "maria-home"
    (folder / "pictures").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = OTHER, SERVERS
    Image.new("RGB", (64, 64), "red").save(folder / "pictures" / "red.jpg", comment=OTHER, exif=exif)
    (folder / "pictures" / "answers.yaml").write_text("red.jpg:\n  - {question: Which colour?, answer: red}\n")
    for name, value in {"HOME": str(folder), "WORKBOOK_API_KEY": KEY, "HF_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)
    yield folder


def test_no_secret_is_in_anything_that_a_run_writes_or_says(telltale, home, run_name):
    flags = ["-p", "pictures", str(home / "pictures"), "-p", "questions", "1", "-p", "rush_streams", "30"]
    done = subprocess.run([sys.executable, "-m", "lib.cli", "run", "01", "--server", telltale, "--name", run_name, *flags],
                          cwd=ROOT, capture_output=True, timeout=300)
    run = OUTPUTS / run_name
    assert (run / "run.json").exists(), done.stderr.decode()[-2000:]
    states = json.loads((run / "run.json").read_text())["notebooks"]
    assert {"notebooks/01_health_check.ipynb", "html/01_health_check.html", "report.html"} <= {str(p.relative_to(run)) for p in run.rglob("*")}, states
    assert (run / "requests" / "rush.jsonl").read_text().count("***") >= 20, "what the server said of our key is hidden, not lost"
    written = {p.relative_to(run): found_in(p.read_bytes()) for p in run.rglob("*") if p.is_file()}
    assert {p: words for p, words in written.items() if words} == {}
    assert found_in(done.stdout + done.stderr) == [] and b"Traceback" not in done.stderr
    for lang, form in (("en", "md"), ("zh", "html"), ("en", "ipynb")):
        publish.publish(run_name, lang, form)
    assert [p for p in (run / "draft").rglob("*") if p.is_file() and found_in(p.read_bytes())] == []


def test_a_server_that_is_started_leaves_no_key_path_or_token_in_its_log_and_files(telltale, home, tmp_path, monkeypatch):
    """vLLM stands aside; the guard, the log and server.json are the real ones."""
    (home / "tiny").mkdir()
    (home / "tiny" / "config.json").write_text("{}")
    vllm = tmp_path / "vllm" / "entrypoints" / "openai" / "api_server.py"
    vllm.parent.mkdir(parents=True)
    for package in (vllm.parents[2], vllm.parents[1], vllm.parent):
        (package / "__init__.py").touch()
    vllm.write_text("import os, sys, time\nprint('non-default args:', sys.argv, os.environ['VLLM_API_KEY'], os.environ['HF_TOKEN'])\n"
                    "print('at', os.getcwd(), 'http://node-9-planted:1')\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(launch, "_await_answer", lambda process, url, key, log, *_: wait_for(lambda: "http://" in log.read_text()))
    monkeypatch.setattr(launch, "_program", lambda: ["-m", "vllm.entrypoints.openai.api_server", "--model"])
    real = launch.connect
    monkeypatch.setattr(launch, "connect", lambda url, key: real(telltale, KEY))
    flags = f"--hf-token {TOKEN}2 --api-key {KEY} --download-dir ~/planted-downloads --ssl-keyfile={home}/k"
    with launch.open_server(str(home / "tiny"), flags, tmp_path / "run") as server:
        command = " ".join(psutil.Process(server.process.pid).cmdline())
        assert TOKEN not in command and KEY not in command and f"{home}/planted-downloads" in command
    for file in ("server.log", "server.json"):
        text = (tmp_path / "run" / file).read_text()
        assert [w for w in (KEY, TOKEN, "maria-home", "node-9", "svc-") if w in text] == [] and "~/" in text, text


def wait_for(condition) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("address", ["http://me:plantedpass@gpu:8000", "http://gpu:8000/v1?token=planted", "http://gpu:8000#planted", "http://me@gpu:8000"])
def test_an_address_with_a_password_or_a_token_is_refused_before_anything_is_written(address, capsys, monkeypatch):
    before = sorted(OUTPUTS.glob("*"))
    monkeypatch.setattr(sys, "argv", ["workbook", "run", "--server", address])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    assert end.value.code == 2 and "WORKBOOK_API_KEY" in said.err and found_in((said.out + said.err).encode()) == []
    assert sorted(OUTPUTS.glob("*")) == before


def test_an_error_names_no_host(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["workbook", "doctor", "--server", "http://node-9-planted.invalid:8000"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr()
    assert "nothing answers at http://host-" in said.err and found_in((said.out + said.err).encode()) == []

