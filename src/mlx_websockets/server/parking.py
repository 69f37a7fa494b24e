"""Sessions whose peers may come back on another socket.

A session that can be resumed is known here from its beginning. One whose socket was lost is
parked: kept for a while, a bounded number of them, the oldest given up first. A token is a name
to look up and a secret to compare; nothing of it is ever logged.
"""

import asyncio
import secrets
from typing import Protocol


class Parked(Protocol):
    """A session that outlives its socket."""

    @property
    def name(self) -> str: ...

    @property
    def resume_token(self) -> str:
        """Who has it is the peer. Made by `new_token`."""
        ...

    def end(self) -> None:
        """Give up what runs and waits; must call `Parking.forget`."""
        ...


def new_token(name: str) -> str:
    """A token for the session of this name; 192 bits of it can't be guessed."""
    return f"{name}.{secrets.token_urlsafe(24)}"


class Parking:
    """The sessions of one server that can be resumed.

    Args:
        max_parked: without a socket at once.
        park_seconds: for a peer to come back.
    """

    def __init__(self, *, max_parked: int, park_seconds: float) -> None:
        self._max_parked = max_parked
        self._park_seconds = park_seconds
        self._known: dict[str, Parked] = {}
        self._parked: dict[str, asyncio.TimerHandle] = {}  # oldest first

    @property
    def parked(self) -> int:
        """How many have no socket."""
        return len(self._parked)

    def register(self, session: Parked) -> None:
        """It can be resumed from now on, parked or not."""
        self._known[session.name] = session

    def find(self, token: str) -> Parked | None:
        """The session that was given this token."""
        session = self._known.get(token.partition(".")[0])
        expected = session.resume_token if session is not None else new_token("")  # as long for an unknown name
        is_right = secrets.compare_digest(token.encode("utf-8", "surrogatepass"), expected.encode())
        return session if is_right else None

    def park(self, session: Parked) -> None:
        """Its socket was lost. Give it up if nobody comes in time; the oldest if there are too many."""
        self.take_out(session)
        self._parked[session.name] = asyncio.get_running_loop().call_later(self._park_seconds, session.end)
        if len(self._parked) > self._max_parked:
            self._known[next(iter(self._parked))].end()

    def take_out(self, session: Parked) -> None:
        """Its peer is back. One that is not parked is fine."""
        if (timer := self._parked.pop(session.name, None)) is not None:
            timer.cancel()

    def forget(self, session: Parked) -> None:
        """It is over. One that is not known is fine."""
        self.take_out(session)
        self._known.pop(session.name, None)
