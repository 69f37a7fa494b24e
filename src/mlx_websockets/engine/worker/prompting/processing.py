"""The resizing and scaling of pictures, not done twice for the same ones.

A processor of `transformers` leaves pixels to its image processor. This one stands in its place,
and remembers what was made of the lists of pictures that came last: the pictures of a
conversation come again with each of its turns. Computes nothing with MLX.
"""

import copy
from collections import UserDict
from collections.abc import Mapping
from typing import Any

import PIL.Image
from transformers.image_processing_utils import BaseImageProcessor

from mlx_websockets.engine.worker.prompting.features import MOST_PICTURES
from mlx_websockets.generation import Image
from mlx_websockets.recent import Recent

_FINGERPRINT = "fingerprint"


def opened(image: Image, fingerprint: bytes) -> PIL.Image.Image:
    """The picture as processors take it, known by its fingerprint."""
    picture = PIL.Image.frombytes("RGB", (image.width, image.height), image.pixels)
    picture.info[_FINGERPRINT] = fingerprint
    return picture


class RememberingImageProcessor:
    """Does what another image processor does, and does it once for the same pictures.

    Args:
        inner: the one whose place is taken; whatever is asked for but a call is asked of it.
        max_bytes: of the arrays that are kept; 0 keeps nothing.
    """

    def __init__(self, inner: Any, max_bytes: int) -> None:
        self._inner = inner
        self._kept: Recent[str, Any] = Recent(max_bytes, MOST_PICTURES, _bytes_of)

    def __getattr__(self, name: str) -> Any:
        if name == "_inner" or name.startswith("__"):  # of a copy that is being made, and has nothing yet
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        names = _names(images)
        if names is None:
            return self._inner(images, **options)
        key = f"{names} {sorted(options.items())}"
        known = self._kept.get(key)
        if known is not None:
            return copy.deepcopy(known)  # a processor may change what it is given
        made = self._inner(images, **options)
        self._kept.put(key, copy.deepcopy(made))
        return made

    @property
    def nbytes(self) -> int:
        return self._kept.nbytes

    def clear(self) -> None:
        self._kept.clear()


def with_memory(processor: Any, max_bytes: int) -> RememberingImageProcessor | None:
    """Put one into a processor, in its image processor's place; None: its kind is not known."""
    inner = getattr(processor, "image_processor", None)
    if isinstance(inner, RememberingImageProcessor):
        inner = inner._inner
    if not isinstance(inner, BaseImageProcessor):
        return None
    remembering = RememberingImageProcessor(inner, max_bytes)
    processor.image_processor = remembering
    return remembering


def _names(images: Any) -> str | None:
    """Which pictures these are, and how they are grouped; None: one of them is not known."""
    if isinstance(images, PIL.Image.Image):
        fingerprint = images.info.get(_FINGERPRINT)
        return None if fingerprint is None else fingerprint.hex()
    if not isinstance(images, list | tuple):
        return None
    names = [_names(each) for each in images]
    return None if None in names else f"[{' '.join(name for name in names if name is not None)}]"


def _bytes_of(made: Any) -> int:
    """Of the arrays in what an image processor made; the rest is small."""
    if isinstance(made, Mapping | UserDict):
        return sum(_bytes_of(each) for each in made.values())
    if isinstance(made, list | tuple):
        return sum(_bytes_of(each) for each in made)
    return int(getattr(made, "nbytes", 0))
