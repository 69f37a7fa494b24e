"""What a peer is still owed: bounded, in order, and sent by one writer.

While a message is on its way to a slow peer, the deltas that gather behind it merge, so that
slowness costs the peer messages and never text. A peer that takes nothing for too long, or
that is owed too much, is stalled: its owner is told and nothing more is sent. Nothing here
knows turns, sessions or what the messages say.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from mlx_websockets.events import FrameDropped, Problem, ReplyDelta, ReplyFinished, ReplyStarted, ServerEvent
from mlx_websockets.server.limits import Limits

Message = str | bytes

MERGE_FROM_ENTRIES = 64
"""So much waiting is slowness too, even if the writer has not had its turn yet."""


class PeerGone(Exception):
    """Raised by the function that sends when there is nobody left to send to."""


@dataclass(slots=True)
class _Entry:
    """What waits to be sent: a delta that may still grow, or messages as they will go out."""

    content: ReplyDelta | list[Message]
    size: int


@dataclass(slots=True)
class _Stream:
    """Of one turn: its newest delta if that still waits, and how many have merged into others."""

    newest: _Entry | None = None
    merged: int = 0


class Outbox:
    """The messages that one peer has yet to get.

    Args:
        render: an event as the messages that tell of it.
        send: hands one message to the transport and waits while that is full; raises `PeerGone`.
        on_stalled: called once if the peer is stalled.
        on_gone: called once if `send` finds that the peer is gone.
    """

    def __init__(
        self,
        render: Callable[[ServerEvent], Iterable[Message]],
        send: Callable[[Message], Awaitable[None]],
        *,
        on_stalled: Callable[[], None],
        on_gone: Callable[[], None],
        limits: Limits = Limits(),
    ) -> None:
        self._render = render
        self._send = send
        self._on_stalled = on_stalled
        self._on_gone = on_gone
        self._limits = limits
        self._entries: deque[_Entry] = deque()
        self._size = 0
        self._streams: dict[int, _Stream] = {}  # by the identity of a turn's label
        self._is_sending = False
        self._is_closed = False
        self._has_entries = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def put(self, event: ServerEvent) -> None:
        """Owe the peer `event`. Never waits."""
        if self._is_closed:
            return
        if isinstance(event, ReplyDelta):
            self._put_delta(event)
        else:
            self._keep_order(event)
            messages = list(self._render(event))
            self._append(_Entry(messages, sum(map(len, messages))))

    async def deliver(self) -> None:
        """Send what is put, in order, until the peer is gone or stalled. One task runs this."""
        try:
            while True:
                await self._has_entries.wait()
                self._is_sending = True
                for message in self._take():
                    async with asyncio.timeout(self._limits.send_seconds):
                        await self._send(message)
                self._is_sending = False
                if not self._entries:
                    self._is_empty.set()
        except TimeoutError:
            self._close(self._on_stalled)
        except PeerGone:
            self._close(self._on_gone)

    async def flush(self, seconds: float) -> bool:
        """Wait until nothing is owed, at most so long; tells whether that was reached."""
        try:
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()
        except TimeoutError:
            return False
        return not self._is_closed

    # --- deltas -----------------------------------------------------------------------

    def _put_delta(self, delta: ReplyDelta) -> None:
        stream = self._streams.setdefault(id(delta.turn), _Stream())
        newest = stream.newest
        if newest is not None and (self._is_sending or len(self._entries) >= MERGE_FROM_ENTRIES):
            assert isinstance(newest.content, ReplyDelta)
            newest.content = replace(newest.content, text=newest.content.text + delta.text)
            stream.merged += 1
            newest.size += len(delta.text)
            self._size += len(delta.text)
            self._check_bounds()
            return
        # The peer counts what it gets, so what merged before has no number of its own.
        stream.newest = _Entry(replace(delta, seq=delta.seq - stream.merged), len(delta.text))
        self._append(stream.newest)

    def _keep_order(self, event: ServerEvent) -> None:
        """No delta may join one that went before another event of its turn."""
        match event:
            case ReplyStarted(turn=turn) | ReplyFinished(turn=turn) | FrameDropped(turn=turn) | Problem(turn=turn):
                self._streams.pop(id(turn), None)

    # --- entries ----------------------------------------------------------------------

    def _append(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._has_entries.set()
        self._is_empty.clear()
        self._size += entry.size
        self._check_bounds()

    def _take(self) -> list[Message]:
        entry = self._entries.popleft()
        self._size -= entry.size
        if not self._entries:
            self._has_entries.clear()
        if isinstance(entry.content, list):
            return entry.content
        stream = self._streams.get(id(entry.content.turn))
        if stream is not None and stream.newest is entry:
            stream.newest = None
        return list(self._render(entry.content))

    def _check_bounds(self) -> None:
        """One message may be larger than the bound; what gathers behind it may not."""
        is_too_much = len(self._entries) > 1 and self._size > self._limits.max_owed_bytes
        if is_too_much or len(self._entries) > self._limits.max_owed_messages:
            self._close(self._on_stalled)

    def _close(self, tell: Callable[[], None]) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._entries.clear()
        self._streams.clear()
        self._has_entries.clear()
        self._is_empty.set()
        tell()
