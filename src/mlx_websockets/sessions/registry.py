"""Who is here, and who starts next.

First the class (see `precedence`); within it round robin twice: over the parties (an address, or
whoever a token stands for), then over the connections of each. So neither ten waiting questions
nor ten connections keep somebody with a single question waiting. A party of weight 3 starts
three in a row when its time comes.

A turn may take several rows. If it is next and they are not all free, those of its model that
become free are kept for it: nobody behind it in line overtakes it there.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mlx_websockets.generation import Priority
from mlx_websockets.sessions.precedence import CLASSES, Precedence
from mlx_websockets.sessions.session import HasRoom, Session
from mlx_websockets.sessions.turns import Turn


@dataclass(frozen=True, slots=True)
class Start:
    """The turn to start next: the name of its session, and its number."""

    name: str
    turn: int


class SessionRegistry:
    """The open sessions of a server, by a name of the caller's choosing."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._party_names: dict[str, str] = {}  # by the name of a session
        self._lines: dict[Priority, _Line] = {each: _Line() for each in CLASSES}
        self._precedence = Precedence()

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, name: str, session: Session, party: str | None = None, weight: int = 1) -> None:
        """Let `session` take part; without a `party` it is one of its own."""
        party = name if party is None else party
        for line in self._lines.values():
            line.add(name, party, weight)
        self._party_names[name] = party
        self._sessions[name] = session

    def remove(self, name: str) -> None:
        del self._sessions[name]
        party = self._party_names.pop(name)
        for line in self._lines.values():
            line.remove(name, party)

    @property
    def running(self) -> int:
        return sum(session.running for session in self._sessions.values())

    @property
    def waiting(self) -> int:
        return sum(session.waiting for session in self._sessions.values())

    @property
    def awaited_models(self) -> set[str | None]:
        """The models that somebody waits for; None is the default."""
        return {model for session in self._sessions.values() if session.waiting for model in session.awaited_models}

    @property
    def rows(self) -> int:
        """Rows that are taken: a running turn takes one for each candidate."""
        return sum(session.rows for session in self._sessions.values() if session.running)

    def rows_on(self, model: str | None) -> int:
        return sum(session.rows_on(model) for session in self._sessions.values() if session.running)

    def next_to_start(self, rows: int, has_room: HasRoom = lambda model, rows: True) -> Start | None:
        """Whom to let start: `Session.start`. None: no room in `rows`, or nobody waits for a model that has any."""
        if self.rows >= rows:
            return None
        waiting = {name: session for name, session in self._sessions.items() if session.waiting}
        room = _KeptRoom(has_room)
        for priority in self._precedence.order():
            found = self._lines[priority].take(_next_turn_in(waiting, priority, room))
            if found is not None:
                self._precedence.note_start(priority, _classes_in(waiting))
                return found
        return None


def _next_turn_in(waiting: dict[str, Session], priority: Priority, room: HasRoom) -> "Callable[[str], Turn | None]":
    def next_turn(name: str) -> Turn | None:
        return waiting[name].next_turn(room, priority) if name in waiting else None

    return next_turn


def _classes_in(waiting: dict[str, Session]) -> set[Priority]:
    """The classes of the turns that could start if there were room for them."""
    return {turn.priority for session in waiting.values() for turn in session.in_line}


class _KeptRoom:
    """Where there is room, seen from the front of the line to its back: whoever finds too little keeps it."""

    def __init__(self, has_room: HasRoom) -> None:
        self._has_room = has_room
        self._kept: set[str | None] = set()

    def __call__(self, model: str | None, rows: int) -> bool:
        if model in self._kept:
            return False
        if self._has_room(model, rows):
            return True
        self._kept.add(model)
        return False


class _Party:
    """The sessions of one party, in the order of their turn."""

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.starts_left = weight
        self.names: deque[str] = deque()


class _Line:
    """Whose turn it is in one class."""

    def __init__(self) -> None:
        self._parties: dict[str, _Party] = {}  # in the order of their turn

    def add(self, name: str, party: str, weight: int) -> None:
        self._parties.setdefault(party, _Party(weight)).names.append(name)

    def remove(self, name: str, party: str) -> None:
        self._parties[party].names.remove(name)
        if not self._parties[party].names:
            del self._parties[party]

    def take(self, turn_of: Callable[[str], Turn | None]) -> Start | None:
        """The first session that has a turn to start, and that turn; it goes to the back of its line."""
        for party_name, party in list(self._parties.items()):
            for name in party.names:
                if (turn := turn_of(name)) is not None:
                    self._move_back(party_name, name)
                    return Start(name, turn.number)
            party.starts_left = party.weight  # what is not used is not saved up
        return None

    def _move_back(self, party_name: str, name: str) -> None:
        party = self._parties[party_name]
        party.names.remove(name)
        party.names.append(name)
        party.starts_left -= 1
        if party.starts_left == 0:
            party.starts_left = party.weight
            self._parties[party_name] = self._parties.pop(party_name)
