"""Coming back after a broken socket: what has to be said again, and how long to wait before trying.

The server counts what it got and says so in `resumed`; what was sent after that went down
with the socket. Knows no sockets.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

MAX_UNANSWERED = 4096
"""Messages that are remembered until something shows that they have arrived."""

FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 30.0


class Named(Protocol):
    @property
    def id(self) -> str | None: ...


Draft = TypeVar("Draft", bound=Named)


@dataclass(frozen=True, slots=True)
class _Sent(Generic[Draft]):
    number: int
    draft: Draft


class Journal(Generic[Draft]):
    """What was sent in a session and may not have arrived, and how much came back.

    Attributes:
        heard: how many messages of the server have arrived, not counting `hello` and `resumed`.
    """

    def __init__(self) -> None:
        self.heard = 0
        self._unanswered: deque[_Sent[Draft]] = deque()
        self._said = 0

    def note_said(self, draft: Draft) -> None:
        """`draft` is about to be sent for the first time."""
        self._said += 1
        self._unanswered.append(_Sent(self._said, draft))
        if len(self._unanswered) > MAX_UNANSWERED:
            self._unanswered.popleft()

    def note_answer(self, id: str | None) -> None:
        """The server spoke about `id`: it has that message, and all that came before."""
        number = next((sent.number for sent in self._unanswered if id is not None and sent.draft.id == id), 0)
        self._drop_until(number)

    def unreceived(self, received: int) -> list[Draft] | None:
        """What to say again to a server that has got so many; None: it is not remembered."""
        if not self._said - len(self._unanswered) <= received <= self._said:
            return None
        self._drop_until(received)
        return [sent.draft for sent in self._unanswered]

    def _drop_until(self, number: int) -> None:
        while self._unanswered and self._unanswered[0].number <= number:
            self._unanswered.popleft()


def waits(chance: random.Random | None = None) -> Iterator[float]:
    """Seconds to wait before each attempt: anything up to a limit that doubles. A crowd does not return at once."""
    chance = chance or random.Random()  # noqa: S311 - nothing to be kept secret
    longest = FIRST_WAIT_SECONDS
    while True:
        yield chance.uniform(0.0, longest)
        longest = min(2 * longest, LONGEST_WAIT_SECONDS)
