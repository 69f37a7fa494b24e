"""How much of a prompt is computed between two tokens of the running replies."""

from bisect import bisect_right
from collections.abc import Sequence

STRETCH = 2.75
"""A gap between two tokens may grow to this many times its usual length while a prompt is computed."""

POWERS = tuple(2**power for power in range(3, 31))
SIZES = {"cpu": (4, 5, 6, 7, 8, 10, 12, 14, *POWERS[1:]), "metal": POWERS, "cuda": POWERS}
"""Of chunks, by backend. A GPU likes shapes that it knows; to a CPU each is as good as another."""

FIRST_SHARE = 8
"""The first chunk is the largest divided by this."""

MOST_PIECES = 512
"""A prompt is not cut into more, however long a gap gets: it has to be read before its reply's time is over."""

GAIN = 0.2
"""A smaller chunk is worth it when it takes that much less time, as a share of the tokens that it has less: half of
them a tenth less. A pass has costs of its own."""

GROWTH = 0.6
"""How much longer a larger chunk takes, likewise, as long as that is not known."""

SMOOTHING = 0.25
"""Weight of the newest time among earlier ones."""

MEMORY = 6
"""A time is good for so many pieces. The longer a prompt, the longer a piece of it takes: what was true at its
beginning would tell of no gain later on."""


class Pace:
    """Finds the size of a chunk by looking at the time it takes.

    Args:
        most: tokens of a chunk while no reply runs, and the bound in any case.
        sizes: of chunks while replies run, rising.
    """

    def __init__(self, most: int, sizes: Sequence[int]) -> None:
        self.most = most
        self._sizes = [size for size in sizes if size <= most] or [most]
        self._at = max(0, bisect_right(self._sizes, most // FIRST_SHARE) - 1)
        self._seconds: dict[int, float] = {}  # by size of chunk
        self._seen: dict[int, int] = {}  # likewise: the number of the piece that told it
        self._pieces = 0
        self.usual_gap = 0.0
        """Seconds between two tokens of a reply without what prompts took; 0 = not known yet."""
        self._calm_gap = 0.0  # likewise, when no prompt was computed: a step finds its caches warm

    def chunk(self, prompt: int, *, others_run: bool) -> int:
        """How many tokens to compute now of a prompt of so many."""
        return min(self.most, max(self._sizes[self._at], prompt // MOST_PIECES)) if others_run else self.most

    def observe(self, gap: float, spent: float, tokens: int) -> None:
        """What happened between the last two tokens of the running replies.

        Args:
            gap: seconds between them.
            spent: how many of these went into prompts.
            tokens: of prompts that were computed for it.
        """
        own = max(gap - spent, 0.0)
        self.usual_gap = _smoothed(self.usual_gap or None, own)
        if not tokens:
            self._calm_gap = _smoothed(self._calm_gap or None, own)
        if tokens == self._sizes[self._at]:
            self._pieces += 1
            self._seconds[tokens] = _smoothed(self._known(self._at), spent)
            self._seen[tokens] = self._pieces
            self._adapt(own)

    def _adapt(self, own: float) -> None:
        bound, seconds = STRETCH * min(self._calm_gap or own, own), self._seconds[self._sizes[self._at]]
        has_larger = self._at + 1 < len(self._sizes)
        if has_larger and own + self._larger() <= bound:
            self._at += 1
        elif own + seconds <= bound:
            return
        elif self._at > 0 and self._gains(self._at - 1):
            self._at -= 1
        elif has_larger and not self._gains(self._at):
            self._at += 1

    def _larger(self) -> float:
        """How many seconds the next larger chunk takes, or should take."""
        more = self._sizes[self._at + 1] / self._sizes[self._at] - 1
        return self._known(self._at + 1) or self._seconds[self._sizes[self._at]] * (1 + GROWTH * more)

    def _gains(self, at: int) -> bool:
        """Whether a chunk of this size is known to be, or may be, much quicker than the next larger one."""
        mine, larger = self._known(at), self._known(at + 1)
        less = 1 - self._sizes[at] / self._sizes[at + 1]
        return mine is None or larger is None or mine < larger * (1 - GAIN * less)

    def _known(self, at: int) -> float | None:
        """The seconds that such a piece takes, if that was seen lately."""
        size = self._sizes[at]
        return self._seconds[size] if self._pieces - self._seen.get(size, -MEMORY - 1) <= MEMORY else None


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else before + SMOOTHING * (now - before)
