"""Pictures that no server has seen: what a multimodal cache could give is then in no figure by accident."""
import random
from dataclasses import replace

from lib.images import Picture

CORNER = 8  # pixels a side that are changed


def unseen(picture: Picture, key: str) -> Picture:
    """A copy whose last corner differs a little in colour; the same key gives the same copy."""
    image, (width, height) = picture.image.copy(), picture.size
    rng = random.Random(f"{key}/{picture.name}")
    at = width - CORNER, height - CORNER
    color = tuple(min(255, max(0, c + rng.randint(-12, 12))) for c in image.getpixel(at))
    image.paste(color, (*at, width, height))
    return replace(picture, image=image)
