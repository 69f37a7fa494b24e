"""What a dialect on the wire must offer: messages to events, events to messages."""

from collections.abc import Iterator
from typing import Protocol

from mlx_websockets.events import PeerEvent, ServerEvent


class WireProtocol(Protocol):
    """One dialect for one connection. Sans-I/O; `parse` never raises."""

    def parse(self, message: str | bytes) -> list[PeerEvent]:
        """The events in one WebSocket message; text is `str`, binary is `bytes`.

        A message that makes no sense becomes one `Unreadable`.
        """
        ...

    def render(self, event: ServerEvent, timestamp: float) -> Iterator[str | bytes]:
        """The WebSocket messages that tell the peer of `event`; none if its dialect has no word for it.

        Args:
            timestamp: seconds since 1970, for the messages that carry one.
        """
        ...
