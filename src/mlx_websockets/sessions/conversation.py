"""The finished turns of a connection that asked to be remembered (`history: true`).

Bounded in turns, in characters and in pictures, each by letting go of the oldest. Fitting it
to a model's window is the worker's, because only a tokenizer can count: the request says how
many messages may be left out.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from mlx_websockets.events import EncodedImage
from mlx_websockets.settings import MAX_IMAGES

MAX_TURNS = 32
MAX_CHARACTERS = 1024 * 1024
MAX_PICTURES = MAX_IMAGES
"""Of the past and of the new question together, so that a remembered picture gets none refused."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was asked and what was said."""

    text: str
    images: tuple[EncodedImage, ...]
    reply: str


class Conversation:
    """Finished exchanges, oldest first; the oldest make way."""

    def __init__(self) -> None:
        self._exchanges: deque[Exchange] = deque(maxlen=MAX_TURNS)

    def add(self, exchange: Exchange) -> None:
        """Remember `exchange`; the newest is kept however long it is."""
        self._exchanges.append(exchange)
        while len(self._exchanges) > 1 and self._characters > MAX_CHARACTERS:
            self._exchanges.popleft()
        # Not only when recalled: pictures of a long talk would fill the memory.
        self._exchanges = deque(_with_newest_pictures(self._exchanges, MAX_PICTURES), maxlen=MAX_TURNS)

    def recall(self, max_pictures: int = MAX_PICTURES) -> list[Exchange]:
        """The exchanges, oldest first, with no more than the newest `max_pictures`."""
        return _with_newest_pictures(self._exchanges, max_pictures)

    @property
    def images(self) -> Iterator[EncodedImage]:
        """Every picture that is remembered."""
        return (image for exchange in self._exchanges for image in exchange.images)

    @property
    def _characters(self) -> int:
        return sum(len(exchange.text) + len(exchange.reply) for exchange in self._exchanges)


def _with_newest_pictures(exchanges: Iterable[Exchange], room: int) -> list[Exchange]:
    """Pictures stay from the newest exchange back, up to the first whose pictures don't all fit."""
    kept: list[Exchange] = []
    for exchange in reversed(list(exchanges)):
        if len(exchange.images) > room:
            room = 0
        kept.append(exchange if room else replace(exchange, images=()))
        room -= min(room, len(exchange.images))
    kept.reverse()
    return kept
