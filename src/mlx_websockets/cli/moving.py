"""Moving pictures to show to a model: drawn scenes, a video file, a camera, the screen.

Each is an asynchronous iterable of `Shot`. What blocks is done in a thread, a picture at a
time, so that Ctrl-C never waits for more than one.
"""

import asyncio
import contextlib
import itertools
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mlx_websockets.errors import StartError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

LONGEST_SIDE = 1024
"""Pixels; a server would make it smaller still."""

Color = tuple[int, int, int]

SCENE_SECONDS = 4.0
SIDE = 320
COLORS = {"red": (220, 30, 30), "blue": (30, 60, 220), "green": (20, 150, 60), "yellow": (240, 200, 20)}
SHAPES = ("circle", "square", "triangle")
CHARACTERS = "3A7K5E"
CHARACTER_HEIGHT = 190


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a stream.

    Attributes:
        taken_at: seconds since 1970.
        position: seconds into the video, if it is one.
    """

    image: "Image"
    taken_at: float
    position: float | None = None


class Capture(Protocol):
    """What we need of `cv2.VideoCapture`."""

    def isOpened(self) -> bool: ...  # noqa: N802
    def grab(self) -> bool: ...
    def retrieve(self) -> tuple[bool, Any]: ...
    def get(self, property: int) -> float: ...
    def release(self) -> None: ...


# --- what is drawn ----------------------------------------------------------------------


async def drawn(every: float) -> AsyncIterator[Shot]:
    """Shapes, digits and letters that move; another one every few seconds."""
    begun = time.monotonic()
    async for _ in _ticks(every):
        yield Shot(scene(time.monotonic() - begun), time.time())


def scene(seconds: float) -> "Image":
    """What the drawn film shows at a time: shapes, and a digit or a letter after every second one."""
    from PIL import Image, ImageDraw

    number = int(seconds / SCENE_SECONDS)
    color = list(COLORS.values())[number % len(COLORS)]
    center = SIDE / 2 + SIDE / 6 * math.sin(seconds)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    round_, place = divmod(number, 3)
    if place == 2:
        _draw_character(draw, CHARACTERS[round_ % len(CHARACTERS)], center, color)
    else:
        _draw_shape(draw, SHAPES[(2 * round_ + place) % len(SHAPES)], center, color)
    return image


def _draw_shape(draw: "ImageDraw", shape: str, center: float, color: Color) -> None:
    left, top, right, bottom = center - 60, SIDE / 2 - 60, center + 60, SIDE / 2 + 60
    if shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=color)
    elif shape == "square":
        draw.rectangle((left, top, right, bottom), fill=color)
    else:
        draw.polygon([(left, bottom), (right, bottom), (center, top)], fill=color)


def _draw_character(draw: "ImageDraw", character: str, center: float, color: Color) -> None:
    from PIL import ImageFont

    draw.text((center, SIDE / 2), character, color, ImageFont.load_default(CHARACTER_HEIGHT), anchor="mm")


# --- what is there ----------------------------------------------------------------------


async def screen(every: float) -> AsyncIterator[Shot]:
    """What the screen shows.

    Raises:
        StartError: it can't be seen.
    """
    async for _ in _ticks(every):
        yield Shot(await asyncio.to_thread(_screenshot), time.time())


async def camera(number: int, every: float) -> AsyncIterator[Shot]:
    """What a camera sees.

    Raises:
        StartError: OpenCV is not here, or the camera can't be opened.
    """
    with _opened(number, f"Camera {number} can't be opened.", "Another one: --camera 1") as capture:
        async for shot in latest(capture, every):
            yield shot


async def latest(capture: Capture, every: float) -> AsyncIterator[Shot]:
    """A picture now and then of a source that goes on meanwhile; what it shows in between is not kept."""
    due = time.monotonic()
    while await asyncio.to_thread(capture.grab):
        if time.monotonic() < due:
            continue
        due = max(due + every, time.monotonic())
        if (image := await asyncio.to_thread(_retrieved, capture)) is not None:
            yield Shot(image, time.time())


async def film(path: str, every: float) -> AsyncIterator[Shot]:
    """A video file, a picture every so many seconds of it, as fast as they are taken.

    Raises:
        StartError: OpenCV is not here, or the file is no video.
    """
    with _opened(path, f"{path} can't be opened as a video.", "Name a video file.") as capture:
        rate = capture.get(_FRAMES_PER_SECOND) or 25.0
        due = 0.0
        for number in itertools.count():
            if not await asyncio.to_thread(capture.grab):
                return
            position = number / rate
            if position + 1e-9 < due:
                continue
            due += every
            if (image := await asyncio.to_thread(_retrieved, capture)) is not None:
                yield Shot(image, time.time(), position)


_FRAMES_PER_SECOND = 5  # cv2.CAP_PROP_FPS


@contextlib.contextmanager
def _opened(source: int | str, reason: str, hint: str) -> Iterator[Capture]:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what goes wrong, we say
    try:
        import cv2
    except ImportError as error:
        raise StartError(
            f"OpenCV is not here, which opens cameras and videos ({error}).", "pip install opencv-python"
        ) from None
    capture = cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            raise UsageError(reason, hint)
        yield capture
    finally:
        capture.release()


def _retrieved(capture: Capture) -> "Image | None":
    from PIL import Image

    is_there, pixels = capture.retrieve()
    return _small(Image.fromarray(pixels[:, :, ::-1])) if is_there else None  # OpenCV has blue first


def _screenshot() -> "Image":
    from PIL import ImageGrab

    try:
        return _small(ImageGrab.grab())
    except (OSError, ImportError) as error:
        raise StartError(
            f"The screen can't be seen: {str(error).rstrip('.')}.",
            "On Linux that needs X11, or gnome-screenshot; on a Mac, the terminal needs leave to record the screen.",
        ) from None


def _small(image: "Image") -> "Image":
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image


async def _ticks(every: float) -> AsyncIterator[None]:
    """Now, and then every so many seconds; one that is late makes none of the next ones come early."""
    while True:
        due = time.monotonic() + every
        yield
        await asyncio.sleep(max(0.0, due - time.monotonic()))


Open = Callable[[float], AsyncIterator[Shot]]
"""Begins a stream of a picture every so many seconds."""
