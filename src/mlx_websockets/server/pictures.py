"""The pictures that were opened last: one that comes again is not opened again.

It comes again with every turn of its conversation, and when somebody asks something else about it.
"""

import hashlib
import threading
from collections.abc import Iterable

from mlx_websockets.events import EncodedImage
from mlx_websockets.generation import Image
from mlx_websockets.images import open_image
from mlx_websockets.recent import Recent

MOST_PICTURES, MOST_BYTES = 16, 8 * 2**20
"""Of opened pictures, which have 1.8 MB at most: the last few conversations' newest."""


class OpenedPictures:
    """Opens pictures, and keeps those that were asked for last. May be used from several threads at once."""

    def __init__(self, most_pictures: int = MOST_PICTURES, most_bytes: int = MOST_BYTES) -> None:
        self._lock = threading.Lock()
        self._kept: Recent[bytes, Image] = Recent(most_bytes, most_pictures, lambda image: len(image.pixels))

    def open(self, encoded: Iterable[EncodedImage]) -> tuple[Image, ...]:
        """Every picture, in order. Raises what `open_image` does."""
        return tuple(self._open(each) for each in encoded)

    def _open(self, encoded: EncodedImage) -> Image:
        key = _key(encoded)
        with self._lock:
            known = self._kept.get(key)
        if known is not None:
            return known
        opened = open_image(encoded)
        with self._lock:
            self._kept.put(key, opened)
        return opened


def _key(encoded: EncodedImage) -> bytes:
    """What stands for a picture as it came, binary or as text."""
    data = encoded.data
    file, kind = (data, b"binary") if isinstance(data, bytes) else (data.encode("utf-8", "surrogatepass"), b"text")
    return hashlib.blake2b(file, digest_size=32, person=kind).digest()
