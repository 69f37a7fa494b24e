"""Whether there is memory for one more request. Better a sentence than an abort."""

from collections.abc import Callable

import mlx.core as mx

from mlx_websockets.engine.worker.batch.batcher import Batcher
from mlx_websockets.engine.worker.batch.prefixes import KeptPrefixes
from mlx_websockets.errors import EngineError

MARGIN_SHARE = 0.05
LEAST_MARGIN_BYTES = 256 * 1024 * 1024
"""Of the device's memory: what stays free for pictures, activations and everybody else."""

SHORTEST_RETRY_MS, LONGEST_RETRY_MS = 250, 30_000


class Room:
    """Lets requests in as long as what they may grow to fits.

    Args:
        free_bytes: what the device could still give.
        device_bytes: what it has in all; 0 = not known.
        kept: gives way to requests.
    """

    def __init__(self, free_bytes: Callable[[], int], device_bytes: int, kept: KeptPrefixes) -> None:
        self._free_bytes = free_bytes
        self._margin = max(int(device_bytes * MARGIN_SHARE), LEAST_MARGIN_BYTES)
        self._kept = kept

    def check(self, batcher: Batcher, tokens: int, rows: int) -> None:
        """Make room for a request of so many tokens, prompt and reply, in each of so many rows.

        Raises:
            EngineError: `overloaded` (again when others are done) or `out_of_memory` (it never fits).
        """
        wanted = batcher.growth_bytes(tokens, rows) + self._margin
        missing = wanted - self._free_bytes()
        if missing <= 0:
            return
        self._kept.shrink(max(0, self._kept.nbytes - missing))
        mx.clear_cache()
        if wanted <= self._free_bytes():
            return
        if len(batcher):
            wait_ms = min(max(int(batcher.seconds_until_a_row_is_free() * 1000), SHORTEST_RETRY_MS), LONGEST_RETRY_MS)
            raise EngineError(
                "overloaded",
                "The memory is taken by other requests. Ask again in a while, or for less.",
                retryable=True,
                retry_after_ms=wait_ms,
            )
        raise EngineError(
            "out_of_memory",
            f"A request of {tokens} tokens needs {wanted / 1e9:.1f} GB and there are {self._free_bytes() / 1e9:.1f} GB "
            "free. Shorten the prompt, lower the longest reply, or serve a smaller model.",
        )
