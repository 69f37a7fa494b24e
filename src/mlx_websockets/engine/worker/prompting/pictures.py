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


def prompt_keys(
    tokens: Sequence[int], image_ids: set[int], pictures: Sequence[bytes], places: Sequence[int] | None = None
) -> list[int]:
    """One number for each token of a prompt: prompts can share what was computed as far as these agree.

    Args:
        tokens: the prompt, the places of its pictures included.
        image_ids: the tokens that are places of pictures.
        pictures: the fingerprints of the pictures, in the order of the prompt.
        places: how many places each picture has. None: not known; then an unbroken row of places
            is taken for a picture, if there are as many as pictures.

    Returns:
        A text token's own id; for a picture's place a negative number of 62 bits, made of the
        picture and of the place within it. Where it can't be told which place is whose, each
        place stands for all of the pictures; where there are no places, the first token does.
    """
    keys = list(tokens)
    if not pictures:
        return keys
    theirs = [index for index, token in enumerate(tokens) if token in image_ids]
    if not theirs:
        keys[0] = _key(_joint(pictures), keys[0])
        return keys
    if places is None or sum(places) != len(theirs):
        places = _stretches(tokens, image_ids)
    if len(places) != len(pictures):
        pictures, places = [_joint(pictures)], [len(theirs)]
    rest = iter(theirs)
    for picture, count in zip(pictures, places, strict=True):
        for number in range(count):
            keys[next(rest)] = _key(picture, number)
    return keys


def _stretches(tokens: Sequence[int], image_ids: set[int]) -> list[int]:
    """The lengths of the unbroken rows of places."""
    groups = groupby(tokens, key=image_ids.__contains__)
    return [sum(1 for _ in group) for is_place, group in groups if is_place]


def _joint(pictures: Sequence[bytes]) -> bytes:
    return pictures[0] if len(pictures) == 1 else hmac.digest(_SECRET, b"".join(pictures), "sha256")


def _key(picture: bytes, number: int) -> int:
    mixed = int.from_bytes(picture[:8], "big") + number * _PLACE_STEP
    return -1 - (mixed & _KEY_MASK)
