"""What the server, its GPU and this machine did while a series ran.

Before and after a series the server's whole /metrics is read; while it runs, every `interval_s`, only eight
numbers of it, so that watching does not become part of what is watched. One reading cost, with vLLM 0.32 and
the embedded model on two shared cores:

    the whole text, 55 kB    server 4.5 ms of CPU, here 0.8 ms to read and 7 ms to parse
    the eight numbers        server 0.4 ms of CPU, here 0.4 ms to read and 0.1 ms to parse

that is less than 0.1 % of a core at one reading a second. What each reading took is in its row, `scrape_ms`.
A server without metrics, or a machine without GPU, is normal: those columns are then empty.
"""
import asyncio
import json
import threading
import time
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import httpx2
import pandas as pd
import psutil

from lib import machine, records
from lib.hiding import hide
from lib.reconcile import TTFT
from lib.server import Server, bounded, headers
from lib.snapshot import Snapshot, parse

TIMEOUT_S = 5.0  # the longest that one reading may take
SETTLE = (10, 0.1)  # times, s: how long a snapshot waits for the last request's numbers to be entered

COLUMNS = {  # column of the samples -> vLLM's metric; the first three are gauges, the others grow
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_usage": "vllm:kv_cache_usage_perc",  # 0 to 1, of the fullest engine
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generation_tokens": "vllm:generation_tokens_total",
    "prefix_queries": "vllm:prefix_cache_queries_total",  # tokens
    "prefix_hits": "vllm:prefix_cache_hits_total",  # tokens
    "preemptions": "vllm:num_preemptions_total",
}
MACHINE_COLUMNS = ("time", "scrape_ms", "cpu_pct", "client_cores", "memory_gib")


class _Metrics:
    """Reads the metrics of one server over one kept connection; empty where that fails, never an exception."""

    def __init__(self, server: Server):
        # Not Server.get: it opens a connection and loads the certificates anew, 25 ms of this processor.
        self._http = httpx2.Client(headers=headers(server.api_key), timeout=TIMEOUT_S)
        self._url, self._model = server.url, server.model
        # vLLM answers /metrics/ (with the slash) by prometheus_client's own application, which knows name[].
        self._few = "/metrics/?" + urlencode([("name[]", name) for name in COLUMNS.values()])
        self._shown = True

    def text(self, path: str = "/metrics") -> str:
        try:
            reply = bounded(self._http, self._url + path, TIMEOUT_S)
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError):
            return ""
        return reply.text if reply.status_code == 200 else ""

    def settled(self) -> tuple[str, Snapshot]:
        """The whole text when nothing is in flight (or after a second): the API server enters a request's last
        numbers only after it has handed on the last token."""
        for _ in range(SETTLE[0]):
            text = self.text()
            snapshot = parse(text, self._model)
            if not (snapshot.get(COLUMNS["running"]) or snapshot.get(COLUMNS["waiting"])):
                break
            time.sleep(SETTLE[1])
        self._shown = COLUMNS["running"] in text  # else it is left in peace while the series runs
        return text, snapshot

    def few(self) -> Snapshot:
        """The numbers of COLUMNS, while a series runs."""
        if not self._shown:
            return Snapshot()
        text = self.text(self._few)
        if text and COLUMNS["running"] not in text:  # a proxy, or metrics of several API servers: ask for all
            self._few = "/metrics"
            text = self.text()
        # Parsing holds the interpreter, and the client's event loop with it: only what is wanted is parsed.
        wanted = tuple(COLUMNS.values())
        lines = [line for line in text.splitlines() if line.removeprefix("# TYPE ").startswith(wanted)]
        return parse("\n".join(lines) + "\n", self._model)

    def close(self) -> None:
        self._http.close()


# -- machine and GPU ----------------------------------------------------------------------------
# Bits of NVML's clocks event reasons (nvml.h). Bit 0, an idle GPU, holds nothing back and is left out.
THROTTLE_WORDS = {
    0x02: "clocks set by the user", 0x04: "power cap", 0x08: "hardware slowdown", 0x10: "sync boost",
    0x20: "heat, by the driver", 0x40: "heat, by the hardware", 0x80: "power brake", 0x100: "display clocks",
}


def throttle_words(reasons: int) -> str:
    """NVML's bits -> what held the clocks down, joined by ";"; empty when nothing did."""
    known = [word for bit, word in THROTTLE_WORDS.items() if reasons & bit]
    rest = reasons & ~(0x01 | sum(THROTTLE_WORDS))
    return "; ".join(known + ([f"reason {rest:#x}"] if rest else []))


class Gpus:
    """All NVIDIA GPUs of this machine; `sample` is empty where there is none. `nvml`: pynvml, or like it."""

    def __init__(self, nvml=None):
        if nvml is None and machine.gpus():  # which has also initialised NVML
            import pynvml as nvml
        self._nvml = nvml
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())] if nvml else []

    def sample(self) -> dict:
        """`gpu0.power_w` and so on; what a GPU does not tell (as in a partition of one) is left out."""
        nvml, row = self._nvml, {}
        for index, gpu in enumerate(self._handles):
            for column, read in {
                "memory_gib": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used / machine.GIB,
                "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
                "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
                "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
                "utilisation_pct": lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
                "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
                "throttle": lambda: throttle_words(nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)),
            }.items():
                try:
                    row[f"gpu{index}.{column}"] = read()
                except nvml.NVMLError:
                    pass
        return row


class _Processor:
    """The machine's busy share, %, and how many cores this process used, both since the call before; memory used."""

    def __init__(self):
        self._last = None

    def sample(self) -> dict:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0)
        total = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)  # counted in user too
        memory = {"memory_gib": round(psutil.virtual_memory().used / machine.GIB, 3)}
        last, self._last = self._last, (total, idle, time.process_time(), time.monotonic())
        if last is None or total <= last[0]:
            return memory
        total, idle, own, wall = (now - then for now, then in zip(self._last, last))
        return memory | {"cpu_pct": round(100 * (1 - idle / total), 1), "client_cores": round(own / wall, 3)}


# -- watching a series --------------------------------------------------------------------------
class Watch:
    """See `watch`. `before`, `after`: Snapshots; `happened`: their difference."""

    before = after = Snapshot()

    def __init__(self, server: Server, path: Path, interval_s: float = 1.0):
        self._server, self._path, self._interval = server, Path(path), interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_on, name="telemetry", daemon=True)

    async def __aenter__(self) -> "Watch":
        await asyncio.to_thread(self._begin)
        self._thread.start()
        return self

    async def __aexit__(self, *_) -> None:
        self._stop.set()
        await asyncio.to_thread(self._end)

    @property
    def happened(self) -> Snapshot:
        return self.after - self.before if self.before and self.after else Snapshot()

    def frame(self) -> pd.DataFrame:
        return read(self._path)

    def _begin(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", encoding="utf-8")
        self._metrics, self._processor = _Metrics(self._server), _Processor()
        # The GPUs of this machine are the server's only where the server is here.
        here = urlsplit(self._server.url).hostname in ("127.0.0.1", "localhost", "::1")
        self._gpus = Gpus() if here else None
        self.before = self._whole("before")

    def _end(self) -> None:
        self._thread.join()
        self.after = self._whole("after")
        self._metrics.close()
        self._file.close()

    def _whole(self, when: str) -> Snapshot:
        began = time.monotonic()
        text, snapshot = self._metrics.settled()
        self._path.with_suffix(f".{when}.prom").write_text(hide(text), encoding="utf-8")
        self._row(began, snapshot)
        return snapshot

    def _sample_on(self) -> None:
        while not self._stop.wait(self._interval):
            began = time.monotonic()
            self._row(began, self._metrics.few())

    def _row(self, began: float, snapshot: Snapshot) -> None:
        row = {"time": began, "scrape_ms": round((time.monotonic() - began) * 1000, 2)} if snapshot else {"time": began}
        row |= {c: v for c, name in COLUMNS.items() if (v := snapshot.get(name)) is not None}
        row |= self._processor.sample() | (self._gpus.sample() if self._gpus else {})
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def watch(server: Server, path: Path, interval_s: float = 1.0) -> Watch:
    """`async with watch(server, path) as watched:` around a series.

    One sample before, one every `interval_s` seconds in a thread, one after. Samples go to `path` (JSONL, an
    earlier file is replaced) as they are taken, with `time` on the clock of the records; beside it the texts of
    /metrics before and after, as `.before.prom` and `.after.prom`, which `parse` reads back.
    """
    return Watch(server, path, interval_s)


def first_ttft_s(requests: Path) -> float | None:
    """TTFT, by the server's own histogram, of the one request that it had answered before the series of this requests file; None where
    it had answered none or several, or shows no histogram."""
    try:
        text = requests.with_suffix(".telemetry.before.prom").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    answered = parse(text).histogram(TTFT)
    return answered.sum if answered and answered.count == 1 and answered.sum > 0 else None


def read(path: Path) -> pd.DataFrame:
    """The samples of a file, a row each: MACHINE_COLUMNS, COLUMNS, and `gpuN.…` where there are GPUs.

    NaN where a sample lacks a number. A torn last line (a run cut off) is left out, and said.
    """
    rows, _ = records.lines(path)
    always = [*MACHINE_COLUMNS, *COLUMNS]
    frame = pd.DataFrame(rows, columns=[*always, *sorted({c for row in rows for c in row if c.startswith("gpu")})])
    return frame.astype({column: float for column in always})
