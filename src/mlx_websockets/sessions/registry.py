"""Who is here, and who starts next: round robin over sessions, so that a peer with ten
waiting questions does not keep the one with a single question waiting.
"""

from collections import deque

from mlx_websockets.sessions.session import Session


class SessionRegistry:
    """The open sessions of a server, by a name of the caller's choosing."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._order: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, name: str, session: Session) -> None:
        self._sessions[name] = session
        self._order.append(name)

    def remove(self, name: str) -> None:
        del self._sessions[name]
        self._order.remove(name)

    @property
    def running(self) -> int:
        return sum(session.running for session in self._sessions.values())

    @property
    def waiting(self) -> int:
        return sum(session.waiting for session in self._sessions.values())

    def next_to_start(self, rows: int) -> str | None:
        """The session to call `start_next` on, or None: no room in `rows`, or nobody waits."""
        if self.running >= rows:
            return None
        for _ in range(len(self._order)):
            name = self._order[0]
            self._order.rotate(-1)
            if self._sessions[name].wants_to_start:
                return name
        return None
