"""Who starts next.

Turns wait in their sessions; whenever the engine has a row free, the floor gives it to the
next session in line. It also owns what sessions share: their registry and their numbers.
"""

import itertools
from collections.abc import Callable
from typing import Any, Protocol

from mlx_websockets.generation import GenerationRequest, Update
from mlx_websockets.sessions.registry import SessionRegistry
from mlx_websockets.sessions.session import Session


class Engine(Protocol):
    """The model, as the server uses it. All on the event loop; nothing waits."""

    @property
    def is_ready(self) -> bool: ...
    @property
    def model_id(self) -> str: ...
    @property
    def sees(self) -> bool:
        """It takes pictures."""
        ...

    @property
    def max_images(self) -> int:
        """Pictures in one request."""
        ...

    @property
    def rows(self) -> int:
        """How many replies are computed together."""
        ...

    def submit(self, request: GenerationRequest, listener: Callable[[Update], None]) -> None: ...
    def cancel(self, request_id: int) -> None:
        """Give a request up; no update of it arrives any more. Unknown ids are fine."""
        ...

    def status(self) -> dict[str, Any]: ...
    def on_state_change(self, listener: Callable[[], None]) -> None: ...


class Guest(Protocol):
    """Whose turns wait: a connection."""

    name: str
    session: Session

    def start_next(self) -> None:
        """Start the session's next turn. Must not raise, nor leave the session as it was."""
        ...

    def drain(self, seconds: float) -> None:
        """Take nothing new; what runs has so long to finish."""
        ...

    def shut_down(self) -> None:
        """End, and tell why."""
        ...


class Floor:
    """The guests of one server, and their line for the engine."""

    def __init__(self, engine: Engine) -> None:
        self.numbers = itertools.count(1)
        self._engine = engine
        self._registry = SessionRegistry()
        self._guests: dict[str, Guest] = {}
        self._is_advancing = False
        engine.on_state_change(self.advance)

    def enter(self, guest: Guest) -> None:
        self._guests[guest.name] = guest
        self._registry.add(guest.name, guest.session)

    def leave(self, guest: Guest) -> None:
        """Forget `guest`; one that has left already is fine."""
        if self._guests.pop(guest.name, None) is not None:
            self._registry.remove(guest.name)

    def advance(self) -> None:
        """Start what can be started. Call after anything that may have made room or put someone in line."""
        if self._is_advancing:
            return  # a reply that came at once; the loop below looks again
        self._is_advancing = True
        try:
            while (name := self._next()) is not None:
                self._guests[name].start_next()
        finally:
            self._is_advancing = False

    def _next(self) -> str | None:
        return self._registry.next_to_start(self._engine.rows) if self._engine.is_ready else None

    @property
    def guests(self) -> list[Guest]:
        return list(self._guests.values())

    @property
    def connections(self) -> int:
        return len(self._guests)

    @property
    def running(self) -> int:
        return self._registry.running

    @property
    def waiting(self) -> int:
        return self._registry.waiting
