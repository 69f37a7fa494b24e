"""Frames waiting to be looked at.

A source sends pictures faster than a model can describe them, so only the newest of each
source is kept. Nothing here knows about sockets, clocks or the engine.
"""

from collections.abc import Iterator

from mlx_websockets.sessions.turns import Turn


class FrameSlots:
    """The newest waiting frame of each source; an older one makes way."""

    def __init__(self) -> None:
        self._waiting: dict[str | None, Turn] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Turn]:
        """The waiting frames; the source that has waited longest comes first."""
        return iter(list(self._waiting.values()))

    def __contains__(self, source: str | None) -> bool:
        return source in self._waiting

    def offer(self, frame: Turn) -> Turn | None:
        """Keep `frame` and return the one it supersedes, if any."""
        superseded = self._waiting.get(frame.label.source)
        self._waiting[frame.label.source] = frame  # an update keeps its place in line
        return superseded

    def take(self, source: str | None) -> Turn | None:
        """Remove and return the frame of `source` that waits, if any."""
        return self._waiting.pop(source, None)
