"""What a server's /metrics says at one instant, and what happened between two. Pure: text in, numbers out."""
import math
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Histogram:
    """Sum and count are exact; of a quantile only the bucket is known."""

    sum: float = 0.0
    count: float = 0.0
    buckets: dict = field(default_factory=dict)  # upper edge -> observations at or below it

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else math.nan

    def _combined(self, other: "Histogram", sign: int) -> "Histogram":
        edges = sorted(self.buckets.keys() | other.buckets.keys())
        return Histogram(self.sum + sign * other.sum, self.count + sign * other.count,
                         {e: self.buckets.get(e, 0) + sign * other.buckets.get(e, 0) for e in edges})

    def __add__(self, other):
        return self._combined(other, 1)

    def __sub__(self, other):
        return self._combined(other, -1)

    def quantile_range(self, q: float) -> tuple[float, float]:
        """Between which bucket edges numpy's quantile of the observations lies; NaN without observations."""
        if self.count <= 0 or not self.buckets:
            return math.nan, math.nan
        rank = (self.count - 1) * q  # numpy interpolates between the two observations around this one
        edges = [0.0, *sorted(self.buckets)]
        above = [e for e in edges[1:] if self.buckets[e] >= math.floor(rank) + 1]
        below = [e for e in edges[1:] if self.buckets[e] >= math.ceil(rank) + 1]
        return edges[edges.index(above[0]) - 1], below[0]


@dataclass(frozen=True)
class Snapshot:
    """The numbers of one model at one instant, engines taken together; false when the server showed none.

    `after - before` is what happened in between: counters and histograms are differences, gauges are those of
    `after`. `restarted`: a difference that means nothing, since the counters began anew. Keys of `values` and
    `histograms` are (name, labels), `labels` without engine and model.
    """

    values: dict = field(default_factory=dict)
    histograms: dict = field(default_factory=dict)
    gauges: frozenset = frozenset()
    restarted: bool = False

    def __bool__(self):
        return bool(self.values or self.histograms)

    def get(self, name: str, **labels) -> float | None:
        """The sum of a counter or gauge over all label sets that include `labels`; None where not shown."""
        found = [v for (n, has), v in self.values.items() if n == name and labels.items() <= set(has)]
        return sum(found) if found else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """A counter by the values of one label: `by("vllm:request_success_total", "finished_reason")`."""
        options = {dict(has)[label] for (n, has) in self.values if n == name and label in dict(has)}
        return {option: self.get(name, **{label: option}) for option in sorted(options)}

    def histogram(self, name: str) -> Histogram | None:
        found = [h for (n, _), h in self.histograms.items() if n == name]
        return sum(found, Histogram()) if found else None

    def __sub__(self, before: "Snapshot") -> "Snapshot":
        values = {key: v if key[0] in self.gauges else v - before.values.get(key, 0) for key, v in self.values.items()}
        histograms = {key: h - before.histograms.get(key, Histogram()) for key, h in self.histograms.items()}
        start = "process_start_time_seconds"
        fell = any(v < 0 for key, v in values.items() if key[0] not in self.gauges)
        fell = fell or any(h.count < 0 for h in histograms.values())
        return Snapshot(values, histograms, self.gauges, fell or self.get(start) != before.get(start))


def parse(text: str, model: str | None = None) -> Snapshot:
    """The text of /metrics -> Snapshot; an empty one for anything else.

    Of several models only `model` counts; a single one counts under whatever name (a proxy may rename it).
    Over engines counters and numbers of requests are summed, and of usages the highest is taken.
    """
    try:
        return _parsed(text, model)
    except (ValueError, LookupError, AttributeError, OverflowError):  # a web page, say
        return Snapshot()


def _parsed(text: str, model: str | None) -> Snapshot:
    families = list(text_string_to_metric_families(text))
    models = {s.labels["model_name"] for f in families for s in f.samples if "model_name" in s.labels}
    wanted = model if model in models or len(models) > 1 else next(iter(models), None)
    values, parts, gauges = {}, {}, set()
    for family in families:
        for sample in family.samples:
            if sample.labels.get("model_name", wanted) != wanted or sample.name.endswith("_created"):
                continue
            own = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine", "le")}
            key = (sample.name, tuple(sorted(own.items())))
            if family.type == "histogram":
                part = sample.name.removeprefix(family.name)  # _sum, _count, _bucket
                one = parts.setdefault((family.name, key[1]), {"_sum": 0.0, "_count": 0.0, "_bucket": {}})
                if part == "_bucket":
                    edge = float(sample.labels["le"])
                    one[part][edge] = one[part].get(edge, 0) + sample.value
                elif part in one:
                    one[part] += sample.value
                continue
            if family.type != "counter":
                gauges.add(sample.name)
            highest = sample.name.endswith("_perc")
            values[key] = max(values.get(key, 0), sample.value) if highest else values.get(key, 0) + sample.value
    histograms = {key: Histogram(p["_sum"], p["_count"], p["_bucket"]) for key, p in parts.items()}
    return Snapshot(values, histograms, frozenset(gauges))
