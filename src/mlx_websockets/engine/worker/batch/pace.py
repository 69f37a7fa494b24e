"""How much of a prompt is computed between two tokens of the running replies."""

STRETCH = 2.6
"""A gap between two tokens may grow to this many times its usual length while a prompt is computed."""

SHORTEST_CHUNK = 8
FIRST_SHARE = 4
"""The first chunk is the largest divided by this."""

SMOOTHING = 0.25
"""Weight of the newest gap in the usual one."""


class Pace:
    """Finds the size of a chunk by looking at the gaps it makes. Sizes are powers of two: devices like known shapes.

    Args:
        most: tokens of a chunk while no reply runs, and the bound in any case.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._chunk = max(most // FIRST_SHARE, min(SHORTEST_CHUNK, most))
        self._usual_gap: float | None = None

    @property
    def usual_gap(self) -> float:
        """Seconds between two tokens of a reply while no prompt is computed; 0 = not known yet."""
        return self._usual_gap or 0.0

    def chunk(self, *, others_run: bool) -> int:
        """Prompt tokens to compute now."""
        return self._chunk if others_run else self.most

    def observe(self, gap: float, prompt_tokens: int) -> None:
        """The last gap of the running replies in seconds, and the prompt tokens that were computed within it."""
        if prompt_tokens == 0:
            usual = self._usual_gap
            self._usual_gap = gap if usual is None else usual + SMOOTHING * (gap - usual)
        elif self._usual_gap is not None:
            self._adapt(gap / self._usual_gap, prompt_tokens)

    def _adapt(self, stretch: float, prompt_tokens: int) -> None:
        if stretch > STRETCH and prompt_tokens <= self._chunk:
            self._chunk = max(self._chunk // 2, SHORTEST_CHUNK)
        elif stretch < STRETCH / 2 and prompt_tokens >= self._chunk:
            self._chunk = min(self._chunk * 2, self.most)
