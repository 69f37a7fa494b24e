"""How much of a prompt is computed between two tokens of the running replies.

A prompt is computed in chunks of tokens, and each of these a few layers of the model at a time: as
many as fit into the time that a gap between two tokens may grow by.
"""

from collections import deque
from math import ceil
from statistics import median

STRETCH = 2.2
"""A gap between two tokens may grow to this many times its usual length while a prompt is computed."""

LEAST = 8
"""Tokens of the smallest chunk. The others are this many, doubled some times."""

FIRST_SHARE = 8
"""The first chunk is the largest divided by this."""

MOST_GAPS = 512
"""A prompt is not spread over more, however long they get: it has to be read before its reply's time is over."""

FEWEST_LAYERS, MOST_LAYERS = 2, 8
"""That should fit into a gap. Chunks get smaller if it is fewer, and larger, which is faster, if it is more."""

LAST = 7
"""Times that are looked at. Of these the middle one is what is usual: another program disturbs some."""


class Pace:
    """Fits prompts into the gaps between tokens by looking at the time that layers take.

    Args:
        most: tokens of a chunk while no reply runs, and the bound in any case.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._size = min(LEAST, most)
        while self._size * 2 <= most // FIRST_SHARE:
            self._size *= 2
        self._layer_seconds = deque[float](maxlen=LAST)
        self._gaps = deque[float](maxlen=LAST)
        self._calm_gaps = deque[float](maxlen=LAST)  # in which no prompt was computed: a step finds its caches warm

    @property
    def chunk(self) -> int:
        """How many tokens of a prompt to compute beside replies."""
        return self._size

    @property
    def usual_gap(self) -> float:
        """Seconds between two tokens of a reply without what prompts took; 0 = not known yet."""
        return median(self._gaps) if self._gaps else 0.0

    def layers(self, tokens: int, layers: int) -> int:
        """How many layers of a chunk to compute now.

        Args:
            tokens: of the whole prompt.
            layers: that the model computes of each chunk.
        """
        due = ceil(ceil(tokens / self._size) * layers / MOST_GAPS)
        # The longest of the times, for a gap that is too long is worse than one that could be longer.
        fitting = int(self._time_left / max(self._layer_seconds)) if self._layer_seconds else 0
        return max(1, due, fitting)

    def observe_gap(self, gap: float, spent: float) -> None:
        """What happened between the last two tokens of the running replies.

        Args:
            gap: seconds between them.
            spent: how many of these went into prompts.
        """
        own = max(gap - spent, 0.0)
        self._gaps.append(own)
        if not spent:
            self._calm_gaps.append(own)

    def observe_layers(self, seconds: float, layers: int) -> None:
        """How long so many layers of a chunk took."""
        self._layer_seconds.append(max(seconds / layers, 1e-9))
        if len(self._layer_seconds) < LAST or not self._gaps:
            return
        fitting = self._time_left / median(self._layer_seconds)
        if fitting < FEWEST_LAYERS and self._size > LEAST:
            self._become(self._size // 2)
        elif fitting > MOST_LAYERS and self._size * 2 <= self.most:
            self._become(self._size * 2)

    @property
    def _time_left(self) -> float:
        """Seconds of a gap that prompts may take."""
        calm = median(self._calm_gaps) if self._calm_gaps else self.usual_gap
        return (STRETCH - 1) * min(calm, self.usual_gap)

    def _become(self, size: int) -> None:
        guess = median(self._layer_seconds) * max(1.0, size / self._size)
        self._size = size
        self._layer_seconds.clear()
        self._layer_seconds.append(guess)
