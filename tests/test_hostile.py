"""Whatever a file or a server holds, it is taken, left out, or refused in one line: no traceback, no hang, no memory without end.

A file of every kind is made by hand-editing a good one (a value put in place of another, bytes changed, a part cut off) and out
of nothing. `HYPOTHESIS_PROFILE=long` in the environment tries 5,000 of each.
"""
import asyncio
import contextlib
import copy
import io
import json
import shutil
import tracemalloc

import httpx2
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from lib import (catalog, claim_rules, claims, client, compare_runs, configurations, finished, imported, metrics, own_pictures, plans, publish,
                 reading, records, report, rundir, server, snapshot)
from lib.errors import UserError
from lib.exchange import Exchange
from lib.vllm_flags import Flag
from replies import DONE, OK, answering, chunk, event
from test_imported import TOOLS
from test_publish import made

LONG = settings.default.max_examples > 100
some = settings(max_examples=settings.default.max_examples if LONG else 40, suppress_health_check=list(HealthCheck))
few = settings(some, max_examples=200 if LONG else 8)  # of what takes long

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.just({}), st.just([]), st.just([[[]]]), st.just({"a": {"b": [None]}}),
    st.sampled_from([10**400, -(10**30), 1e308, "", " ", "'", "{", "../../etc/passwd", "\0", "\ud800", "x" * 5000, "!!python/object/apply:os.system [id]",
                     "=", "2024-13-45", "0x_", "*", "**", "[a-", "--", "javascript:alert(1)", [1] * 500, "1:2:3", float("nan"), float("inf")]))
TREE = st.recursive(ODD, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12)


def places(node, path=()):
    """The ways to every part of a structure."""
    yield path
    inner = node.items() if isinstance(node, dict) else enumerate(node[:6]) if isinstance(node, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


@st.composite
def edited(draw, good):
    """A good structure in which a hand has changed, dropped or doubled some parts."""
    content = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(content))[1:] or [()]))
        if not path:
            return copy.deepcopy(draw(TREE))
        node = content
        for key in path[:-1]:
            node = node[key]
        how = draw(st.sampled_from(["put", "put", "drop", "more"]))
        if how == "drop":
            del node[path[-1]]
        elif how == "more" and isinstance(node, dict):
            node[draw(st.text(max_size=8))] = copy.deepcopy(draw(TREE))
        else:
            node[path[-1]] = copy.deepcopy(draw(TREE))  # a later change must not be one of the strategy's own
    return content


def dumped(content) -> str:
    return json.dumps(content, ensure_ascii=True)


def damaged(good: bytes):
    """Bytes of a good file with some changed, or a part of it, or any bytes."""
    @st.composite
    def made_of(draw):
        data = bytearray(good)
        for at, new in draw(st.lists(st.tuples(st.integers(0, len(good) - 1), st.binary(max_size=6)), max_size=4)):
            data[at:at + draw(st.integers(0, 3))] = new
        return bytes(data[:draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)
    return st.one_of(made_of(), st.binary(max_size=200))


@contextlib.contextmanager
def one_line():
    """What is refused is refused in one short line."""
    try:
        yield
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000, str(error)


# -- a server ----------------------------------------------------------------------------------------
GOOD = event(1, "a") + b": ping\n\n" + event(3, "bc", prompt="x") + event(4, "d", "stop") + DONE


def taken(body: bytes, cuts: list[int]) -> records.Record:
    """A reply's body, read in pieces -> its record, which can be written and read again."""
    record, exchange = records.Record("s", 0, requested_tokens=4, sent=1.0), Exchange()
    reply, at = client._Reply(record, exchange), 0
    for to in [*sorted({c % (len(body) + 1) for c in cuts}), len(body)]:
        if to > at:
            exchange.size = to
            exchange.read_at.append(1.0 + len(exchange.read_at))
            exchange.read_to.append(to)
            reply.feed(body[at:to])
            at = to
    reply.end()
    record.done = 99.0
    reply.close()
    return record


@example(GOOD.replace(b'"a"', b'"\x80"'), [])
@some
@given(damaged(GOOD), st.lists(st.integers(0, 1000), max_size=5))
def test_any_stream_becomes_a_record(body, cuts):
    record = taken(body, cuts)
    assert json.loads(records.encoded(record)) and (record.error is None or record.error in records.ERROR_KINDS)


@some
@given(st.lists(edited({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}],
                        "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}, "error": None}), max_size=3), st.lists(st.integers(0, 1000), max_size=3))
def test_any_chunk_becomes_a_record(tmp_path_factory, chunks, cuts):
    record = taken(b"".join(b"data: " + dumped(c).encode() + b"\n\n" for c in chunks) + DONE, cuts)
    path = tmp_path_factory.getbasetemp() / "one.jsonl"
    path.write_bytes(records.encoded(record))
    assert records.read(path).attrs["torn_lines"] == 0


ENDLESS = {
    "a line": (OK + chunk(b"data: "), chunk(b"x" * 60_000)),
    "events without a token": (OK, chunk((b": " + b"x" * 1000 + b"\n\n") * 60)),
    "the reply's head": (b"HTTP/1.1 200 OK\r\n", b"X-Header: " + b"x" * 1000 + b"\r\n"),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 60_000),
    "an error": (b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(b"x" * 60_000)),
    "interim replies": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_reply_without_end_is_broken_off(what):
    head, more = ENDLESS[what]

    async def measure():
        async with answering(head, *[more] * 3000) as url, client.Client(url, None, "m", 20) as asking:
            return await asking.chat(client.Request([{"role": "user", "content": "x"}], 4))

    tracemalloc.start()
    record = asyncio.run(asyncio.wait_for(measure(), 60))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert record.error in ("garbage", "reset") and most < 150e6, (record.error, most)


METRICS = b"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m",engine="0"} 1.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 1.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 2.0
vllm:time_to_first_token_seconds_sum{model_name="m"} 2.0
vllm:time_to_first_token_seconds_count{model_name="m"} 2.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{kv_cache_size_tokens="4096",enable_prefix_caching="True"} 1.0
"""


@some
@given(damaged(METRICS), st.sampled_from(["m", "n"]))
def test_any_metrics_are_a_snapshot(text, model):
    found = snapshot.parse(text.decode("utf-8", "replace"), model)
    assert isinstance((found - found).restarted, bool)


@some
@given(edited({"data": [{"id": "m", "root": "r", "max_model_len": 4096}]}), edited({"version": "0.32.0"}), damaged(METRICS))
def test_any_server_is_a_server_or_none(models, version, text):
    def get(url, path, key, timeout_s):
        body = {"/v1/models": dumped(models).encode(), "/version": dumped(version).encode(), "/metrics": text}[path]
        return httpx2.Response(200, content=body)

    with pytest.MonkeyPatch.context() as patch, one_line():
        patch.setattr(server, "get", get)
        found = server.connect("http://127.0.0.1:9")
        assert isinstance(found.model, str) and (found.max_model_len or 1) > 0


# -- files that a user writes ------------------------------------------------------------------------
@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in place of outputs/ with a run in it, and the run."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        for module in (rundir, finished):
            patch.setattr(module, "OUTPUTS", folder)
        yield folder, made("some-run")


ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghij", "bcdefghijk"))
TEXTS = [ALIASES, "[" * 10_000, "{a: " * 10_000, "- " * 5000, "!!python/object/apply:os.system [touch /tmp/x]", "1" * 5000, "2024-13-45", "0x_", "=", "? [a]: b",
         "<<: 3", "!!binary x", "\x00", "a: b: c", "%YAML 9", "--- a\n--- b", "!!timestamp x", "!!omap 3", "x" * 3_000_000, ".inf", "!!float x"]
YAMLS = st.one_of(st.sampled_from(TEXTS), st.text(max_size=60), TREE.map(dumped))


@some
@given(YAMLS)
def test_any_text_is_yaml_or_not_readable_as_such(text):
    with contextlib.suppress(reading.Unreadable):
        reading.yaml_text(text)


ARTICLE = yaml.safe_load((claims.FOLDER / "article.yaml").read_text())
SMALL = ARTICLE | {"claims": ARTICLE["claims"][:6]}


@some
@given(st.one_of(YAMLS, edited(SMALL).map(dumped), damaged((claims.FOLDER / "vendor_example.yaml").read_bytes())))
def test_any_claims_file_is_held_or_refused(place, text):
    folder, run = place
    file = folder / "claims.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with one_line():
        claim_rules.hold(claims.load(str(file)), run)


FLAGS = {f: Flag((f,), f.strip("-").replace("-", "_"), n) for f, n in {"--enforce-eager": 0, "--max-num-seqs": None, "--compilation-config": None,
                                                                      "--quantization": None, "--trust-remote-code": 0, "--model": None}.items()}
LIST = {"baseline": "--max-num-seqs 4", "configurations": [{"name": "eager", "flags": "--enforce-eager", "why": "w"}, {"name": "awq", "flags": ["--quantization", "awq"],
                                                                                                                   "model": "M", "instead_of": "N", "gpus": 2}]}


@example("{baseline: true, configurations: [{name: x}]}")
@some
@given(st.one_of(YAMLS, edited(LIST).map(dumped)))
def test_any_list_of_configurations_is_checked_or_refused(place, text):
    file = place[0] / "list.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with one_line():
        for configuration in configurations.checked(configurations.read([str(file)]), [], FLAGS, 1, str(place[0])):
            assert not any("trust" in flag for flag in configuration.flags)


SMOKE = yaml.safe_load((catalog.PROFILES / "smoke.yaml").read_text())


@few
@given(st.one_of(YAMLS, edited(SMOKE).map(dumped)))
def test_any_profile_makes_a_plan_or_is_refused(place, text):
    (place[0] / "odd.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch, one_line():
        patch.setattr(catalog, "PROFILES", place[0])
        plans.make("odd", "http://127.0.0.1:9", [], {}).announced()


@few
@given(st.sampled_from(["concurrency", "seconds", "configurations", "pictures", "gpu", "currency", "x"]), st.one_of(YAMLS, TREE.map(str)))
def test_any_parameter_is_taken_or_refused(key, value):
    with one_line():
        plans.make("smoke", "http://127.0.0.1:9", [], plans.parse_parameters([f"{key}={value}"]))


# -- pictures ----------------------------------------------------------------------------------------
def picture(form: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (24, 16), "red").save(out, form, **({"compression": "tiff_lzw"} if form == "TIFF" else {}))
    return out.getvalue()


PICTURES = {form: picture(form) for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")}


@some
@given(st.data(), st.one_of(YAMLS, edited({"a.png": [{"question": "q", "answer": ["x", 2], "lang": "zh"}]}).map(dumped)))
def test_any_picture_is_loaded_or_named(place, data, answers):
    folder = place[0] / "pictures"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(data.draw(st.sampled_from(list(PICTURES.values())).flatmap(damaged)))
    (folder / "answers.yaml").write_bytes(answers.encode("utf-8", "surrogatepass"))
    found = own_pictures.load_folder(folder)
    assert len(found.pictures) + sum(line.startswith("a.png: ") for line in found.skipped) == 1 and str(found)


# -- a run that came from elsewhere ------------------------------------------------------------------
@some
@given(st.lists(st.one_of(st.binary(max_size=80), edited(json.loads('{"series": "s", "index": 1, "phase": "measure", "sent": 1.0, "first": 1.5, "last": 2.0, '
       '"done": 2.0, "reads": [[0.5, 1], [1.0, 2]], "output_tokens": 3, "prompt_tokens": 7, "status": 200, "error": null, "text": "x"}')).map(lambda r: dumped(r).encode())),
    max_size=5))
def test_any_records_are_rows_or_torn(place, rows):
    file = place[0] / "rows.jsonl"
    file.write_bytes(b"\n".join(rows) + b"\n")
    frame = records.read(file, say=False)
    assert len(frame) + frame.attrs["torn_lines"] <= sum(row.count(b"\n") + 1 for row in rows)
    frame = metrics.per_request(frame)
    metrics.steady_window(frame, 1)


PARTS = ("run.json", "figures.json", "series.json", "plots.json")


@few
@given(st.data(), st.sampled_from(PARTS))
def test_a_run_that_a_hand_has_changed_is_reported_or_refused(place, data, part):
    folder, run = place
    good = (run.path / part).read_text()
    text = data.draw(st.one_of(st.sampled_from(TEXTS), edited(json.loads(good)).map(dumped)))
    try:
        (run.path / part).write_bytes(text.encode("utf-8", "surrogatepass"))
        for use in (report.build, lambda run: publish.publish(run.name), lambda run: finished.open_run(str(run.path))):
            with one_line():
                use(run)
    finally:
        (run.path / part).write_text(good)
        shutil.rmtree(run.path / "draft", ignore_errors=True)


RESULTS = {name: (path / "profile_export_aiperf.json" if path.is_dir() else path).read_text() for name, path in TOOLS.items()}


@some
@given(st.data(), st.sampled_from(list(RESULTS)))
def test_any_result_of_another_tool_is_compared_or_refused(place, data, name):
    file, other = place[0] / "profile_export_aiperf.json", place[0] / "other.json"
    other.write_text(RESULTS[name])
    text = data.draw(st.one_of(st.sampled_from(TEXTS), TREE.map(dumped), edited(json.loads(RESULTS[name])).map(dumped)))
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with one_line():
        found = [imported.read(file), imported.read(other)]
        with finished.reading("these", "they cannot be compared"):
            compare_runs.as_text(found)
