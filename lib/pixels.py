"""Pixels -> tokens: how large Qwen3-VL sees a picture, and how many prompt tokens it becomes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Processor:
    """How a model turns pixels into tokens. The defaults are those published with Qwen3-VL."""
    patch: int = 16
    merge: int = 2
    min_pixels: int = 65_536
    max_pixels: int = 16_777_216

    @classmethod
    def load(cls, model_folder: str | Path) -> Processor:
        """From a model folder's preprocessor_config.json."""
        config = json.loads((Path(model_folder) / "preprocessor_config.json").read_text())
        size = config.get("size", {})
        return cls(config.get("patch_size", 16), config.get("merge_size", 2),
                   size.get("shortest_edge", config.get("min_pixels", cls.min_pixels)),
                   size.get("longest_edge", config.get("max_pixels", cls.max_pixels)))


def resized(width: int, height: int, processor: Processor = Processor()) -> tuple[int, int]:
    """(width, height) at which the model sees a picture: multiples of patch x merge, inside the pixel limits.

    Each side goes to its nearest multiple. Outside the limits both sides are scaled by one factor first, then
    rounded down (too large) or up (too small).
    """
    if max(width, height) > 200 * min(width, height):
        raise ValueError(f"{width}x{height}: one side is more than 200 times the other")
    unit = processor.patch * processor.merge
    wide, high = round(width / unit) * unit, round(height / unit) * unit
    if wide * high > processor.max_pixels:
        factor = math.sqrt(width * height / processor.max_pixels)
        return tuple(max(unit, math.floor(side / factor / unit) * unit) for side in (width, height))
    if wide * high < processor.min_pixels:
        factor = math.sqrt(processor.min_pixels / (width * height))
        return tuple(math.ceil(side * factor / unit) * unit for side in (width, height))
    return wide, high


def tokens(width: int, height: int, processor: Processor = Processor()) -> int:
    """Picture tokens in the prompt: one for each merged patch of the resized picture."""
    wide, high = resized(width, height, processor)
    return (wide // (processor.patch * processor.merge)) * (high // (processor.patch * processor.merge))
