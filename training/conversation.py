"""One conversation on its way to token ids: what the model reads, what it is judged by, and where each token stands."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image


@dataclass
class Conversation:
    """Token ids under construction, with a loss weight a token and the pictures in order."""
    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)  # which answer a token belongs to, -1 for none
    positions: list[tuple[int, int, int]] = field(default_factory=list)  # temporal, height, width
    pictures: list[Image.Image] = field(default_factory=list)
    asks: list[str] = field(default_factory=list)  # name of each answer
    next_position: int = 0
    turns: int = 1  # exchanges, and whether text follows the last: the same for a whole batch, which saves padding
    goes_on: bool = False

    def add(self, ids: list[int], weight: float = 0.0, group: int = -1) -> None:
        self.ids += ids
        self.weights += [weight] * len(ids)
        self.groups += [group] * len(ids)
        self.positions += [(p, p, p) for p in range(self.next_position, self.next_position + len(ids))]
        self.next_position += len(ids)

    def add_picture(self, image: Image.Image, pad: int) -> None:
        """Picture tokens, row by row; text after them goes on from the longer side, as Qwen3-VL counts positions."""
        wide, high = image.width // 32, image.height // 32
        self.ids += [pad] * (wide * high)
        self.weights += [0.0] * (wide * high)
        self.groups += [-1] * (wide * high)
        start = self.next_position
        self.positions += [(start, start + row, start + column) for row in range(high) for column in range(wide)]
        self.next_position += max(wide, high)
        self.pictures.append(image)
