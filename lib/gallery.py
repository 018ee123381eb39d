"""Pictures beside what was asked and what was answered."""
from html import escape

from IPython.display import HTML

from lib import images
from lib.probes import Probe

SIDE = 448  # pixels; a larger picture is shown smaller, so that a page holds many
ROW = "display:flex; gap:1em; align-items:center; border-bottom:1px solid #8884; padding:.6em 0"


def show(probes: list[Probe], rows: list[dict]) -> HTML:
    """One line per probe: its pictures, the question, the reply, the right answer, and whether they agree.

    `rows`: of lib.probes.judged, in the same order. Whatever a server replied is shown as plain text.
    """
    return HTML("".join(_line(probe, row) for probe, row in zip(probes, rows)))


def _line(probe: Probe, row: dict) -> str:
    earlier = " → ".join(m["content"] if isinstance(m["content"], str) else m["content"][-1]["text"] for m in probe.messages)
    pictures = "".join(f'<img src="{small(p)}" alt="{escape(probe.kind)}" style="height:7em">' for p in probe.pictures)
    reply = row["message"] if row["error"] else row["reply"]
    mark = "✓ right" if row["correct"] else f"✗ expected: {escape(probe.answer)}"
    return (f'<div style="{ROW}"><div>{pictures}</div><div><div>{escape(earlier)}</div>'
            f'<div><b>{escape(reply or "(no reply)")}</b></div><div><small>{escape(probe.kind)} · {mark}</small></div></div></div>')


def small(picture: images.Picture) -> str:
    """A data URL of what fits into a page."""
    if max(picture.size) <= SIDE:
        return images.data_url(picture)
    small = picture.image.copy()
    small.thumbnail((SIDE, SIDE))
    return images.data_url(images.Picture(picture.kind, picture.seed, small, picture.facts, "jpeg"))
