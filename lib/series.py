"""A measured series: its records, how its client and its server fared, and what may be believed of it."""
import dataclasses
from dataclasses import dataclass, field

import pandas as pd

from lib import metrics, reconcile, stats, verdicts
from lib.reconcile import ServerEvidence
from lib.stats import Estimate

DECODE = ("tpot_s", "itl_s", "decode_tps")  # metrics of the tokens after the first


@dataclass
class Series:
    """frame: lib.metrics.per_request with the column `steady`. window: the steady window, s. client: health of each
    load worker. agreement: lib.reconcile's table. samples: lib.telemetry's. capacity: tokens/s and streams up to
    which a worker was believed, None if it was not calibrated. cache_expected: prompts are meant to hit a cache.
    mishap: what ended it before its time, in words (lib.patience); "" if nothing did.
    """

    name: str
    frame: pd.DataFrame
    shape: str
    window: tuple[float, float]
    client: list = field(default_factory=list)
    server: ServerEvidence = field(default_factory=ServerEvidence)
    agreement: pd.DataFrame = field(default_factory=pd.DataFrame)
    samples: pd.DataFrame = field(default_factory=pd.DataFrame)
    streams: int | None = None
    capacity: tuple[float, int] | None = None
    cache_expected: bool = False
    mishap: str = ""

    def __post_init__(self):
        self.values = metrics.values(self.frame, self.window)
        self.counts = metrics.denominators(self.frame)

    @property
    def measured(self) -> pd.DataFrame:
        """The rows that count."""
        return metrics.measured(self.frame)

    def summaries(self) -> dict[str, dict[str, Estimate]]:
        """metric -> row (mean, median, …) -> Estimate in the unit of the tables."""
        found = {}
        for metric, values in self.values.items():
            _, unit, factor, _ = metrics.METRICS[metric]
            found[metric] = {row: e.scaled(factor) for row, e in stats.summary(values).items()}
            if metric in ("decode_tps", "article_tps"):
                found[metric]["mean"] = stats.rate_mean(values)
        return found

    def evidence(self) -> verdicts.Evidence:
        """What speaks for or against this series."""
        return verdicts.Evidence(
            sent=self.counts["sent"] - self.counts["warm-up"], failed=self.counts["failed after the warm-up"],
            streams=self.streams, tokens_per_s=float(pd.Series(self.values["throughput_tps"]).mean()),
            client=self.client, capacity=self.capacity, late_pct=reconcile.delivered_late_pct(self.agreement),
            cached_share=self.server.cached_share, cache_expected=self.cache_expected, throttled=tuple(self.server.throttle_reasons))

    def verdicts(self) -> dict[str, str]:
        """metric -> "valid", or why not."""
        evidence = self.evidence()
        found = {metric: verdicts.judge(values, evidence, metrics.METRICS[metric][1] == "ms", metric in DECODE)
                 for metric, values in self.values.items()}
        # The gaps stand request by request, not in the order of time: whether they drift, TPOT says.
        return found | {"itl_s": found["tpot_s"]}

    def about(self) -> dict:
        """What the run folder keeps of it beside the records."""
        return ({"mishap": self.mishap} if self.mishap else {}) | {
                "shape": self.shape, "window_s": [None if pd.isna(t) else t for t in self.window], "counts": self.counts,
                "client": self.client, "server": dataclasses.asdict(self.server),
                "agreement": self.agreement.astype(object).where(self.agreement.notna(), None).to_dict("records")}

    def client_health(self) -> pd.DataFrame:
        """One row a load worker: what it used and how late it was."""
        columns = {"part": "worker", "cpu_share": "processor used", "wait_share": "waited for one",
                   "lag_p99_ms": "timers late, p99, ms", "rss_mib": "memory, MiB"}
        return pd.DataFrame(self.client, columns=list(columns)).rename(columns=columns)
