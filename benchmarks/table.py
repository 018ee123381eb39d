"""Rows of the benchmark -> what is printed and kept."""
import math
from pathlib import Path

import pandas as pd

from benchmarks.errors import WARNING_SHARE

COLUMNS = {  # of a row -> head, decimals
    "tokens_per_s": ("tokens/s", 0), "of_raw_pct": ("of raw, %", 0), "reported_tokens_per_s": ("it reports", 0),
    "ttft_error_ms": ("TTFT error, ms", 2), "ttft_error_p99_ms": ("TTFT p99, ms", 2), "tpot_error_pct": ("TPOT error, %", 2),
    "itl_error_pct": ("ITL error, %", 2), "itl_error_p99_pct": ("ITL p99, %", 2), "cpu_s": ("CPU, s", 1),
    "cpu_us_per_token": ("µs/token", 1), "peak_mib": ("memory, MiB", 0), "failed": ("failed", 0),
}
FIDELITY = {"true_tpot_ms": ("true TPOT, ms", 3), **{f"steady_{name}": COLUMNS[name] for name in (
    "tpot_error_pct", "itl_error_pct", "itl_error_p99_pct", "ttft_error_ms", "ttft_error_p99_ms")}}
LIMITS = {"steady_tpot_error_pct": 1, "steady_itl_error_pct": 2, "steady_itl_error_p99_pct": 10,
          "steady_ttft_error_ms": 2, "steady_ttft_error_p99_ms": 15}  # at 128 streams; half of it at 32
FIDELITY_STREAMS = {32: 0.5, 128: 1.0}

LEGEND = """tokens/s: what the metronome sent to that client while all its streams were busy; of raw: over what it sent to
the raw reader. Errors: the tool's figure minus the truth of the same run, over all requests; medians, and p99 beside
them (a dash: too few samples). TPOT is (last − first) / (n − 1) for all. CPU: all processes of the client, start and
evaluation included; µs/token: while all streams were busy. Memory: its processes' resident memory added up, peak."""


def with_shares(rows: list[dict]) -> pd.DataFrame:
    """The rows as a frame, each with its share of the raw reader's tokens/s at as many streams."""
    frame = pd.DataFrame(rows)
    raw = frame[frame["client"] == "raw"].set_index("streams")
    frame["of_raw_pct"] = frame["tokens_per_s"] / frame["streams"].map(raw["tokens_per_s"]) * 100
    frame["cpu_of_raw"] = frame["cpu_us_per_token"] / frame["streams"].map(raw["cpu_us_per_token"])
    return frame


def text(frame: pd.DataFrame, notes: list[str]) -> str:
    """Markdown: the table, the fidelity table, what was reached, what was skipped."""
    parts = []
    main = frame[~frame["streams"].isin(FIDELITY_STREAMS) & frame["seconds"].isna()]
    if len(main):
        parts += ["## Capacity and accuracy", _table(main, COLUMNS), LEGEND]
    fidelity = frame[frame["streams"].isin(FIDELITY_STREAMS)]
    if len(fidelity):
        parts += ["## Fidelity in the steady window", _table(fidelity, FIDELITY, {"within the targets": _targets}),
                  "The tool's figure minus the truth, over the requests that were sent and answered while all streams were "
                  f"busy. Targets for this client at 128 streams, half of them at 32: {_limits()}."]
    if busy := _busy(frame):
        parts.append(busy)
    return "\n\n".join(parts + ["\n".join(f"- {note}" for note in notes)]) + "\n"


def _busy(frame: pd.DataFrame) -> str:
    disturbed = frame[frame["others_share"] > WARNING_SHARE]
    return "" if disturbed.empty else (
        f"\\* Other programs took more than {WARNING_SHARE:.0%} of the client's or the metronome's processor "
        f"(up to {disturbed['others_share'].max():.0%}): that row is worth less.")


def _name(column: str) -> str:
    return FIDELITY[column][0].split(",")[0].removesuffix(" error")


def _targets(row: pd.Series) -> str:
    """Which of LIMITS a row misses, or could not show for want of samples."""
    missed = [_name(column) for column, limit in LIMITS.items()
              if not abs(row[column]) <= limit * FIDELITY_STREAMS[row["streams"]]]
    return "all" if not missed else "not " + ", ".join(missed)


def _limits() -> str:
    return ", ".join(f"{_name(column)} {limit} {'ms' if column.endswith('ms') else '%'}" for column, limit in LIMITS.items())


def reached(frame: pd.DataFrame) -> list[str]:
    """What this client reached at 256 streams, beside what it is to reach."""
    two = frame[frame["client"].isin(("raw", "ours")) & (frame["streams"] == 256)]
    doubt = " (disturbed, see \\*: to be run again)" if (two["others_share"] > WARNING_SHARE).any() else ""
    ours = two[(two["client"] == "ours") & two["of_raw_pct"].notna()]
    return [f"256 streams: this client in one process reads {row.of_raw_pct:.0f} % of the tokens/s that the raw reader does "
            f"(to reach: 90), at {row.cpu_of_raw:.1f} times its CPU per token (at most: 3){doubt}" for row in ours.itertuples()]


def never_reached(frame: pd.DataFrame) -> list[str]:
    """Clients that were too slow to keep as many requests in flight as they were told."""
    short = frame[frame["most_in_flight"] < 0.95 * frame["streams"]]
    return [f"{row.streams:,} streams: {row.title} never had more than {row.most_in_flight:,} in flight" for row in short.itertuples()]


def number(value, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if math.isfinite(value) else "–"


def _table(frame: pd.DataFrame, columns: dict, more: dict | None = None) -> str:
    """columns: of the frame -> head, decimals. more: further heads -> function of a row."""
    more = more or {}
    lines = [["streams", "step, ms", "client", *(head for head, _ in columns.values()), *more]]
    for _, row in frame.iterrows():
        mark = " \\*" if row["others_share"] > WARNING_SHARE else ""
        lines.append([f"{row['streams']:,}", f"{row['step_ms']:g}", row["title"] + mark,
                      *(number(row[name], decimals) for name, (_, decimals) in columns.items()),
                      *(words(row) for words in more.values())])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    left = {2, *range(3 + len(columns), len(widths))}
    rule = "|" + "|".join("-" * (w + 2) if i in left else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    aligned = ["| " + " | ".join(cell.ljust(w) if i in left else cell.rjust(w)
                                 for i, (cell, w) in enumerate(zip(line, widths))) + " |" for line in lines]
    return "\n".join([aligned[0], rule, *aligned[1:]])


def keep(folder: Path, frame: pd.DataFrame, markdown: str) -> None:
    frame.to_csv(folder / "table.csv", index=False)
    (folder / "table.md").write_text(markdown)
