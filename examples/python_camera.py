"""What does the camera see? A line for each picture that the model got to look at.

    python examples/python_camera.py [ws://localhost:8765]

Needs OpenCV (`pip install opencv-python`). The client sends the newest picture only, so a
line is about now, however slow the model is.
"""

import asyncio
import sys
from collections.abc import Iterator

import cv2

from mlx_websockets.client import connect


def pictures(camera: cv2.VideoCapture) -> Iterator[bytes]:
    """JPEG files, as fast as the camera gives them."""
    while True:
        is_there, pixels = camera.read()
        if not is_there:
            return
        _, jpeg = cv2.imencode(".jpg", pixels)
        yield jpeg.tobytes()


async def main(url: str, camera: cv2.VideoCapture) -> None:
    async with connect(url) as mlx:
        async for seen in mlx.watch("camera", pictures(camera), "What do you see?", max_tokens=30):
            print(f"{seen.frame_id}: {seen.text}", flush=True)


if __name__ == "__main__":
    asyncio.run(main((*sys.argv, "ws://localhost:8765")[1], cv2.VideoCapture(0)))
