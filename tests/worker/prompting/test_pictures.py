"""A picture's keys: the same exactly where the picture is the same."""

from mlx_websockets.engine.worker.prompting.pictures import fingerprint, prompt_keys
from mlx_websockets.generation import Image

PLACE, END = 7, 8


def picture(shade: int, width: int = 4, height: int = 2) -> Image:
    return Image(width, height, bytes([shade]) * (width * height * 3))


RED, BLUE = fingerprint(picture(1)), fingerprint(picture(2))


def shared(one: list[int], other: list[int]) -> int:
    """How many keys two prompts begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_a_fingerprint_tells_pixels_and_shapes_apart():
    alike = [fingerprint(picture(1)), fingerprint(picture(1))]
    others = [fingerprint(picture(1, width=2, height=4)), fingerprint(picture(2))]

    assert alike[0] == alike[1]
    assert len({*alike, *others}) == 3


def test_text_is_known_by_its_own_ids():
    assert prompt_keys([1, 2, 3], {PLACE}, []) == [1, 2, 3]


def test_a_picture_s_places_are_negative_and_all_different():
    keys = prompt_keys([1, *[PLACE] * 1000, 2], {PLACE}, [RED])

    assert (keys[0], keys[-1]) == (1, 2)
    assert all(-(2**62) <= key < 0 for key in keys[1:-1])
    assert len(set(keys)) == 1002


def test_two_prompts_share_keys_up_to_the_first_picture_that_differs():
    tokens = [1, PLACE, PLACE, END, PLACE, PLACE, END, 5]

    both, last_differs, first_differs = (
        prompt_keys(tokens, {PLACE}, pictures) for pictures in ([RED, RED], [RED, BLUE], [BLUE, RED])
    )

    assert shared(both, last_differs) == 4
    assert shared(both, first_differs) == 1
    assert both[1:3] == both[4:6]


def test_one_picture_in_several_stretches_is_counted_through():
    keys = prompt_keys([PLACE, PLACE, END, PLACE, PLACE], {PLACE}, [RED])

    assert keys.pop(2) == END
    assert keys == prompt_keys([PLACE] * 4, {PLACE}, [RED])


def test_where_places_cannot_be_told_apart_every_picture_counts_from_the_first_on():
    tokens = [1, PLACE, PLACE, PLACE, PLACE, 5]

    one, other = (prompt_keys(tokens, {PLACE}, pictures) for pictures in ([RED, RED], [RED, BLUE]))

    assert shared(one, other) == 1


def test_pictures_without_places_count_from_the_first_token_on():
    pictured = [prompt_keys([1, 2, 3], {PLACE}, [each]) for each in (RED, RED, BLUE)]

    assert pictured[0] == pictured[1]
    assert shared(pictured[0], pictured[2]) == 0
    assert shared(pictured[0], prompt_keys([9, 2, 3], {PLACE}, [RED])) == 0
