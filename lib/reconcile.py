"""Does the server tell the same story as the client? Pure: records and snapshots in, tables out.

The snapshots' difference covers every request of a series, so the client's side does too: warm-up included.
The parts of a request as vLLM 0.32 times them (vllm/v1/metrics/stats.py), beside what the client sees:

    client   sent ────────────────────────────────────────────────────── first ──────────────── last
    server        │ arrival → queued → scheduled → first token │                      last token │
                  HTTP   rendering   queue      prefill       HTTP            decode            HTTP

The client's TTFT and whole answer enclose the server's: a server that says more than the client waited is
impossible, and then one of the two is wrong. Decode does not enclose: it can be shorter for the client, by as
much as the first token was late on its way.
"""
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

AGREE, AGREE_TPOT = 0.03, 0.02  # share of the server's value that client and server may differ by
FLOOR_MS = 2.0  # or this much on a request (on TPOT and ITL: spread over the request's tokens)

MEASURES = {  # vLLM's histogram -> from which instant to which; on the engine's monotonic clock unless said otherwise
    "vllm:time_to_first_token_seconds":
        "request parsed by the API server, before chat template, tokenizer and pictures → the first token's arrival "
        "in the API server, before detokenizing and HTTP; wall clock",
    "vllm:e2e_request_latency_seconds":
        "request parsed by the API server → the last token's arrival in the API server; wall clock",
    "vllm:request_queue_time_seconds": "into the scheduler's queue → first scheduled; a later preemption not counted",
    "vllm:request_prefill_time_seconds": "first scheduled → first token out of the engine's step",
    "vllm:request_decode_time_seconds": "first token out of the engine's step → last token; preemptions included",
    "vllm:request_time_per_output_token_seconds":
        "decode time / (tokens − 1), one value a request, 0 for a request of one token",
    "vllm:inter_token_latency_seconds":
        "one output of a request out of the engine's step → its next: a value a step, whatever tokens it brought",
}
TTFT, E2E, QUEUE, PREFILL, DECODE, TPOT, ITL = MEASURES
COUNTS = {
    "vllm:prompt_tokens_total": "prompt tokens of requests that got a first token, those from a cache included",
    "vllm:generation_tokens_total": "tokens out of the engine for requests that were still wanted",
    "vllm:request_success_total": "requests that ended, by reason; those that a client broke off are not counted",
}
PROMPT, GENERATED, ANSWERED = COUNTS
MORE = "client sees more"
OUTSIDE = "HTTP, network, detokenizing, the event loops of API server and client"


def reconcile(frame: pd.DataFrame, happened) -> pd.DataFrame:
    """Client against server for one series.

    `frame`: all records of the series (lib.records), failures and warm-up too. `happened`: the difference of the
    snapshots after and before it (lib.telemetry). Columns: quantity, unit, client, server (exact), server_range
    (of a quantile only the histogram's bucket is known), difference (client − server), difference_pct (of the
    server's), judgement, measures (what the server's number is).
    """
    good = frame[frame["error"].isna()]
    rows = _Rows(_obstacle(frame, good, happened))
    n = good["output_tokens"].astype(float)
    ttft, whole, decode = good["first"] - good["sent"], good["last"] - good["sent"], good["last"] - good["first"]
    several = n > 1
    steps = (n - 1)[several]
    server = {name: happened.histogram(name) for name in MEASURES}

    def seconds(name):  # summed over the requests
        return server[name].sum if server[name] else math.nan

    # What the first tokens may have lost on their way from the engine, the API server's turn included: as much may be missing from the
    # client's decode. Of the API server's own time nobody says how much came before the engine had the request.
    late = max(0.0, ttft.sum() - seconds(QUEUE) - seconds(PREFILL))  # 0.0 where the server does not say

    def mean(quantity, name, client_s, of, late_s=0.0, floor_ms=FLOOR_MS, agree=AGREE):
        """`client_s` and the server's sum over `of` requests or tokens: equal denominators, so exact means."""
        of = max(of, 1)
        rows.time(quantity, name, client_s / of * 1000, seconds(name) / of * 1000, late_s / of * 1000, floor_ms, agree)

    def quantiles(quantity, name, values, late_ms=0.0):
        for label, q in (("median", 0.5), ("p95", 0.95)):
            low, high = server[name].quantile_range(q) if server[name] else (math.nan, math.nan)
            client = np.quantile(values, q) if len(values) else math.nan
            rows.bucket(f"{quantity}, {label}", name, client * 1000, low * 1000, high * 1000, late_ms)

    mean("TTFT, mean", TTFT, ttft.sum(), len(good))
    rows.part("TTFT, of it queue", QUEUE, seconds(QUEUE) / max(len(good), 1))
    rows.part("TTFT, of it prefill", PREFILL, seconds(PREFILL) / max(len(good), 1))
    rendering = seconds(TTFT) - seconds(QUEUE) - seconds(PREFILL)
    rows.part("TTFT, of it rendering", TTFT, rendering / max(len(good), 1),
              "the rest: chat template, tokenizer, pictures, and the way to the engine and back")
    quantiles("TTFT", TTFT, ttft)
    mean("whole answer, mean", E2E, whole.sum(), len(good))
    mean("decode, mean", DECODE, decode.sum(), len(good), late)
    per_token = (decode[several] / steps).sum()
    floor = FLOOR_MS / steps.mean() if len(steps) else FLOOR_MS
    mean("TPOT, mean", TPOT, per_token, len(steps), late / steps.min() if len(steps) else 0.0, floor, AGREE_TPOT)
    quantiles("TPOT", TPOT, (decode / (n - 1)).where(several, 0.0), math.inf)
    if server[ITL] and server[ITL].count == steps.sum():
        mean("ITL, mean", ITL, decode.sum(), steps.sum(), late, floor)
    elif server[ITL]:
        gaps = f"{server[ITL].count:.0f} gaps at the server, {steps.sum():.0f} tokens after the first here"
        rows.add("ITL, mean", "ms", decode.sum() / max(steps.sum(), 1) * 1000, server[ITL].mean * 1000, ITL,
                 f"not comparable: {gaps}")
    rows.total("prompt tokens", "tokens", good["prompt_tokens"].sum(), happened.get(PROMPT), PROMPT)
    rows.total("generated tokens", "tokens", n.sum(), happened.get(GENERATED), GENERATED)
    rows.total("requests answered", "requests", len(good), happened.get(ANSWERED), ANSWERED)
    return rows.table()


def _obstacle(frame: pd.DataFrame, good: pd.DataFrame, happened) -> str | None:
    """Why the two cannot be compared; None when they can."""
    if happened.get(ANSWERED) is None:
        return "the server shows no such metrics"
    if happened.restarted:
        return "the server was restarted during the series"
    if len(good) < len(frame):
        kinds = frame["error"].dropna().value_counts()
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return f"{len(frame) - len(good)} of {len(frame)} requests failed ({told})"
    answered = int(happened.get(ANSWERED))
    if answered != len(good):
        return f"the server ended {answered} requests, the client {len(good)}: others use the server, or some still ran"
    return None


class _Rows:
    """The lines of the table, and how each is judged."""

    def __init__(self, obstacle: str | None):
        self._rows, self._obstacle = [], obstacle

    def add(self, quantity, unit, client, server, name, judgement, server_range="", measures=None):
        difference = client - server
        self._rows.append({
            "quantity": quantity, "unit": unit, "client": client, "server": server, "server_range": server_range,
            "difference": difference, "difference_pct": 100 * difference / server if server else math.nan,
            "judgement": judgement if self._obstacle is None else f"not comparable: {self._obstacle}",
            "measures": measures or (MEASURES | COUNTS)[name],
        })

    def part(self, quantity, name, server_s, measures=None):
        """A part of the server's TTFT, which the client cannot see."""
        self.add(quantity, "ms", math.nan, server_s * 1000, name, "only the server sees it", measures=measures)

    def time(self, quantity, name, client, server, late, floor, agree):
        """All in ms. `late`: by how much the client may see less; 0 where its time encloses the server's."""
        if math.isnan(server) or math.isnan(client):
            verdict = "not comparable: no such time on one of the two sides"
        elif abs(client - server) <= max(agree * server, floor):
            verdict = "agree"
        else:
            verdict = _judge(client - server, late + floor if late else 0.0)
        self.add(quantity, "ms", client, server, name, verdict)

    def bucket(self, quantity, name, client, low, high, late):
        tolerance = max(AGREE * client, 0.01)
        if math.isnan(low) or math.isnan(client):
            verdict = "not comparable: no such time on one of the two sides"
        elif low - tolerance <= client <= high + tolerance:
            verdict = "agree, to the server's bucket"
        else:
            verdict = _judge(client - high if client > high else client - low, late)
        self.add(quantity, "ms", client, math.nan, name, verdict, "" if math.isnan(low) else f"{low:g} to {high:g}")

    def total(self, quantity, unit, client, server, name):
        server = math.nan if server is None else server
        off = client - server
        verdict = "agree" if off == 0 else f"{unit.removesuffix('s')} totals differ by {off:+.0f}"
        self.add(quantity, unit, float(client), server, name, verdict)

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self._rows)


def delivered_late_pct(agreement: pd.DataFrame) -> float:
    """By how much the mean TPOT of the client lies above the server's own in `reconcile`'s table, where the two do not agree; else nan."""
    rows = agreement[agreement["quantity"] == "TPOT, mean"] if len(agreement) else agreement
    return float(rows["difference_pct"].iloc[0]) if len(rows) and rows["judgement"].iloc[0].startswith(MORE) else math.nan


def _judge(difference: float, late: float) -> str:
    if difference > 0:
        return f"{MORE}: {difference:.3g} ms outside the server's clock ({OUTSIDE})"
    if -difference <= late:
        return "client sees less: its first tokens were longer on their way than its last ones"
    return "impossible: server says more than the client waited"


@dataclass(frozen=True)
class ServerEvidence:
    """What the server and its GPU say about a series; None where they do not tell."""

    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    cached_tokens: int | None = None  # prompt tokens that came from a cache of keys and values
    cached_share: float | None = None  # of the prompt tokens
    pictures: int | None = None  # pictures and other items that were looked up in the multimodal cache
    cached_pictures: int | None = None
    preemptions: int | None = None
    requests: dict = field(default_factory=dict)  # reason of their end -> count, without those of 0
    running_max: int | None = None  # of the samples: a peak between two of them is not seen
    waiting_max: int | None = None
    kv_usage_max: float | None = None  # 0 to 1
    throttle_reasons: dict = field(default_factory=dict)  # in words -> share of the samples, of any GPU
    power_w_mean: float | None = None  # of all GPUs together
    gpu_memory_gib_max: float | None = None  # of all GPUs together
    temperature_c_max: float | None = None  # of the hottest GPU
    samples: int = 0
    restarted: bool = False


def evidence(happened, samples: pd.DataFrame) -> ServerEvidence:
    """`happened`: the difference of two snapshots; `samples`: the frame of lib.telemetry between them."""

    def count(*names):
        found = next((v for name in names if (v := happened.get(name)) is not None), None)
        return None if found is None else round(found)

    def extreme(values):
        return None if values.dropna().empty else float(values.max())

    def gpus(column):
        return samples[[c for c in samples if c.startswith("gpu") and c.endswith(f".{column}")]]

    def together(column):  # summed over the GPUs, sample by sample
        return gpus(column).sum(axis=1, min_count=1)

    prompt, cached = count(PROMPT), count("vllm:prompt_tokens_cached_total", "vllm:prefix_cache_hits_total")
    running, waiting = extreme(samples["running"]), extreme(samples["waiting"])
    power = together("power_w").dropna()
    held = Counter()
    for cells in gpus("throttle").itertuples(index=False):
        held.update({word for cell in cells if isinstance(cell, str) for word in cell.split("; ") if word})
    return ServerEvidence(
        prompt_tokens=prompt, generated_tokens=count(GENERATED), cached_tokens=cached,
        cached_share=cached / prompt if prompt and cached is not None else None,
        pictures=count("vllm:mm_cache_queries_total"), cached_pictures=count("vllm:mm_cache_hits_total"),
        preemptions=count("vllm:num_preemptions_total"),
        requests={reason: round(n) for reason, n in happened.by(ANSWERED, "finished_reason").items() if n},
        running_max=None if running is None else round(running),
        waiting_max=None if waiting is None else round(waiting),
        kv_usage_max=extreme(samples["kv_usage"]),
        throttle_reasons={word: n / len(samples) for word, n in held.items()},
        power_w_mean=None if power.empty else float(power.mean()),
        gpu_memory_gib_max=extreme(together("memory_gib")),
        temperature_c_max=extreme(gpus("temperature_c").max(axis=1)),
        samples=len(samples), restarted=happened.restarted,
    )
