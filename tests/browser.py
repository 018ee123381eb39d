"""What runs in JupyterLab under a real browser, where there is one."""
import shutil

from lib import catalog

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
RUN = "test-in-lab"
COMPARED = (f"{RUN}-a", f"{RUN}-b")  # the runs that 10 holds against each other
SMALL = {name: catalog.load_profile("tiny") for name in catalog.all_notebooks()} | {"10_compare": {"runs": list(COMPARED)}, "desk": {"seconds": 2.0}}
