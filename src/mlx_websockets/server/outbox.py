"""What a peer is still owed: bounded, in order, and sent by one writer.

While a message is on its way to a slow peer, the deltas that gather behind it merge, so that
slowness costs the peer messages and never text. A peer that takes nothing for too long, or
that is owed too much, is stalled: its owner is told and nothing more is sent.

With a `Replay` it outlives its socket: what was on its way is kept, what is put meanwhile
waits and merges, and the next writer goes on where the peer says that the last one got to.
Nothing here knows turns, sessions or what the messages say.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace

from mlx_websockets.events import FrameDropped, Problem, ReplyDelta, ReplyFinished, ReplyStarted, ServerEvent
from mlx_websockets.server.limits import Limits
from mlx_websockets.server.replay import Message, Replay

Send = Callable[[Message], Awaitable[None]]
"""Hands one message to the transport and waits while that is full; raises `PeerGone`."""

LOGPROB_BYTES = 48
"""A token with its logarithm, as JSON."""

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
    """Of one turn: each candidate's newest delta if that still waits, and how many have merged into others."""

    newest: dict[int | None, _Entry] = field(default_factory=dict)
    merged: int = 0


class Outbox:
    """The messages that one peer has yet to get.

    Args:
        render: an event as the messages that tell of it.
        on_stalled: called if the peer is stalled.
        replay: keeps what is sent, for a peer that may come back on another socket.

    Attributes:
        is_closed: nothing will be sent any more; what was owed is gone.
    """

    def __init__(
        self,
        render: Callable[[ServerEvent], Iterable[Message]],
        *,
        on_stalled: Callable[[], None],
        limits: Limits = Limits(),
        replay: Replay | None = None,
    ) -> None:
        self.is_closed = False
        self._render = render
        self._on_stalled = on_stalled
        self._limits = limits
        self._replay = replay
        self._entries: deque[_Entry] = deque()
        self._size = 0
        self._streams: dict[int, _Stream] = {}  # by the identity of a turn's label
        self._is_left = False  # its writer has given up
        self._is_busy = False  # nobody would take the next entry now
        self._has_entries = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def put(self, event: ServerEvent) -> None:
        """Owe the peer `event`. Never waits."""
        if self.is_closed:
            return
        if isinstance(event, ReplyDelta):
            self._put_delta(event)
        else:
            self._keep_order(event)
            messages = list(self._render(event))
            self._append(_Entry(messages, sum(map(len, messages))))

    async def deliver(self, send: Send, again: Iterable[Message] = ()) -> None:
        """Send what is put, in order, until the peer is gone or stalled. One task at a time runs this.

        Args:
            send: where to.
            again: messages that go first and have been noted before.
        """
        try:
            for message in again:
                await self._hand_over(message, send)
            while True:
                self._is_busy = False
                if not self._entries:
                    self._is_empty.set()
                await self._has_entries.wait()
                self._is_busy = True
                for message in self._noted(self._take()):
                    await self._hand_over(message, send)
        except TimeoutError:
            self._leave_off()
            self._on_stalled()
        except PeerGone:
            self._leave_off()

    def pause(self) -> None:
        """The writer is gone; deltas merge, and a flush waits, until the next one has caught up."""
        self._is_busy = True
        self._is_left = False
        self._is_empty.clear()

    async def _hand_over(self, message: Message, send: Send) -> None:
        async with asyncio.timeout(self._limits.send_seconds):
            await send(message)

    def _noted(self, messages: list[Message]) -> list[Message]:
        if self._replay is not None:  # all of them before one is sent: the writer may be cancelled between them
            for message in messages:
                self._replay.note(message, asyncio.get_running_loop().time())
        return messages

    async def flush(self, seconds: float) -> bool:
        """Wait until nothing is owed, at most so long; tells whether that was reached."""
        if self._is_left:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()
        except TimeoutError:
            return False
        return not (self.is_closed or self._is_left)

    # --- deltas -----------------------------------------------------------------------

    def _put_delta(self, delta: ReplyDelta) -> None:
        stream = self._streams.setdefault(id(delta.turn), _Stream())
        newest, size = stream.newest.get(delta.candidate), _size(delta)
        if newest is not None and (self._is_busy or len(self._entries) >= MERGE_FROM_ENTRIES):
            assert isinstance(newest.content, ReplyDelta)
            newest.content = _merged(newest.content, delta)
            stream.merged += 1
            newest.size += size
            self._size += size
            self._check_bounds()
            return
        # The peer counts what it gets, so what merged before has no number of its own.
        stream.newest[delta.candidate] = _Entry(replace(delta, seq=delta.seq - stream.merged), size)
        self._append(stream.newest[delta.candidate])

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
        stream, candidate = self._streams.get(id(entry.content.turn)), entry.content.candidate
        if stream is not None and stream.newest.get(candidate) is entry:
            del stream.newest[candidate]
        return list(self._render(entry.content))

    def _check_bounds(self) -> None:
        """One message may be larger than the bound; what gathers behind it, or grows by merging, may not."""
        is_one_message = len(self._entries) == 1 and isinstance(self._entries[0].content, list)
        is_too_much = self._size > self._limits.max_owed_bytes and not is_one_message
        if is_too_much or len(self._entries) > self._limits.max_owed_messages:
            self.close()
            self._on_stalled()

    def _leave_off(self) -> None:
        """Nobody takes anything any more, unless somebody may come back for it."""
        if self._replay is None:
            self.close()
        self._is_left = True
        self._is_empty.set()

    def close(self) -> None:
        """Owe nothing any more."""
        self.is_closed = True
        self._entries.clear()
        self._streams.clear()
        self._size = 0
        self._has_entries.clear()
        self._is_empty.set()


def _merged(delta: ReplyDelta, later: ReplyDelta) -> ReplyDelta:
    """Both in one message, numbered as the first."""
    return replace(delta, text=delta.text + later.text, logprobs=delta.logprobs + later.logprobs)


def _size(delta: ReplyDelta) -> int:
    """About how many bytes it takes; exact for plain text, which is most of what is sent."""
    tokens = sum(LOGPROB_BYTES * (1 + len(token.top)) for token in delta.logprobs)
    return len(delta.text) + tokens
