"""What a notebook works with: one server, one run folder, and where its results go."""
import dataclasses
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pandas as pd
from IPython.display import Image, Markdown, display

from lib import calibration, errors, launch, load, machine, metrics, patience, probes, reconcile, rundir, stats, tables, telemetry
from lib import time_limit, troubles
from lib.calibration import Calibration
from lib.errors import UserError
from lib.series import Series
from lib.server import Server
from lib.shapes import Closed, Shape


CARD = ("model", "server", "flags", "processor", "GPU")  # what stands at the head of every notebook


@dataclass
class Bench:
    """`notebook`: the stem that figures and plots are entered under. `pending`: series whose figures are not entered yet;
    None where they are nobody's figures."""

    notebook: str
    server: Server
    run: rundir.RunDir
    pending: dict[str, Series] | None = field(default_factory=dict, repr=False)

    async def measure(self, name: str, workload, shape: Shape | int = 1, *, cache_expected: bool = False,
                      come_what_may: bool = False, may_be_refused: bool = False, **options) -> Series:
        """Measure a series: send a workload in a shape (lib.load.run has the options) and gather the records,
        what the server said of itself meanwhile, and how the client fared.

        Raises UserError when the server was given up on, answered nothing, or the notebook's time was over; not if the series
        is wanted `come_what_may`, nor if every request was turned away as a bad one and that `may_be`."""
        if time_limit.is_over():
            raise UserError(patience.out_of_time(name))
        path = self.run.new_requests_file(name)
        async with telemetry.watch(self.server, path.with_suffix(".telemetry.jsonl")) as watched:
            frame = await load.run(self.server, path, name, workload, shape, **options)
        client, streams, ending = (frame.attrs[known] for known in ("client", "concurrency", "ending"))
        frame = metrics.per_request(frame)
        window = metrics.steady_window(frame[frame["phase"] == "measure"], streams)
        found, samples = calibration.current(), watched.frame()
        series = Series(
            name, metrics.mark_steady(frame, window), str(shape if not isinstance(shape, int) else Closed(shape)), window,
            client, reconcile.evidence(watched.happened, samples), reconcile.reconcile(frame, watched.happened), samples,
            streams, (found.tokens_per_s, found.streams) if found else None, cache_expected,
            patience.sentence(name, frame, ending))
        self.run.enter_series(name, series.about())
        if self.pending is not None and series.counts["measured"]:
            self.pending[name] = series
        if series.mishap and not come_what_may and not (may_be_refused and frame["status"].between(400, 428).all()):
            log = getattr(self.server, "log", None)
            cause = troubles.diagnose(log.read_text(encoding="utf-8", errors="replace")) if log and log.exists() else None
            raise UserError(series.mishap + (f". Its log says: {cause}" if cause else ""))
        return series

    def keep_pending(self) -> None:
        """Enter the figures of every series that the notebook has not come to: it ends early."""
        for series in list((self.pending or {}).values()):
            self.publish(series)

    def publish(self, series: Series, headline: tuple = ()) -> pd.DataFrame:
        """Enter every figure of a series in figures.json -> the verdict on each metric.

        `headline`: metrics whose mean opens the report.
        """
        verdicts, rows = series.verdicts(), []
        (self.pending or {}).pop(series.name, None)
        with self.run.together():
            for metric, summary in series.summaries().items():
                name, unit, _, formula = metrics.METRICS[metric]
                rows.append({"metric": name, "values": len(series.values[metric]), "verdict": verdicts[metric]})
                for row, estimate in summary.items():
                    self.run.publish(
                        f"{series.name}.{metric.removesuffix('_s')}.{row}", f"{name}, {row}", estimate, unit, verdicts[metric],
                        self.notebook, series.name, headline=row == "mean" and metric in headline, formula=formula,
                        counts=series.counts)
        return pd.DataFrame(rows)

    async def alternate(self, name: str, variants: dict, rounds: int = 6, **options) -> dict[str, pd.DataFrame]:
        """Measure variants in turn, A B B A, A B B A, …, so that what drifts meets all alike.

        variants: name -> (workload, shape). -> name -> the measured rows of all its series with a column `round`, as
        lib.compare.compare takes them with `paired_rounds`.
        """
        rows = {variant: [] for variant in variants}
        for number in range(rounds):
            there_and_back = [*variants, *reversed(variants)]
            for half, variant in enumerate(there_and_back):
                series = await self.measure(f"{name}.{variant}.{number}-{half}", *variants[variant], **options)
                rows[variant].append(series.measured.assign(round=number))
        return {variant: pd.concat(frames, ignore_index=True) for variant, frames in rows.items()}

    async def calibrate(self, streams: list, seconds: float) -> Calibration:
        """Put this client to the metronome once a run; the notebooks that follow judge by what it found."""
        found = await calibration.calibrate(streams, seconds)
        rundir.write_json(self.run.path / "calibration.json", dataclasses.asdict(found))
        return found

    async def probe(self, series: str, asked: list[probes.Probe], concurrency: int = 8, **options) -> list[dict]:
        """Put quality probes to the server -> a row each, as lib.probes.judged gives them: a series like any other,
        with the answers in its records. The share of right answers of each kind goes to figures.json. A server with
        random weights is not asked: no rows."""
        if self.server.untrained:
            display(Markdown(f"{len(asked)} questions were not put. {probes.UNTRAINED}"))
            return []
        if not asked:
            return []
        await self.measure(series, probes.requests(asked), concurrency, **options)
        rows = probes.judged(asked, self.run.requests_file(series))
        for kind, found in probes.accuracy(rows).iterrows():
            right, asked, failed = int(found["correct"]), int(found["n"]), int(found["failed"])
            estimate = stats.share(right, asked).scaled(100)
            verdict = (f"errors: {failed} of {asked} requests failed" if failed else
                       "valid" if asked >= stats.MIN_SAMPLES else f"too few samples: {asked}")
            self.run.publish(f"{series}.{kind}", f"{kind}, right answers", estimate, "%", verdict, self.notebook, series,
                             formula="right / asked, Wilson interval")
        return rows

    def keep(self, plot_id: str, figure, caption: str) -> Image:
        """Save a plot for the report and show it here, the same picture."""
        return Image(data=self.run.save_plot(plot_id, figure, caption, self.notebook), alt=caption, width=790)


def begin(notebook: str, server: str = "auto", run: str = "desk", flags: str = "") -> Bench:
    """The opening call of a notebook: connect to or start the server, open the run folder, and show what is
    being measured."""
    run_dir = rundir.RunDir(run)
    run_dir.notebook = notebook
    found = launch.open_server(server, flags, run_dir.path)
    # To this kernel only: shell cells use them, and a cell run again connects instead of starting anew.
    os.environ |= {"WORKBOOK_SERVER": found.url, "WORKBOOK_MODEL": found.model, "WORKBOOK_API_KEY": found.api_key or ""}
    about = describe(found)
    run_dir.update_info(**about)
    run_dir.make_latest()
    calibration.use(rundir.read_json(run_dir.path / "calibration.json", None))
    display(Markdown(about["note"]))
    display(tables.facts({name: value for name, value in about["facts"].items() if name in CARD}))
    desk = Bench(notebook, found, run_dir)
    errors.in_one_line(keep=desk.keep_pending)
    return desk


def describe(server: Server) -> dict:
    """What a run folder says of the server and the machine it measured; nothing secret."""
    return {"model": server.model, "note": note(server), "facts": server_facts(server) | _machine_facts(server)}


def server_facts(server: Server) -> dict[str, str]:
    """What is being measured, for readers; nothing secret."""
    started = f"started here in {server.started_in_s} s" if server.started_in_s else "was running already"
    return {
        "model": server.model + (" (random weights)" if server.untrained else ""),
        "server": f"vLLM {server.version}, {started}" if server.version else f"not known to be vLLM, {started}",
        "context": f"{server.max_model_len:,} tokens" if server.max_model_len else "not told",
        "KV cache": f"{server.kv_cache_tokens:,} tokens" if server.kv_cache_tokens else "not told",
        "prefix cache": {"True": "on", "False": "off"}.get(server.cache.get("enable_prefix_caching"), "not told"),
        "flags": " ".join(server.flags) or "not known: it was started elsewhere",
    }


def _machine_facts(server: Server) -> dict[str, str]:
    """This machine's facts; called the client's where the server is on another machine."""
    here = urlsplit(server.url).hostname in ("127.0.0.1", "localhost", "::1")
    return {name if here else f"client's {name}": fact for name, fact in machine.facts().items()}


def note(server: Server) -> str:
    """The line under which every figure of this server stands."""
    if server.untrained:
        return (
            f"Measured against {server.model}: random weights in that model's exact architecture. Times, throughput and memory "
            "are what the architecture costs; what it answers means nothing, and no answer is judged."
        )
    if not server.embedded:
        return f"Measured against {server.model}."
    return (
        f"Measured against {server.model}, the small model that ships with this workbook, on real vLLM. "
        "It was trained on drawn pictures and short phrases and knows nothing else. Its speed says how this machine "
        "and this workbook do, not how Qwen3-VL-2B does."
    )
