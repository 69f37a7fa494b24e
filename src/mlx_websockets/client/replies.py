"""A reply while it arrives, and what it was once it has.

The connection's reader feeds it and never waits for who reads it: deltas that nobody takes
are merged, so a slow reader costs no more than the reply's own text.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from mlx_websockets.generation import Usage
from mlx_websockets.protocols.native_schema import Timings, TokenLogprob

MAX_UNREAD = 256
"""Pieces that wait one by one; further ones are merged into the last of their candidate."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next part of a reply.

    Attributes:
        text: may be empty where there are `logprobs`: not every token completes a character.
        candidate: which of several replies it belongs to.
        logprobs: of its tokens, if they were asked for.
    """

    text: str
    candidate: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One of several replies to the same question."""

    text: str
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a request came to.

    Attributes:
        text: the whole reply; of several, the first.
        finish_reason: "stop", "length", "cancelled" or "timeout"; None if there was no reply.
        dropped: why a frame was not looked at, such as "superseded"; None if it was.
        usage, timings: what it cost, see `docs/reference/protocol.md`.
        seconds: the engine's time for it.
        source, frame_id: whose picture it was about.
        candidates: all replies, where `candidate_count` asked for several.
        logprobs: of the tokens of `text`, where `logprobs` asked for them.
    """

    text: str = ""
    finish_reason: str | None = None
    dropped: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    seconds: float = 0.0
    source: str | None = None
    frame_id: str | int | None = None
    candidates: tuple[Candidate, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Reply:
    """The answer to one request. Iterate it for its text, or await what it comes to.

        reply = mlx.ask("Tell me a story.")
        async for delta in reply:
            print(delta, end="")
        print((await reply.result()).finish_reason)

    Both raise `ReplyError` if the server can't answer and `ConnectionLost` if it is gone.
    A reply that nobody awaits goes on all the same; `cancel` ends it. Of several candidates the
    text is the first one's; `pieces` has them all.
    """

    def __init__(
        self,
        id: str,
        cancel: Callable[[str], None],
        *,
        source: str | None = None,
        frame_id: str | int | None = None,
    ) -> None:
        self.id = id
        self.source = source
        self.frame_id = frame_id
        self._cancel = cancel
        self._unread: deque[Piece] = deque()
        self._logprobs: dict[int, list[TokenLogprob]] = {}
        self._changed = asyncio.Event()
        self._result: Result | None = None
        self._error: Exception | None = None
        self._was_sent = False
        self._ended: Callable[[Reply], None] = lambda _: None

    def __aiter__(self) -> "Reply":
        return self

    async def __anext__(self) -> str:
        while (piece := await self.next_piece()) is not None:
            if piece.text and piece.candidate == 0:
                return piece.text
        raise StopAsyncIteration

    async def pieces(self) -> AsyncIterator[Piece]:
        """Everything as it comes: each candidate's text, and how likely its tokens were. Raises what `result` does."""
        while (piece := await self.next_piece()) is not None:
            yield piece

    async def next_piece(self) -> Piece | None:
        """The next of `pieces`; None: there are no more."""
        while not self._unread:
            if self._error is not None:
                raise self._error
            if self._result is not None:
                return None
            await self._change()
        return self._unread.popleft()

    @property
    def is_over(self) -> bool:
        """Nothing more will come."""
        return self._result is not None or self._error is not None

    async def result(self) -> Result:
        """Wait for the end.

        Raises:
            ReplyError: the server refused the request or could not finish it.
            ConnectionLost: the connection ended first.
            UnknownPicture, OSError: a picture could not be sent.
        """
        while self._result is None:
            if self._error is not None:
                raise self._error
            await self._change()
        return self._result

    async def text(self) -> str:
        """The whole text, once it is whole. Raises what `result` does."""
        return (await self.result()).text

    def cancel(self) -> None:
        """Ask the server to end this reply with what it has. Does nothing if it is over."""
        if not self.is_over:
            self._cancel(self.id)

    async def sent(self) -> None:
        """Wait until the request has left, or can't."""
        while not (self._was_sent or self.is_over):
            await self._change()

    # --- what the connection does -------------------------------------------------------

    def note_sent(self) -> None:
        self._was_sent = True
        self._changed.set()

    def call_at_end(self, ended: "Callable[[Reply], None]") -> None:
        self._ended = ended

    def add(self, piece: Piece) -> None:
        self._logprobs.setdefault(piece.candidate, []).extend(piece.logprobs)
        same = (at for at in reversed(range(len(self._unread))) if self._unread[at].candidate == piece.candidate)
        last = next(same, None) if len(self._unread) >= MAX_UNREAD else None
        if last is None:
            self._unread.append(piece)
        else:
            self._unread[last] = _joined(self._unread[last], piece)
        self._changed.set()

    def logprobs(self, candidate: int) -> tuple[TokenLogprob, ...]:
        """Those of a candidate's tokens so far."""
        return tuple(self._logprobs.get(candidate, ()))

    def end(self, result: Result) -> None:
        self._result = result
        self._changed.set()
        self._ended(self)

    def fail(self, error: Exception) -> None:
        self._error = error
        self._changed.set()
        self._ended(self)

    async def _change(self) -> None:
        # Everybody who waits looks again after every change, so one event serves them all.
        self._changed.clear()
        await self._changed.wait()


def _joined(piece: Piece, later: Piece) -> Piece:
    return Piece(piece.text + later.text, piece.candidate, piece.logprobs + later.logprobs)
