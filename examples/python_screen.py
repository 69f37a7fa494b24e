"""What is on the screen? A line every five seconds.

    python examples/python_screen.py [ws://localhost:8765]

Needs Pillow (`pip install pillow`) and, on Linux, X11.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable

from PIL import Image, ImageGrab

from mlx_websockets.client import connect


async def pictures(grab: Callable[[], Image.Image], every_seconds: float) -> AsyncIterator[Image.Image]:
    """The screen, now and then; small, because a model sees no more."""
    while True:
        image = await asyncio.to_thread(grab)
        image.thumbnail((1024, 1024))
        yield image
        await asyncio.sleep(every_seconds)


async def main(url: str, grab: Callable[[], Image.Image] = ImageGrab.grab, every_seconds: float = 5) -> None:
    async with connect(url) as mlx:
        async for seen in mlx.watch("screen", pictures(grab, every_seconds), "Which program is this?"):
            print(seen.text, flush=True)


if __name__ == "__main__":
    asyncio.run(main((*sys.argv, "ws://localhost:8765")[1]))
