"""The client is measured against a server whose truth is known, and says so when it is the limit itself."""
import asyncio
import json
import os
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from lib import calibration, load, metrics, verdicts
from lib.client import Client, Request
from lib.series import Series
from lib.shapes import Closed, Open


def ask(index: int, tokens: int = 50) -> Request:
    return Request([{"role": "user", "content": f"request {index}"}], tokens)


def measured(server, path, streams, count, **options) -> Series:
    frame = asyncio.run(load.run(server, path / "s.jsonl", "s", [ask(i) for i in range(count)],
                                 Closed(streams, 0.1), quiet=True, **options))
    health = frame.attrs["client"]
    frame = metrics.per_request(frame)
    window = metrics.steady_window(frame, streams)
    return Series("s", metrics.mark_steady(frame, window), "", window, health, streams=streams)


def test_the_metronome_keeps_its_step_and_says_when_it_sent(tmp_path):
    with calibration.metronome(10.0) as server:
        series = measured(server, tmp_path, 4, 12)
        true = server.truth()
    sent_at = np.concatenate([np.diff(s) for s in series.frame["sent_at"]])
    assert np.median(sent_at) == pytest.approx(0.010, rel=0.02)
    assert len(true["requests"]) == 12 and all(r["tokens"] == 50 for r in true["requests"])
    reads = np.concatenate([r[:, 0] - s for r, s in zip(series.frame["reads"], series.frame["sent_at"])])
    assert reads.min() > 0, "nothing is read before it was sent"


@pytest.mark.parametrize("options, share", [({"tokens_per_chunk": 4}, 4), ({"prefill_steps": 5}, 1)])
def test_the_metronome_speaks_of_several_tokens_a_chunk_and_of_prefill(tmp_path, options, share):
    with calibration.metronome(5.0, **options) as server:
        frame = measured(server, tmp_path, 2, 4).frame
        true = server.truth()
    assert frame["output_tokens"].eq(50).all() and frame["error"].isna().all()
    assert max(r[:, 1].max() for r in frame["reads"]) >= share
    waits = [t["first"] - t["arrived"] for t in true["requests"]]
    assert min(waits) >= (options.get("prefill_steps", 1) - 1) * 0.005 - max(true["step_lateness_s"]), "less the part of a late step in which it came"


def test_the_metronome_repeats_a_recorded_schedule(tmp_path):
    schedule = tmp_path / "steps.json"
    schedule.write_text(json.dumps([0.004, 0.012]))
    with calibration.metronome(schedule=schedule) as server:
        frame = measured(server, tmp_path, 1, 3).frame
    gaps = np.sort(np.concatenate([np.diff(s) for s in frame["sent_at"]]))
    assert np.quantile(gaps, 0.25) == pytest.approx(0.004, abs=0.001)
    assert np.quantile(gaps, 0.75) == pytest.approx(0.012, abs=0.001)


def test_the_metronome_takes_pictures_completions_and_plain_replies(tmp_path):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2_000_000}}

    async def once(url):
        async with Client(url, None, "metronome") as client:
            seen = await client.chat(Request([{"role": "user", "content": [picture]}], 5))
            told = await client.openai.completions.create(model="m", prompt="a", max_tokens=3)
            text = [c.choices[0].text async for c in await client.openai.completions.create(
                model="m", prompt="a", max_tokens=3, stream=True) if c.choices]
            return seen, told, text

    with calibration.metronome(5.0) as server:
        seen, told, text = asyncio.run(once(server.url))
        assert urllib.request.urlopen(f"{server.url}/health").status == 200
    assert (seen.error, seen.output_tokens) == (None, 5) and seen.prompt_tokens > 100_000
    assert told.usage.completion_tokens == 3 and told.choices[0].text == "".join(text)


def test_calibration_finds_a_level_that_can_be_believed_and_stops_after_one_that_cannot():
    found = asyncio.run(calibration.calibrate((2, 4), seconds=0.5))
    try:
        assert [row["streams"] for row in found.rows] in ([2], [2, 4])
        assert all(row["believed"] for row in found.rows[:-1])
        believed = [row["streams"] for row in found.rows if row["believed"]]
        assert found.streams == max(believed, default=0)
        assert {"tpot_error", "ttft_error_ms", "lost"} <= set(found.rows[0])
    finally:
        calibration.use(None)


def test_a_level_whose_streams_were_never_all_in_flight_is_not_believed_and_breaks_nothing(tmp_path):
    with calibration.metronome(5.0) as server:
        frame = asyncio.run(load.run(server, tmp_path / "rows.jsonl", "few", [Request([{"role": "user", "content": "a"}], 5)] * 2, 2))
        truth = server.truth()
    row = calibration.level(metrics.per_request(frame), truth, frame.attrs["client"], streams=50)
    assert row["requests"] == 0 and not row["believed"]


def test_processes_follow_the_calibration_and_leave_a_processor_free(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    calibration.use(calibration.Calibration([], streams=100, tokens_per_s=1e4))
    try:
        chosen = [calibration.processes_for(Closed(n)) for n in (1, 100, 101, 350, 5000)]
    finally:
        calibration.use(None)
    assert chosen == [1, 1, 2, 4, 7] and calibration.processes_for(Open(5)) == 1




def test_a_starved_client_is_called_client_bound_and_its_figure_is_not_the_servers(tmp_path):
    """Overloaded on purpose: the worker shares one processor with three processes that never rest."""
    (worker,) = load.workers(1)
    everywhere = os.sched_getaffinity(worker.process.pid)
    crowd = [subprocess.Popen([sys.executable, "-c", "import os\nos.sched_setaffinity(0, {%d})\nwhile True: pass"
                               % min(everywhere)]) for _ in range(3)]
    os.sched_setaffinity(worker.process.pid, {min(everywhere)})
    try:
        with calibration.metronome(5.0, cpu=max(everywhere)) as server:
            series = measured(server, tmp_path, 64, 256, processes=1)
    finally:
        os.sched_setaffinity(worker.process.pid, everywhere)
        for one in crowd:
            one.kill()
            one.wait()
    assert all(said.startswith("client-bound") for said in series.verdicts().values()), series.verdicts()
    assert "client-bound" in verdicts.judge(series.values["throughput_tps"], series.evidence(), time=False)
