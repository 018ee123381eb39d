"""What runs in JupyterLab under a real browser, where there is one."""
import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
SMALL = {
    "00_setup": {"streams": [8, 32], "seconds": 1.0},
    "01_health_check": {"questions": 2},
    "02_single_request": {"requests": 25, "max_tokens": 8},
    "desk": {"seconds": 2.0},
}
