"""Frames waiting to be looked at, and what the last ones looked like.

A source sends pictures faster than a model can describe them, so only the newest of each
source is kept. Nothing here knows about sockets, clocks or the engine.
"""

from collections.abc import Iterator

from mlx_websockets.likeness import View
from mlx_websockets.sessions.turns import Turn

MAX_SOURCES_SEEN = 16
"""Sources whose last view is kept; of the one that was described longest ago it is forgotten."""


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


class LastViews:
    """Of each source, how the frame looked that was described last, and what was asked about it."""

    def __init__(self) -> None:
        self._seen: dict[str | None, tuple[int, View]] = {}

    def note(self, frame: Turn) -> None:
        """`frame` was described; one without a view changes nothing."""
        if frame.view is None:
            return
        self._seen.pop(frame.label.source, None)
        self._seen[frame.label.source] = (_question(frame), frame.view)
        if len(self._seen) > MAX_SOURCES_SEEN:
            del self._seen[next(iter(self._seen))]

    def before(self, frame: Turn) -> View | None:
        """How the source of `frame` looked, if the same was asked then."""
        question, view = self._seen.get(frame.label.source, (0, None))
        return view if question == _question(frame) else None


def _question(frame: Turn) -> int:
    """Stands for what is asked about a frame: the same picture may get another question."""
    ask = frame.ask
    return hash((ask.text, ask.context, ask.system, ask.model, ask.json_schema))
