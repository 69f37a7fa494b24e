"""Who is here, and who starts next.

Round robin twice: over the parties (an address, or whoever a token stands for), then over
the connections of each. So neither ten waiting questions nor ten connections keep somebody
with a single question waiting. A party of weight 3 starts three in a row when its time comes.
"""

from collections import deque

from mlx_websockets.sessions.session import HasRoom, Session


class _Party:
    """The sessions of one party, in the order of their turn."""

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.starts_left = weight
        self.names: deque[str] = deque()


class SessionRegistry:
    """The open sessions of a server, by a name of the caller's choosing."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._party_names: dict[str, str] = {}  # by the name of a session
        self._parties: dict[str, _Party] = {}
        self._order: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, name: str, session: Session, party: str | None = None, weight: int = 1) -> None:
        """Let `session` take part; without a `party` it is one of its own."""
        party = name if party is None else party
        if party not in self._parties:
            self._parties[party] = _Party(weight)
            self._order.append(party)
        self._parties[party].names.append(name)
        self._party_names[name] = party
        self._sessions[name] = session

    def remove(self, name: str) -> None:
        del self._sessions[name]
        party = self._party_names.pop(name)
        self._parties[party].names.remove(name)
        if not self._parties[party].names:
            del self._parties[party]
            self._order.remove(party)

    @property
    def running(self) -> int:
        return sum(session.running for session in self._sessions.values())

    @property
    def waiting(self) -> int:
        return sum(session.waiting for session in self._sessions.values())

    @property
    def awaited_models(self) -> set[str | None]:
        """The models that somebody waits for; None is the default."""
        return {model for session in self._sessions.values() for model in session.awaited_models}

    @property
    def rows(self) -> int:
        """Rows that are taken: a running turn takes one for each candidate."""
        return sum(session.rows for session in self._sessions.values())

    def rows_on(self, model: str | None) -> int:
        return sum(session.rows_on(model) for session in self._sessions.values())

    def next_to_start(self, rows: int, has_room: HasRoom = lambda model, rows: True) -> str | None:
        """The session to call `start_next` on, or None: no room in `rows`, or nobody waits for a model that has any."""
        if self.rows >= rows:
            return None
        for _ in range(len(self._order)):
            party = self._parties[self._order[0]]
            name = self._next_of(party, has_room)
            party.starts_left -= 1
            if name is None or party.starts_left == 0:
                party.starts_left = party.weight
                self._order.rotate(-1)
            if name is not None:
                return name
        return None

    def _next_of(self, party: _Party, has_room: HasRoom) -> str | None:
        for _ in range(len(party.names)):
            name = party.names[0]
            party.names.rotate(-1)
            if self._sessions[name].can_start(has_room):
                return name
        return None
