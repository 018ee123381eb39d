"""The two ways to an environment name the same packages, and failing to make one says why."""
import os
import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from lib import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALL = ROOT / "scripts" / "install.sh"


def test_conda_and_pip_name_the_same_pins():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(d["pip"] for d in conda if isinstance(d, dict))
    extras = PROJECT["optional-dependencies"]
    assert sorted(pip) == sorted(["-e .", *PROJECT["dependencies"], *extras["gpu"], *extras["test"]])


def test_every_dependency_is_pinned():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    assert [d for group in groups for d in group if not re.fullmatch(r"[\w-]+==[\w.]+", d)] == []


def test_cpu_and_gpu_run_the_same_vllm():
    extras = PROJECT["optional-dependencies"]
    assert extras["cpu"][0].split("==")[1] == extras["gpu"][0].split("==")[1]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_lock_holds_every_pin_with_hashes_for_each_python(kind):
    text = (ROOT / "requirements" / f"{kind}.lock").read_text()
    entries = [Requirement(" ".join(e.split(" \\\n")[0].split())) for e in re.split(r"\n(?=\w)", text.strip())]
    assert all("--hash=sha256:" in e for e in re.split(r"\n(?=\w)", text.strip())) and "://" not in text
    extras = PROJECT["optional-dependencies"]
    elsewhere = {"torch", "torchvision"} if kind == "cpu" else set()
    for pin in map(Requirement, [*PROJECT["dependencies"], *extras[kind], *extras["test"]]):
        for python in ("3.11", "3.12", "3.13", "3.14"):
            here = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux", "platform_machine": "x86_64"}
            found = [e.specifier for e in entries if e.name == pin.name and (e.marker is None or e.marker.evaluate(here))]
            assert found == ([] if pin.name in elsewhere else [pin.specifier]), f"{pin}, Python {python}: run `make lock`"


def install(tmp_path, stand_ins: dict, **env) -> str:
    """Runs the install script with `stand_ins` (command -> shell line) in front of the PATH; it must fail."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, line in stand_ins.items():
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    done = subprocess.run([INSTALL, tmp_path / "venv", "cpu"], capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"} | env)
    assert done.returncode != 0
    errors = done.stderr.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: "), done.stderr
    return errors[0]


@pytest.mark.parametrize("stand_in, words", [
    ("exit 1", "Python 3.11 to 3.14 is needed"),
    ("exit 127", "Python 3.11 to 3.14 is needed"),
])
def test_no_usable_python_is_told(tmp_path, stand_in, words):
    (tmp_path / "old-python").write_text(f"#!/bin/sh\n{stand_in}\n")
    (tmp_path / "old-python").chmod(0o755)
    assert words in install(tmp_path, {}, PYTHON=str(tmp_path / "old-python"))


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path):
    line = install(tmp_path, {"df": "echo head; echo disk 100 99 1024 99% /"})
    assert "6 GB of disk" in line and not (tmp_path / "venv").exists()


def test_an_unreachable_network_is_told(tmp_path):
    line = install(tmp_path, {}, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_EXTRA_INDEX_URL="", PIP_FIND_LINKS="",
                   PIP_RETRIES="0", PIP_CONFIG_FILE=os.devnull)
    assert "is the network up?" in line and "install.log" in line
