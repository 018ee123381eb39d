"""A virtual environment of its own for each of the others, made on first use."""
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Unavailable, last_words
from lib import ROOT

FOLDER = ROOT / "benchmarks" / ".envs"


def python_of(name: str, requirements: tuple) -> Path:
    """The interpreter of environment `name`, which holds `requirements`. Raises Unavailable.

    What pip chose for the requirements' own requirements stands in its versions.txt.
    """
    folder = FOLDER / name
    python, done, log = folder / "bin" / "python", folder / "versions.txt", FOLDER / f"{name}.log"
    if python.exists() and done.exists() and done.read_text().splitlines()[0] == _wanted(requirements):
        return python
    print(f"making the environment of {name} ({', '.join(requirements)}); this takes a minute or two, once", flush=True)
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            _call([sys.executable, "-m", "venv", "--clear", folder], output)
            if "torch" in requirements:
                _cpu_torch(python, output)
            _pip(python, [word for word in requirements if word != "torch"], output)
            versions = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True).stdout
        done.write_text(f"{_wanted(requirements)}\n{versions}")
    except OSError as error:
        raise Unavailable(f"no environment could be made ({error.strerror})")
    except subprocess.CalledProcessError:
        raise Unavailable(f"it could not be installed ({last_words(log)}): is the network up?")
    return python


def _wanted(requirements: tuple) -> str:
    return "# " + " ".join(requirements)


def _call(command: list, output) -> None:
    subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True,
                   env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})


def _pip(python: Path, words: list, output) -> None:
    _call([python, "-m", "pip", "install", "--quiet", "--retries", "2", *words], output)


def _cpu_torch(python: Path, output) -> None:
    """The workbook's version of torch, CPU build: what is configured for pip is asked first, as in
    scripts/install.sh, else uv knows where it lies."""
    pin = re.search(r'"(torch==[^"]+)"', (ROOT / "pyproject.toml").read_text())[1]
    try:
        _pip(python, [f"{pin}+cpu"], output)
    except subprocess.CalledProcessError:
        _pip(python, ["uv"], output)
        uv = [python.with_name("uv"), "pip", "install", "--quiet", "--python", python]
        _call([*uv, "--torch-backend", "cpu", pin], output)
