"""A server that cannot start says why in one line, with the remedy; one that runs says what it is."""
import http.server
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib import launch, plans, server as servers, troubles
from lib.errors import UserError
from replies import answering


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text and len(text) < 600
    return text


# -- for real: each starts vLLM ----------------------------------------------------------------------
FAILING = {  # flags -> how what is said begins, and a word in it
    "--no-such-flag 3": ("unknown flag", "--no-such-flag"),
    "--dtype float7": ("a flag has a value that it cannot take", "float7"),
    "--max-model-len 9999999": ("the context length exceeds", "9999999"),
}


@pytest.fixture(scope="module")
def failed_starts(tmp_path_factory):
    """Flags -> (what a start with them raised, its folder). They are started together: most of a start is one import after the other."""
    def start(flags):
        folder = tmp_path_factory.mktemp("failed", numbered=True)
        with pytest.raises(UserError) as error:
            launch.open_server("embedded", flags, folder)
        return error, folder

    with ThreadPoolExecutor(len(FAILING)) as pool:
        return dict(zip(FAILING, pool.map(start, FAILING)))


@pytest.mark.parametrize("flags", FAILING)
def test_a_start_that_fails_names_cause_and_remedy(failed_starts, flags):
    (cause, detail), (error, folder) = FAILING[flags], failed_starts[flags]
    assert one_line(error).startswith(cause) and detail in one_line(error)
    assert (folder / "server.log").stat().st_size > 0, "the log is kept"


@pytest.mark.parametrize("path", ["/no/such/model", "./tests", "~"])
def test_a_folder_that_holds_no_model_is_told_before_the_start(path):
    with pytest.raises(UserError) as error:
        launch.open_server(path)
    assert one_line(error).startswith("the model was not found")


@pytest.mark.parametrize("spec", ["127.0.0.1:9", "localhost:9", "localhost:9/v1"])
def test_an_address_without_http_is_an_address_and_never_a_model_to_start(spec, capsys):
    with pytest.raises(UserError) as error:
        launch.open_server(spec)
    assert one_line(error).startswith("nothing answers at http://") and launch.is_url(spec)
    assert capsys.readouterr().err == f"{spec} is taken as the address of a server, http://{spec}\n"
    assert plans.make("smoke", spec, ["00"], {}).server == f"http://{spec}"


@pytest.mark.parametrize("spec", ["embedded", "auto", "Qwen/Qwen3-VL-2B-Instruct", "shape:Qwen3-VL-2B-Instruct", "./models/a:1", "opt-125m"])
def test_a_model_is_no_address(spec):
    assert launch.addressed(spec) == spec and not launch.is_url(spec)


def test_a_taken_port_is_told_before_the_start(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError) as error:
        launch.open_server("embedded", f"--port {taken.getsockname()[1]}", tmp_path)
    assert one_line(error).startswith("the port is taken")


def test_a_port_is_chosen_that_no_outgoing_connection_takes_before_the_server_does(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(launch, "PORTS", range(port, port + 3))
        assert port not in {launch._free_port() for _ in range(20)}
    monkeypatch.undo()
    assert max(launch.PORTS) < 32_768 and launch._free_port() in launch.PORTS, "Linux gives outgoing connections those from there on, unless told otherwise"


def test_a_running_server_says_what_it_is(server):
    assert server.embedded and server.model == launch.EMBEDDED.name
    assert server.version and server.version[0].isdigit()
    assert server.max_model_len == 4096 and server.kv_cache_tokens > 4096
    assert "--enforce-eager" in server.flags and server.alive()
    assert server.url.startswith("http://127.0.0.1:")
    assert server.api_key not in repr(server)


def test_connecting_gives_the_same_object_as_starting(server, monkeypatch):
    monkeypatch.setenv("WORKBOOK_API_KEY", server.api_key)
    other = servers.connect(server.url + "/v1/", folder=server.log.parent)
    for name in ("url", "model", "version", "max_model_len", "kv_cache_tokens", "flags", "embedded", "started_in_s"):
        assert getattr(other, name) == getattr(server, name), name
    other.stop()
    assert server.alive(), "a server that was only connected to goes on"


def test_a_missing_key_is_told(server, monkeypatch):
    monkeypatch.delenv("WORKBOOK_API_KEY", raising=False)
    with pytest.raises(UserError) as error:
        servers.connect(server.url)
    assert "WORKBOOK_API_KEY" in one_line(error)


def test_a_wrong_key_is_not_called_a_missing_one(server, monkeypatch):
    monkeypatch.setenv("WORKBOOK_API_KEY", "another")
    with pytest.raises(UserError) as error:
        servers.connect(server.url)
    assert "takes another key than that of WORKBOOK_API_KEY (401)" in one_line(error)


# -- addresses that are none -------------------------------------------------------------------------
@pytest.mark.parametrize("url, words", [
    ("http://127.0.0.1:9", "nothing answers"),
    ("http://127.0.0.1:notaport", "not a usable URL"),
    ("http://no-such-host.invalid:8000", "nothing answers"),
    ("ftp://127.0.0.1:8000", "http:// or https://"),
])
def test_an_address_that_is_no_server_is_told(url, words):
    with pytest.raises(UserError) as error:
        launch.open_server(url)
    assert words in one_line(error)


def test_a_web_server_that_speaks_no_openai_is_told():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_): pass

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        with pytest.raises(UserError) as error:
            servers.connect(f"http://127.0.0.1:{web.server_port}")
        web.shutdown()
    assert "not as an OpenAI server" in one_line(error)


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"data": []}', b'{"data": [{}]}', b"not json", b"\xff\xfe"])
def test_a_models_reply_of_any_shape_is_told(body):
    import asyncio

    async def once():
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        async with answering(head + body, needs_body=False) as url:
            await asyncio.to_thread(servers.connect, url)

    with pytest.raises(UserError) as error:
        asyncio.run(once())
    assert "not as an OpenAI server" in one_line(error)


def test_flags_for_a_server_that_runs_already_are_refused():
    with pytest.raises(UserError) as error:
        launch.open_server("http://127.0.0.1:9", "--max-model-len 100")
    assert "takes no flags" in one_line(error)


# -- logs that this machine cannot provoke -----------------------------------------------------------
@pytest.mark.parametrize("line, cause", [
    ("OSError: [Errno 98] Address already in use", "the port is taken"),
    ("ValueError: Free memory on device cuda:0 (3.1/14.6 GiB) on startup is less than desired GPU memory utilization (0.9, 13.1 GiB).", "not enough memory"),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.", "not enough memory"),
    ("ValueError: To serve at least one request with the models's max seq len (32768), (3.5 GiB KV cache is needed, which is larger than the available KV cache memory (1.2 GiB).", "not enough memory"),
    ("RuntimeError: Worker failed with error 'Available memory on node 0 (7.68/8.84 GiB) on kv cache allocation is less than requested memory for kv (500.0 GiB).", "not enough memory"),
    ("ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.", "the data type"),
    ("RuntimeError: No CUDA GPUs are available", "no GPU"),
    ("OSError: We couldn't connect to 'https://hub.example' to load the files, and couldn't find them", "the model's weights cannot be fetched"),
    ("  Value error, Cannot find the config file for awq [type=value_error, input", "the model has no such quantization"),
    ("AssertionError: Not enough allowed NUMA nodes to bind threads of 2 local CPUWorkers. Allowed", "more parallel ranks"),
])
def test_known_troubles_are_told_apart(line, cause):
    log = f"(APIServer pid=1) INFO 11-22 starting\n{line}\nRuntimeError: Engine core initialization failed. See root cause above.\n"
    assert troubles.diagnose(log).startswith(cause)


def test_an_unknown_trouble_quotes_the_last_error():
    log = "INFO all is well\n\x1b[31mKeyError: 'something new'\x1b[0m\nINFO bye\n"
    assert troubles.diagnose(log) is None
    assert troubles.last_error(log) == "KeyError: 'something new'"
