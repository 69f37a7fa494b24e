"""What the model made of single pictures, kept for the next prompt with one of them.

A picture is known by its fingerprint (`pictures.py`), which stands for its pixels, whoever sent
them. The arrays belong to the worker's one thread.
"""

from dataclasses import dataclass

import mlx.core as mx

from mlx_websockets.recent import Recent

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


class KeptFeatures(Recent[bytes, Features]):
    """The features of the pictures that were used last, by their fingerprints.

    Args:
        max_bytes: of all features together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, MOST_PICTURES, lambda features: features.nbytes)
