"""What a picture is known by, and where it stands in a prompt. Knows nothing of MLX.

A picture's fingerprint is made of its pixels and of a secret of this process, so that nobody
can look for two pictures that share one. Two prompts have the same keys exactly as far as
their tokens and their pictures are the same; keys never leave the process.
"""

import hmac
import secrets
from collections.abc import Sequence
from itertools import groupby

from mlx_websockets.generation import Image

_SECRET = secrets.token_bytes(32)

_KEY_BITS = 62
_KEY_MASK = (1 << _KEY_BITS) - 1
_PLACE_STEP = 0x9E3779B97F4A7C15 & _KEY_MASK | 1
"""Odd, so that the places of one picture never share a key."""


def fingerprint(image: Image) -> bytes:
    """32 bytes that stand for one picture."""
    # SHA-256 has its own instructions on every machine that runs MLX: three times faster than BLAKE2 here.
    digest = hmac.new(_SECRET, f"{image.width}x{image.height} ".encode(), "sha256")
    digest.update(image.pixels)
    return digest.digest()


def prompt_keys(tokens: Sequence[int], image_ids: set[int], pictures: Sequence[bytes]) -> list[int]:
    """One number for each token of a prompt: prompts can share what was computed as far as these agree.

    Args:
        tokens: the prompt, the places of its pictures included.
        image_ids: the tokens that are places of pictures.
        pictures: the fingerprints of the pictures, in the order of the prompt.

    Returns:
        A text token's own id; for a picture's place a negative number of 62 bits, made of the
        picture and of the place within it. Where it can't be told which place is whose, each
        place stands for all of the pictures; where there are no places, the first token does.
    """
    keys = list(tokens)
    if not pictures:
        return keys
    stretches = _stretches(tokens, image_ids)
    if len(stretches) == len(pictures):
        for stretch, picture in zip(stretches, pictures, strict=True):
            _mark(keys, [stretch], picture)
    elif stretches:
        _mark(keys, stretches, _joint(pictures))
    else:
        keys[0] = _key(_joint(pictures), keys[0])
    return keys


def _stretches(tokens: Sequence[int], image_ids: set[int]) -> list[tuple[int, int]]:
    """Start and end of each unbroken row of places."""
    found, start = [], 0
    for is_place, group in groupby(tokens, key=image_ids.__contains__):
        end = start + sum(1 for _ in group)
        if is_place:
            found.append((start, end))
        start = end
    return found


def _joint(pictures: Sequence[bytes]) -> bytes:
    return pictures[0] if len(pictures) == 1 else hmac.digest(_SECRET, b"".join(pictures), "sha256")


def _mark(keys: list[int], stretches: list[tuple[int, int]], picture: bytes) -> None:
    """Put a picture's keys into its places, counted through all its stretches."""
    places = (place for start, end in stretches for place in range(start, end))
    for number, place in enumerate(places):
        keys[place] = _key(picture, number)


def _key(picture: bytes, number: int) -> int:
    mixed = int.from_bytes(picture[:8], "big") + number * _PLACE_STEP
    return -1 - (mixed & _KEY_MASK)
