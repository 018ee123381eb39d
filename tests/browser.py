"""What runs in JupyterLab under a real browser, where there is one."""
import shutil

from lib import catalog

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
RUN = "test-in-lab"
COMPARED = (f"{RUN}-a", f"{RUN}-b")  # the runs that 10 holds against each other
# Less than `tiny`, which is also for trying servers that fail: here nothing is asked of a notebook but that each cell runs.
LESS = {"requests": 12, "concurrency": [1, 4], "most_streams": 4, "level_seconds": 1.5, "picture_requests": 2, "endurance_seconds": 3, "think_s": 0.05,
        "tuning_seconds": 2.0, "tuning_streams": 4}
SMALL = {name: catalog.load_profile("tiny") | LESS for name in catalog.all_notebooks()} | {"10_compare": {"runs": list(COMPARED)}, "desk": {"seconds": 2.0}}
