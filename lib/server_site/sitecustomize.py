"""Runs at the start of every Python process of a vLLM server that this workbook starts.

`lib.server` puts this folder on the server's PYTHONPATH. It mends one thing: the published wheels of
torchvision, torchaudio and torchcodec are CUDA builds, and beside a CPU build of torch their libraries
cannot be loaded. Where they load, nothing is changed.

- `import torchvision` then fails because the schemas of `nms` and `qnms` are unknown. Qwen3-VL's image
  processor uses torchvision's Python part only, so the schemas are declared, without an implementation.
- torchaudio and torchcodec serve sound and film, which no notebook sends. They are made to look absent.
"""
import importlib.abc
import importlib.machinery
import importlib.metadata
import pathlib
import sys

_kept = []  # a torch Library undoes its declarations when it is collected


class _DeclareMissingOperators(importlib.abc.MetaPathFinder):
    """Steps in once, just before torchvision is first imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            _declare_if_missing(spec.submodule_search_locations[0])
        return spec


def _declare_if_missing(torchvision_folder):
    import torch

    found = importlib.machinery.PathFinder.find_spec("_C", [torchvision_folder])
    try:
        if found is not None:
            torch.ops.load_library(found.origin)
            return
    except OSError:
        pass  # a CUDA build beside a CPU torch: its libraries are not there
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


def _hide_unusable(*packages):
    torch = importlib.machinery.PathFinder.find_spec("torch")
    if torch is None or (pathlib.Path(torch.origin).parent / "lib/libc10_cuda.so").exists():
        return
    for package in packages:
        try:
            if "+cpu" not in importlib.metadata.version(package):
                sys.modules[package] = None  # `import` and `find_spec` now say that it is not there
        except importlib.metadata.PackageNotFoundError:
            pass


_hide_unusable("torchaudio", "torchcodec")
sys.meta_path.insert(0, _DeclareMissingOperators())
