"""Which pictures of a stream look the same: noise does, something small that comes in does not."""

import io
import random

import pytest
from PIL import Image as Pillow
from PIL import ImageDraw

from mlx_websockets.events import EncodedImage
from mlx_websockets.generation import Image
from mlx_websockets.images import open_image
from mlx_websockets.likeness import difference, view_of

THRESHOLD = 0.03
"""What `mlx watch --only-changes` takes."""

WIDTH, HEIGHT = 640, 360


def room(*, brighter: int = 0, noise: float = 0.0, quality: int = 85, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image:
    """What a camera sees of a room: shades from the left to the right, as a JPEG file would have it."""
    picture = Pillow.linear_gradient("L").rotate(90).resize(size).point(lambda value: value // 2 + 50 + brighter)
    if noise:
        grain = Pillow.effect_noise(size, noise)
        picture = Pillow.blend(picture, Pillow.composite(grain, picture, Pillow.new("L", size, 255)), 0.5)
    return opened(picture.convert("RGB"), quality)


def room_with(box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> Image:
    picture = Pillow.frombytes("RGB", (WIDTH, HEIGHT), room().pixels)
    ImageDraw.Draw(picture).rectangle(box, fill=colour)
    return opened(picture)


def opened(picture: Pillow.Image, quality: int = 85) -> Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return open_image(EncodedImage(file.getvalue()))


def test_a_picture_does_not_differ_from_itself() -> None:
    assert difference(view_of(room()), view_of(room())) == 0


@pytest.mark.parametrize("now", [{"quality": 40}, {"brighter": 3}])
def test_compression_and_a_lamp_that_flickers_are_no_change(now: dict[str, int]) -> None:
    assert difference(view_of(room()), view_of(room(**now))) < THRESHOLD


def test_a_cameras_noise_is_no_change_from_one_frame_to_the_next() -> None:
    first, second = view_of(room(noise=25)), view_of(room(noise=25))

    assert first != second
    assert difference(first, second) < THRESHOLD


@pytest.mark.parametrize("at", [random.Random(number).randrange(WIDTH - 20) for number in range(8)])
def test_something_a_thirtieth_of_the_picture_wide_is_a_change_wherever_it_comes_in(at: int) -> None:
    now = room_with((at, 100, at + 20, 120), (200, 40, 40))

    assert difference(view_of(room()), view_of(now)) > THRESHOLD


def test_a_light_that_turns_from_red_to_green_is_a_change_though_it_is_as_bright() -> None:
    red, green = (((300, 100, 340, 140), colour) for colour in ((180, 60, 60), (60, 121, 60)))

    assert difference(view_of(room_with(*red)), view_of(room_with(*green))) > THRESHOLD


def test_a_picture_of_another_size_is_as_different_as_can_be() -> None:
    assert difference(view_of(room()), view_of(room(size=(360, 640)))) == 1.0
