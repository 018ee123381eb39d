"""Pictures beside what was asked and what was answered."""
import json
from html import escape

from IPython.display import HTML
from markupsafe import Markup

from lib import images, probes
from lib.foreign import fit
from lib.probes import Probe
from lib.rundir import RunDir

SIDE = 448  # pixels; a larger picture is shown smaller, so that a page holds many
ROW = "display:flex; gap:1em; align-items:center; border-bottom:1px solid #8884; padding:.6em 0"
REPLY = "unicode-bidi:isolate; overflow-wrap:anywhere; white-space:pre-wrap"
SHOWN, SAID = 8, 600  # in a report: questions, and characters of a reply


def show(probes: list[Probe], rows: list[dict]) -> HTML:
    """One line per probe: its pictures, the question, the reply, the right answer, and whether they agree.

    `rows`: of lib.probes.judged, in the same order. Whatever a server replied is shown as plain text.
    """
    return HTML("".join(_line(probe, row) for probe, row in zip(probes, rows)))


def _line(probe: Probe, row: dict) -> str:
    earlier = " → ".join(m["content"] if isinstance(m["content"], str) else m["content"][-1]["text"] for m in probe.messages)
    pictures = "".join(f'<img src="{small(p)}" alt="{escape(probe.kind)}" style="height:7em">' for p in probe.pictures)
    reply = fit((row["message"] if row["error"] else row["reply"]) or "") or "(no reply)"
    mark = "✓ right" if row["correct"] else f"✗ expected: {escape(probe.answer)}"
    return (f'<div style="{ROW}"><div style="flex:none; max-width:50%">{pictures}</div><div style="min-width:0"><div>{escape(earlier)}</div>'
            f'<div><b style="{REPLY}">{escape(reply)}</b></div><div><small>{escape(probe.kind)} · {mark}</small></div></div></div>')


def small(picture: images.Picture) -> str:
    """A data URL of what fits into a page."""
    if max(picture.size) <= SIDE:
        return images.data_url(picture)
    small = picture.image.copy()
    small.thumbnail((SIDE, SIDE))
    return images.data_url(images.Picture(picture.kind, picture.seed, small, picture.facts, "jpeg"))


def section(run: RunDir, series: str, most: int = SHOWN) -> list[dict]:
    """For a report: questions of a series of probes with their pictures, drawn again, and the replies; the wrong ones first, then a
    right one of each kind. Rows that are none, of a file that was cut off or changed by hand, are left out."""
    path = run.requests_file(series)
    rows = [row for row in map(_row, path.read_text(encoding="utf-8", errors="replace").splitlines()) if row] if path.exists() else []
    return [{"pictures": [Markup(small(picture)) for picture in probes.redrawn(row)], "question": fit(row["question"], SAID),
             "reply": fit((row.get("message") if row.get("error") else row.get("reply")) or "", SAID) or "(no reply)",
             "expected": fit(row.get("expected") or "–", SAID), "kind": row["kind"], "correct": bool(row.get("correct"))}
            for row in (rows[at] for at in probes.wrong_first(rows, most))]


def _row(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    words = ("question", "reply", "message", "expected", "kind")
    good = isinstance(row, dict) and {"question", "kind"} <= set(row) and all(isinstance(row.get(w), str | None) for w in words)
    return row if good and None not in (row["question"], row["kind"]) else None
