"""The finished turns of a connection that asked to be remembered (`history: true`).

Bounded in turns and in pictures. Fitting it to a model's window is the worker's, because
only a tokenizer can count: the request says how many messages may be left out.
"""

from collections import deque
from dataclasses import dataclass

from mlx_websockets.events import EncodedImage

MAX_TURNS = 32
MAX_PICTURES = 4


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
        self._exchanges.append(exchange)

    @property
    def exchanges(self) -> list[Exchange]:
        """The exchanges, with the pictures of all but the newest few left out."""
        room = MAX_PICTURES
        kept: list[Exchange] = []
        for exchange in reversed(self._exchanges):
            images = exchange.images if len(exchange.images) <= room else ()
            room -= len(images)
            kept.append(Exchange(exchange.text, images, exchange.reply))
        kept.reverse()
        return kept
