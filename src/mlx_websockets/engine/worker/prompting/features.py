"""What the model made of single pictures, kept for the next prompt with one of them.

A picture is known by its fingerprint (`pictures.py`), which stands for its pixels, whoever sent
them. The arrays belong to the worker's one thread.
"""

from collections import OrderedDict
from dataclasses import dataclass

import mlx.core as mx

MOST_PICTURES = 96
"""However small what is kept of each: a camera never ends, and memory that only grows can't be told from a leak."""


@dataclass(frozen=True, slots=True)
class Features:
    """One picture in the model's own terms.

    Attributes:
        rows: its places among the prompt's embeddings, (places, width).
        deeper: what some models add to later layers at the same places, each (places, width).
        size: the last three dimensions of the array that they were computed from; empty if
            that had no rows and columns. A picture that is padded to another size has other features.
    """

    rows: mx.array
    deeper: tuple[mx.array, ...] = ()
    size: tuple[int, ...] = ()

    @property
    def places(self) -> int:
        return int(self.rows.shape[0])

    @property
    def nbytes(self) -> int:
        return sum(int(each.nbytes) for each in (self.rows, *self.deeper))


class KeptFeatures:
    """The features of the pictures that were used last, within bounds: `max_bytes`, and `MOST_PICTURES`.

    Args:
        max_bytes: of all features together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, Features] = OrderedDict()
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def get(self, picture: bytes) -> Features | None:
        features = self._kept.get(picture)
        if features is not None:
            self._kept.move_to_end(picture)
        return features

    def put(self, picture: bytes, features: Features) -> None:
        """Keep a picture's features; those used longest ago make room. Too large ones are not kept."""
        self._drop(picture)
        if features.nbytes > self._max_bytes:
            return
        self._kept[picture] = features
        self._nbytes += features.nbytes
        while self._nbytes > self._max_bytes or len(self._kept) > MOST_PICTURES:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        self._kept.clear()
        self._nbytes = 0

    def _drop(self, picture: bytes) -> None:
        dropped = self._kept.pop(picture, None)
        if dropped is not None:
            self._nbytes -= dropped.nbytes
