"""Memory that does not come back, noticed while nothing runs. Libraries leak; a server runs for months."""

from mlx_websockets.engine.messages import Memory

DRIFT_SHARE = 0.25
LEAST_DRIFT_BYTES = 1_000_000_000
"""More than this share of the weights, and more than that: a worker is better begun anew."""


class Drift:
    """Compares what is held while idle with the least that was.

    Args:
        weights_bytes: of the model.
    """

    def __init__(self, weights_bytes: int) -> None:
        self._allowed = max(int(weights_bytes * DRIFT_SHARE), LEAST_DRIFT_BYTES)
        self._least: tuple[int, int] | None = None

    def is_too_much(self, memory: Memory) -> bool:
        """Note what is held now, with no request under way; whether that is far more than it once was."""
        # What is kept on purpose has a bound of its own. Python's memory is what is resident beyond MLX's.
        now = (memory.active - memory.kept, memory.resident - memory.active - memory.cached)
        least = now if self._least is None else tuple(map(min, now, self._least))
        self._least = (least[0], least[1])
        return any(held - once > self._allowed for held, once in zip(now, self._least, strict=True))
