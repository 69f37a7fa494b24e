"""Who starts next.

Turns wait in their sessions; whenever the engine has a row free, the floor gives it to the
next session in line. It also owns what sessions share: their registry, their numbers, and
the count of the bytes of pictures that they hold together.
"""

import itertools
from collections.abc import Callable
from typing import Any, Protocol

from mlx_websockets.engine.messages import Loading
from mlx_websockets.generation import GenerationRequest, Update
from mlx_websockets.server.farewell import Farewell
from mlx_websockets.server.parties import Party
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

    def engine_of(self, model: str | None) -> "Engine | None":
        """Who answers for `model`; for None the default model. None: nobody does."""
        ...

    def wake(self) -> None:
        """Somebody waits for it; if it is not in memory, it is loaded."""
        ...

    async def load(self, model: str, on_progress: Callable[[Loading], None] | None = None) -> None:
        """Have `model` in memory. Raises `Refused` if there is no such model, `StartError` if it can't be loaded."""
        ...

    async def unload(self, model: str) -> None:
        """Take `model` out of memory. Raises `Refused`: there is no such model, or something runs on it."""
        ...

    def models(self) -> list[dict[str, Any]]:
        """A line for each model that can be asked for, the default first."""
        ...

    def status(self) -> dict[str, Any]: ...
    def on_state_change(self, listener: Callable[[], None]) -> None: ...


class Guest(Protocol):
    """Whose turns wait: a desk."""

    name: str
    session: Session
    party: Party | None
    """With whom it shares its turns; None: with this machine."""

    @property
    def is_connected(self) -> bool: ...

    def start(self, turn: int) -> None:
        """Start this turn of the session. Must not raise, nor leave the session as it was."""
        ...

    def drain(self, seconds: float, farewell: Farewell) -> None:
        """Take nothing new; what runs has so long to finish."""
        ...

    def shut_down(self, farewell: Farewell) -> None:
        """End, and tell why."""
        ...


class Floor:
    """The guests of one server, and their line for the engine."""

    def __init__(self, engine: Engine, local_weight: int = 1) -> None:
        """`local_weight`: so many inputs of this machine start for each one of another party of weight 1."""
        self.numbers = itertools.count(1)
        self._engine = engine
        self._registry = SessionRegistry()
        self._guests: dict[str, Guest] = {}
        self.held_bytes = 0
        self._held: dict[str, int] = {}
        self._local_weight = local_weight
        self._is_advancing = False
        engine.on_state_change(self.advance)

    def enter(self, guest: Guest) -> None:
        self._guests[guest.name] = guest
        if guest.party is None:
            self._registry.add(guest.name, guest.session, "this machine", self._local_weight)
        else:
            self._registry.add(guest.name, guest.session, guest.party.name, guest.party.weight)

    def leave(self, guest: Guest) -> None:
        """Forget `guest`; one that has left already is fine."""
        if self._guests.pop(guest.name, None) is not None:
            self._registry.remove(guest.name)
            self.held_bytes -= self._held.pop(guest.name, 0)

    def note_held(self, guest: Guest) -> None:
        """Bring `held_bytes` up to date with `guest`'s session."""
        if guest.name in self._guests:
            held = guest.session.held_bytes
            self.held_bytes += held - self._held.get(guest.name, 0)
            self._held[guest.name] = held

    def advance(self) -> None:
        """Start what can be started. Call after anything that may have made room or put someone in line."""
        if self._is_advancing:
            return  # a reply that came at once; the loop below looks again
        self._is_advancing = True
        try:
            while (start := self._registry.next_to_start(self._engine.rows, self.has_room)) is not None:
                self._guests[start.name].start(start.turn)
            self._wake_models()
        finally:
            self._is_advancing = False

    def has_room(self, model: str | None, rows: int) -> bool:
        """Whether `model` takes a turn of so many rows now; None is the default."""
        engine = self._engine.engine_of(model)
        return engine is not None and engine.is_ready and self._registry.rows_on(model) + rows <= engine.rows

    def _wake_models(self) -> None:
        for model in self._registry.awaited_models:
            engine = self._engine.engine_of(model)
            if engine is not None and not engine.is_ready:
                engine.wake()

    @property
    def guests(self) -> list[Guest]:
        return list(self._guests.values())

    @property
    def connections(self) -> int:
        return sum(guest.is_connected for guest in self._guests.values())

    @property
    def running(self) -> int:
        return self._registry.running

    @property
    def rows(self) -> int:
        """How many rows the running requests take."""
        return self._registry.rows

    @property
    def waiting(self) -> int:
        return self._registry.waiting
