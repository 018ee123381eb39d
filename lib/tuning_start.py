"""What one start of a server gives: the same loads and the same questions after each -> a row of numbers."""
import dataclasses
import math
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil
from scipy import stats as scipy_stats

from lib import efficiency, machine, pace, probes, search, served, stats, telemetry, troubles
from lib.bench import Bench
from lib.errors import UserError
from lib.shapes import Closed
from lib.workloads import Brief, Long

LONG_SENTENCES = 24
VARY = 0.5  # of an answer's length: with equal ones, starts of one command differed by 40 % on a GPU, for each fell into waves of its own
DISTURBED, TRIES = 0.05, 3  # a short load that is disturbed more than that is sent again: the calmest counts
ALONE = 0.5  # of the length of a load: one user's answers vary little
QUESTIONS = ("describe", "number", "word", "count")


@dataclass
class Load:
    """What every start is measured with: the same seeded requests, in the same order."""

    streams: int = 8
    seconds: float = 5.0
    max_tokens: int = 24
    temperature: float = 0.7
    seed: int = 1
    questions: int = 40
    ttft_s: float = 0.2
    tpot_s: float = 0.05


async def row_of(desk: Bench, load: Load, server, name: str, before_gib: float, cold: bool = True) -> dict:
    """Measure a server that has just been started -> one number for each of tuning.METRICS, with its standard error within
    this start; requests that met the targets; the questions answered rightly; the machine's pace between the loads; what speaks
    against the series."""
    desk = dataclasses.replace(desk, server=server, pending=None)
    paces = [pace.now()]
    # What a fresh server still has to compile or to load for a full batch may take longer than a load.
    await desk.measure(f"{name}.first", Brief(load.max_tokens, load.temperature, load.seed, "tuning-first", vary=VARY), load.streams,
                       count=2 * load.streams, come_what_may=True)
    paces.append(pace.now())
    tried = [await _short(desk, load, f"{name}.short", "tuning")]
    while _disturbance(tried[-1]) > DISTURBED and len(tried) < TRIES:  # with prompts that no cache has
        tried.append(await _short(desk, load, f"{name}.short-{len(tried) + 1}", f"tuning-{len(tried) + 1}"))
    fresh, others = min(tried, key=_disturbance)
    paces.append(pace.now())
    long = await desk.measure(f"{name}.long", Long(LONG_SENTENCES, load.max_tokens, load.temperature, load.seed, "tuning", VARY),
                              load.streams, seconds=load.seconds + Closed(load.streams).spread_s, warmup=load.streams, cache_expected=True)
    paces.append(pace.now())
    alone = await desk.measure(f"{name}.alone", Brief(load.max_tokens, load.temperature, load.seed, "tuning-alone"), 1,
                               seconds=load.seconds * ALONE, warmup=1)
    paces.append(pace.now())
    memory = memory_gib(server) - (before_gib if machine.gpus() else 0.0)
    row = {"cold_ttft_s": telemetry.first_ttft_s(desk.run.requests_file(f"{name}.first")) if cold else None, "start_s": getattr(server, "started_in_s", None),
           "memory_gib": memory, "kv_tokens": getattr(server, "kv_cache_tokens", None), "pace_us": statistics.fmean(paces), "doubt": "; ".join(filter(None, [
               f"disturbed: others used {others:.0%} of this machine's processors" if others > 2 * DISTURBED else "",
               fresh.verdicts()["throughput_tps"]])).removesuffix("; valid"),
           "sent": fresh.counts["sent"], "failed": fresh.counts["failed"]}
    row |= _numbers("throughput_tps", stats.mean(fresh.values["throughput_tps"]))
    # What stalls a start shows in its throughput, slice by slice; a median of some hundred requests cannot tell its own error.
    row |= {m: float(fresh.measured[m].median()) for m in ("ttft_s", "tpot_s")}
    row |= {f"{m}_error": row["throughput_tps_error"] for m in ("ttft_s", "tpot_s")}
    row |= _numbers("long_ttft_s", stats.mean(long.values["ttft_s"]))  # of two kinds of prompts: a median would jump between them
    row |= _numbers("alone_ttft_s", stats.mean(alone.values["ttft_s"])) | _numbers("alone_tpot_s", stats.mean(alone.values["tpot_s"]))
    met = search.against(fresh, load.ttft_s, load.tpot_s)
    row |= {"met": met["met"], "due": met["due"], "goodput": met["goodput"]}
    if load.questions and not getattr(server, "untrained", False):
        each = math.ceil(load.questions / len(QUESTIONS))
        asked = probes.questions(QUESTIONS, each, load.seed)
        await desk.measure(f"{name}.questions", probes.requests(asked), load.streams)
        answered = probes.judged(asked, desk.run.requests_file(f"{name}.questions"))
        row["answers"] = "".join("1" if a["correct"] else "0" for a in answered)
    yard = served.yardstick(desk)
    for key, share in {"of_limit": efficiency.throughput(yard, fresh, "throughput"), "alone_of_limit": efficiency.decoding(yard, alone)}.items():
        row[key] = share[0].percent.value if share else None
    return row


async def _short(desk: Bench, load: Load, name: str, part: str) -> tuple:
    """The short load -> its series, and the share of this machine's processors that neither server nor client used; 0 beside a
    server that is not ours, whose own share cannot be told from that of others."""
    before = _processors()
    series = await desk.measure(name, Brief(load.max_tokens, load.temperature, load.seed, part, vary=VARY), load.streams,
                                seconds=load.seconds + Closed(load.streams).spread_s, warmup=load.streams, come_what_may=True)
    if not series.counts["measured"]:
        raise UserError(_why_no_answers(desk.server, series))
    ours, busy, all_of_them = (after - then for after, then in zip(_processors(), before))
    return series, max(0.0, busy - ours) / all_of_them if getattr(desk.server, "process", None) else 0.0


def _disturbance(tried: tuple) -> float:
    """The larger of the relative standard error of a series' throughput and of what others used of the processors."""
    series, others = tried
    error = _numbers("", stats.mean(series.values["throughput_tps"]))["_error"]
    return max(others, math.inf if error is None else error)


def _processors() -> tuple[float, float, float]:
    """Seconds of all processors so far: used by this process and all that it started, used at all, there at all."""
    ours = 0.0
    for process in [root := psutil.Process(), *root.children(recursive=True)]:
        try:
            ours += sum(process.cpu_times()[:2])
        except psutil.Error:
            pass
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + getattr(times, "steal", 0.0)
    return ours, busy, psutil.cpu_count() * time.monotonic()


def _numbers(metric: str, e: stats.Estimate) -> dict:
    """A mean and its relative standard error, from the width of its interval, which is Student's."""
    known = e.low > 0 and math.isfinite(e.high) and e.effective_n > 1
    reach = scipy_stats.t.ppf(1 - stats.TAIL, e.effective_n - 1) if known else math.nan
    return {metric: e.value, f"{metric}_error": math.log(e.high / e.low) / 2 / reach if known else None}


def _why_no_answers(server, series) -> str:
    failed = series.frame[series.frame["error"].notna()]
    told = f"{len(failed)} of {len(series.frame)} requests failed" + (f" ({failed['message'].iloc[-1][:120]})" if len(failed) else "")
    log = getattr(server, "log", None)
    cause = troubles.diagnose(log.read_text(encoding="utf-8", errors="replace")) if log and log.exists() else None
    if not len(failed):
        what = f"was too slow for this load: no request began and ended in it with all {series.streams} in flight; a longer tuning_seconds would tell"
    else:
        what = "answered nothing" if len(failed) == len(series.frame) else f"never answered {series.streams} requests at once"
    return f"it started and then {what}: {told}" + (f"; {cause}" if cause else "")


def memory_gib(server) -> float:
    """GiB that the GPUs hold; without a GPU, what the server's processes hold, shared pages counted once."""
    if machine.gpus():
        return sum(v for name, v in telemetry.Gpus().sample().items() if name.endswith(".memory_gib"))
    process = getattr(server, "process", None)
    if process is None:
        return math.nan
    total = 0
    with suppress(psutil.NoSuchProcess):  # it died meanwhile: what was measured before is still a row
        for p in (root := psutil.Process(process.pid)).children(recursive=True) + [root]:
            with suppress(psutil.Error):
                total += p.memory_full_info().pss
    return total / machine.GIB if total else math.nan
