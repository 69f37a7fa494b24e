"""What an image processor made of the same pictures is not made again, and nothing else is taken for it."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import mlx_vlm
import numpy as np
import PIL.Image
import pytest

from mlx_websockets.engine.worker.prompting.pictures import fingerprint
from mlx_websockets.engine.worker.prompting.processing import RememberingImageProcessor, opened, with_memory
from mlx_websockets.generation import Image

BYTES = 4 * 3 * 4  # of one picture below


class Counting:
    """An image processor that counts its pictures."""

    patch_size = 14

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()

    def __call__(self, images: list[PIL.Image.Image], **options: Any) -> dict[str, Any]:
        self.calls[len(images)] += 1
        return {"pixel_values": [np.asarray(each, np.float32) for each in images], "num_crops": [0]}


def picture(shade: int) -> PIL.Image.Image:
    image = Image(2, 2, bytes([shade]) * 12)
    return opened(image, fingerprint(image))


def test_the_same_pictures_are_processed_once():
    inner = Counting()
    remembering = RememberingImageProcessor(inner, 10 * BYTES)

    made = [remembering([picture(1), picture(2)], do_resize=True) for _ in range(3)]

    assert inner.calls == {2: 1}
    assert all(np.array_equal(each["pixel_values"], made[0]["pixel_values"]) for each in made)


@pytest.mark.parametrize(("shades", "options"), [([2, 1], {}), ([1], {}), ([1, 2], {"do_resize": False})])
def test_another_order_number_or_option_is_processed_anew(shades: list[int], options: dict[str, Any]):
    inner = Counting()
    remembering = RememberingImageProcessor(inner, 10 * BYTES)
    remembering([picture(1), picture(2)])

    remembering([picture(shade) for shade in shades], **options)

    assert inner.calls.total() == 2


def test_what_a_processor_does_to_a_result_is_not_seen_by_the_next():
    remembering = RememberingImageProcessor(Counting(), 10 * BYTES)

    for _ in range(3):
        made = remembering([picture(1)])

        assert made.pop("num_crops") == [0]
        assert made["pixel_values"][0].max() == 1
        made["pixel_values"][0] *= 2


def test_a_picture_of_unknown_origin_is_not_remembered():
    inner = Counting()
    remembering = RememberingImageProcessor(inner, 10 * BYTES)

    for _ in range(2):
        remembering([picture(1), PIL.Image.new("RGB", (2, 2))])

    assert (inner.calls, remembering.nbytes) == ({2: 2}, 0)


def test_what_was_used_longest_ago_makes_room_and_all_is_given_back():
    inner = Counting()
    remembering = RememberingImageProcessor(inner, 2 * BYTES)
    for shade in (1, 2, 1, 3):
        remembering([picture(shade)])

    kept = remembering.nbytes
    remembering([picture(1)])
    remembering([picture(2)])
    remembering.clear()

    assert inner.calls == {1: 4}
    assert (kept, remembering.nbytes) == (2 * BYTES, 0)


def test_what_is_larger_than_the_bound_is_not_kept():
    remembering = RememberingImageProcessor(Counting(), BYTES)

    remembering([picture(1), picture(2)])

    assert remembering.nbytes == 0


def test_anything_else_is_asked_of_the_one_whose_place_is_taken():
    remembering = RememberingImageProcessor(Counting(), BYTES)

    assert remembering.patch_size == copy.deepcopy(remembering).patch_size == 14


@pytest.mark.parametrize("folder", ["demo_model", "tiny_gemma3"])
def test_a_real_processor_gets_one_and_one_only(folder: str, request: pytest.FixtureRequest):
    path: Path = request.getfixturevalue(folder)
    processor: Any = mlx_vlm.load(str(path))[1]
    inner = processor.image_processor

    first, second = with_memory(processor, BYTES), with_memory(processor, BYTES)

    assert isinstance(first, RememberingImageProcessor)
    assert processor.image_processor is second
    assert second._inner is inner


def test_a_processor_without_pictures_is_left_alone():
    assert with_memory(object(), BYTES) is None
