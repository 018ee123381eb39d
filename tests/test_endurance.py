"""A long series tells what changed, and keeps what it has when the server dies on the way."""
import asyncio

import numpy as np
import pandas as pd
import psutil
import pytest

from lib import bench, calibration, endurance, load, metrics, plots_load, records, rundir, workloads
from lib.records import Record
from lib.series import Series

STREAMS = 4


def series(slower=lambda at: 1.0, samples=None, seconds: float = 30.0) -> Series:
    """Four streams with answers of 10 tokens that take 0.1 s times `slower(at)`, and a little chance."""
    rng, rows = np.random.default_rng(1), []
    for k in range(STREAMS):
        at = 100.0 + 0.01 * k
        while at < 100 + seconds:
            step = 0.01 * slower(at - 100) * rng.uniform(0.9, 1.1)
            reads = [[step * (j + 1), 1] for j in range(10)]
            rows.append(Record("s", len(rows), "measure", at, at + step, at + 10 * step, at + 10 * step, reads, output_tokens=10))
            at += 10 * step
    frame = metrics.per_request(records.to_frame(rows))
    window = metrics.steady_window(frame, STREAMS)
    return Series("s", metrics.mark_steady(frame, window), "closed loop, 4 in flight", window, streams=STREAMS,
                  samples=pd.DataFrame(samples if samples is not None else {"time": []}))


def sampled(seconds=30, **columns):
    at = np.arange(100.0, 100.0 + seconds)
    return {"time": at} | {name: [value(t - 100) for t in at] for name, value in columns.items()}


def test_a_level_series_shows_no_drift_and_every_request_is_in_a_moment():
    level = series()
    found = endurance.moments(level)
    assert found["answered"].sum() == len(level.frame)
    assert found.loc[found["steady"], "throughput_tps"].median() == pytest.approx(400, rel=0.05)
    assert (endurance.drift(found)["drift"] == "none shown").all()
    assert "none shown" in endurance.reading(found, endurance.drift(found))


def test_a_server_that_slows_down_drifts_and_so_does_a_gpu_that_warms():
    hot = sampled(**{"gpu0.temperature_c": lambda t: 40 + t, "gpu0.sm_mhz": lambda t: 1500})
    drifts = endurance.drift(endurance.moments(series(lambda at: 1 + at / 60, hot))).set_index("quantity")["drift"]
    assert drifts["throughput, tokens/s"] == "down" and drifts["TPOT, median, ms"] == "up"
    assert drifts["GPU temperature, the hottest, °C"] == "up" and drifts["GPU clock, the slowest, MHz"] == "none shown"


def test_the_worst_moment_is_found_and_explained():
    def slow(at):
        return 3.0 if 12 <= at < 14 else 1.0
    seen = sampled(cpu_pct=lambda t: 99.0 if 12 <= t < 14 else 40.0, waiting=lambda t: 6.0 if 12 <= t < 14 else 0.0,
                   running=lambda t: 4.0, preemptions=lambda t: 0.0 if t < 13 else 2.0,
                   **{"gpu0.throttle": lambda t: "power cap" if 12 <= t < 14 else ""})
    worst = endurance.worst(endurance.moments(series(slow, seen)), 2)
    assert worst["at, s"].between(11, 14).all()
    words = " ".join(worst["what else was seen"])
    assert all(part in words for part in ("99 % busy", "waited in the server's queue", "put off 2", "power cap"))
    assert "of the usual throughput" in endurance.worst_in_words(worst)


def test_a_moment_without_samples_is_not_explained_away():
    worst = endurance.worst(endurance.moments(series(lambda at: 2.0 if 5 <= at < 6 else 1.0)), 1)
    assert worst["what else was seen"].iloc[0] == "nothing unusual in the samples"


def test_when_the_server_dies_half_way_the_series_ends_and_keeps_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "OUTPUTS", tmp_path)
    monkeypatch.setattr(load, "GONE_S", 1.0)
    with calibration.metronome(5.0) as server:
        desk = bench.Bench("08_endurance", server, rundir.RunDir("some-run"))

        async def killed():
            task = asyncio.create_task(desk.measure("endurance", workloads.Brief(20, 0.7, 1, "e"), STREAMS, seconds=60, quiet=True,
                                                    come_what_may=True))
            while not desk.run.requests_file("endurance").exists():  # made when the worker has the plan
                await asyncio.sleep(0.1)
            await asyncio.sleep(3.0)
            port = int(server.url.rpartition(":")[2])
            (pid,) = {c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
            psutil.Process(pid).kill()
            async with asyncio.timeout(20):
                return await task

        found = asyncio.run(killed())
    answered = found.frame[found.frame["error"].isna()]
    assert len(answered) > 20 and found.frame["error"].isin(["reset", "refused"]).sum() > 0
    assert len(records.read(desk.run.requests_file("endurance"))) == len(found.frame)
    words = endurance.ending(found, 60)
    assert "The server died" in words and "of 60 s" in words and f"{len(answered):,} requests answered" in words
    assert found.verdicts()["throughput_tps"].startswith("errors")
    desk.publish(found)
    moments = endurance.moments(found)
    assert moments["answered"].sum() == len(answered)
    assert not moments.loc[moments["at_s"] > endurance.died_after(found.frame), "steady"].any()
    plots_load.over_time(moments, [1.0], endurance.died_after(found.frame)).savefig("/dev/null", format="png")
    endurance.worst_in_words(endurance.worst(moments))
    endurance.reading(moments, endurance.drift(moments))


def test_a_server_that_never_answered_is_said_so():
    frame = metrics.per_request(records.to_frame([
        Record("s", i, "measure", None, None, None, 10.0 + i, error="refused") for i in range(30)]))
    gone = Series("s", metrics.mark_steady(frame, (float("nan"),) * 2), "x", (float("nan"),) * 2)
    assert "0 requests answered" in endurance.ending(gone, 60) and endurance.worst(endurance.moments(gone)).empty


def test_single_failures_do_not_make_a_server_dead():
    whole = series().frame
    whole.loc[whole.index[-3:], "error"] = "timeout"
    assert endurance.gone_at(whole) is None
