"""A run for outputs/published, where a code host shows it: python scripts/publish_run.py RUN NAME

Report, executed notebooks, plots, figures and both drafts as they are, all records in one archive; no pages and no logs of servers.
The report is made anew, so that it leads to the notebooks that lie beside it. Refused: what would be 20 MB or more.
"""
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from lib import OUTPUTS, errors, publish, report, rundir

PARTS = ("calibration.json", "draft", "figures.json", "notebooks", "plots", "plots.json", "report.html", "roofline.json", "run.json", "server.json",
         "tuning.json")
RECORDS, ARCHIVE = ("requests", "series.json"), "requests.tar.xz"  # the former are in the latter
LARGEST = 20e6  # bytes


def main(name: str, to: str) -> Path:
    run = rundir.find(name)
    if (OUTPUTS / to).exists():
        raise errors.UserError(f"outputs/{to} exists: choose another name, or move it away")
    copy = rundir.RunDir(to)  # a run like any other until it is packed
    try:
        shutil.copytree(run.path, copy.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("html", "draft", "aside", "tuning", "*.log"))
        report.build(copy, ARCHIVE)
        for lang in ("en", "zh"):
            publish.publish(copy.name, lang)
        return _packed(copy.path, OUTPUTS / "published" / to)
    finally:
        shutil.rmtree(copy.path)


def _packed(made: Path, place: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=OUTPUTS) as folder:
        whole = Path(folder) / place.name
        whole.mkdir()
        for part in PARTS:
            if (made / part).exists():
                (made / part).rename(whole / part)
        with tarfile.open(whole / ARCHIVE, "w:xz", preset=9) as archive:
            for part in RECORDS:
                archive.add(made / part, part)
        size = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())
        if size >= LARGEST:
            raise errors.UserError(f"{place.name} would take {size / 1e6:.1f} MB, and {LARGEST / 1e6:.0f} are the most: run with fewer levels or seconds")
        shutil.rmtree(place, ignore_errors=True)
        shutil.move(whole, place)
    return place


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/publish_run.py RUN NAME")
    try:
        print(main(*sys.argv[1:]))
    except errors.UserError as error:
        sys.exit(f"error: {error}")
