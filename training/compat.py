"""Lets transformers import on a machine whose torchvision or torchaudio was built for another torch.

Import this before transformers. The picture processor needs torchvision's Python part only, and nothing
here needs torchaudio; on a machine where both load, this changes nothing.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types

import torch

_LIBRARIES = []  # a torch.library.Library undoes its definitions when it is collected


def mend() -> None:
    """Define torchvision's two missing operator schemas, and stand in for a torchaudio that cannot load."""
    try:
        import torchvision  # noqa: F401
    except (RuntimeError, OSError):
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)
    except ImportError:
        pass
    try:
        import torchaudio  # noqa: F401
    except (RuntimeError, OSError):
        for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        stand_in = types.ModuleType("torchaudio")
        stand_in.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = stand_in
    except ImportError:
        pass


mend()
