"""How much two pictures of a stream differ, told in a moment.

Each is kept as a thumbnail, cut into small blocks. The most changed block counts, not the mean of
all: a camera's noise averages out within a block, while somebody who walks in fills a few of them.
Slow: call it in a thread. Nothing here knows of sources, sessions or models.
"""

from dataclasses import dataclass, field

from PIL import Image as Pillow
from PIL import ImageChops

from mlx_websockets.generation import Image

SIDE = 64
"""Of a thumbnail, in pixels; its pictures are squeezed into a square."""

BLOCKS = 16
"""Blocks along each side: an object of a sixteenth of the picture's width fills one."""


@dataclass(frozen=True, slots=True)
class View:
    """What a picture looked like: its `size` in pixels, and `SIDE * SIDE * 3` bytes of RGB."""

    size: tuple[int, int]
    pixels: bytes = field(repr=False)


def view_of(image: Image) -> View:
    """The picture, small enough to be kept."""
    size = (image.width, image.height)
    small = Pillow.frombytes("RGB", size, image.pixels).resize((SIDE, SIDE), Pillow.Resampling.BOX)
    return View(size, small.tobytes())


def difference(before: View, now: View) -> float:
    """From 0 (the same) to 1: how far the most changed block's mean colour distance goes, in its most changed channel.

    Pictures of different sizes are as different as can be.
    """
    if before.size != now.size:
        return 1.0
    apart = ImageChops.difference(_thumbnail(before), _thumbnail(now))
    blocks = apart.resize((BLOCKS, BLOCKS), Pillow.Resampling.BOX)
    return max(most for _, most in blocks.getextrema()) / 255  # type: ignore[misc]


def _thumbnail(view: View) -> Pillow.Image:
    return Pillow.frombytes("RGB", (SIDE, SIDE), view.pixels)
