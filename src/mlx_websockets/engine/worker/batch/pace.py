"""How much of a prompt is computed between two tokens of the running replies."""

STRETCH = 2.8
"""A gap between two tokens may grow to this many times its usual length while a prompt is computed."""

SHORTEST_CHUNK = 8
FIRST_SHARE = 8
"""The first chunk is the largest divided by this."""

GAIN = 0.9
"""Half a chunk is worth it when it takes less than this share of the whole one's time; a pass has costs of its own."""

SMOOTHING = 0.25
"""Weight of the newest time among earlier ones."""

MEMORY = 16
"""A time is good for so many pieces. The longer a prompt, the longer a piece of it takes: what was true at its
beginning would tell of no gain later on."""


class Pace:
    """Finds the size of a chunk by looking at the time it takes. Sizes are powers of two: devices like known shapes.

    Args:
        most: tokens of a chunk while no reply runs, and the bound in any case.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._chunk = max(most // FIRST_SHARE, min(SHORTEST_CHUNK, most))
        self._seconds: dict[int, float] = {}  # by size of chunk
        self._seen: dict[int, int] = {}  # likewise: the number of the piece that told it
        self._pieces = 0
        self.usual_gap = 0.0
        """Seconds between two tokens of a reply while no prompt is computed; 0 = not known yet."""

    def chunk(self, *, others_run: bool) -> int:
        """Prompt tokens to compute now."""
        return self._chunk if others_run else self.most

    def observe(self, gap: float, spent: float, tokens: int) -> None:
        """What happened between the last two tokens of the running replies.

        Args:
            gap: seconds between them.
            spent: how many of these went into prompts.
            tokens: of prompts that were computed for it.
        """
        own = max(gap - spent, 0.0)
        self.usual_gap = _smoothed(self.usual_gap or None, own)
        if tokens == self._chunk:
            self._pieces += 1
            self._seconds[tokens] = _smoothed(self._known(tokens), spent)
            self._seen[tokens] = self._pieces
            self._adapt(own)

    def _adapt(self, own: float) -> None:
        chunk, seconds = self._chunk, self._seconds[self._chunk]
        if chunk < self.most and (not self._gains(chunk) or own + seconds < STRETCH / 2 * own):
            self._chunk = chunk * 2
        elif own + seconds > STRETCH * own and chunk // 2 >= SHORTEST_CHUNK and self._gains(chunk // 2):
            self._chunk = chunk // 2

    def _gains(self, chunk: int) -> bool:
        """Whether `chunk` is known to be, or may be, much quicker than one of twice its size."""
        mine, double = self._known(chunk), self._known(2 * chunk)
        return mine is None or double is None or mine < GAIN * double

    def _known(self, chunk: int) -> float | None:
        """The seconds that such a piece takes, if that was seen lately."""
        return self._seconds[chunk] if self._pieces - self._seen.get(chunk, -MEMORY - 1) <= MEMORY else None


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else before + SMOOTHING * (now - before)
