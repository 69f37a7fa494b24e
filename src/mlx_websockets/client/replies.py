"""A reply while it arrives, and what it was once it has.

The connection's reader feeds it and never waits for who reads it: deltas that nobody takes
are merged, so a slow reader costs no more than the reply's own text.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mlx_websockets.generation import Usage
from mlx_websockets.protocols.native_schema import Timings

MAX_UNREAD = 256
"""Deltas that wait one by one; further ones are merged into the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a request came to.

    Attributes:
        text: the whole reply.
        finish_reason: "stop", "length", "cancelled" or "timeout"; None if there was no reply.
        dropped: why a frame was not looked at, such as "superseded"; None if it was.
        usage, timings: what it cost, see `docs/reference/protocol.md`.
        seconds: the engine's time for it.
        source, frame_id: whose picture it was about.
    """

    text: str = ""
    finish_reason: str | None = None
    dropped: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    seconds: float = 0.0
    source: str | None = None
    frame_id: str | int | None = None


class Reply:
    """The answer to one request. Iterate it for its deltas, or await what it comes to.

        reply = mlx.ask("Tell me a story.")
        async for delta in reply:
            print(delta, end="")
        print((await reply.result()).finish_reason)

    Both raise `ReplyError` if the server can't answer and `ConnectionLost` if it is gone.
    A reply that nobody awaits goes on all the same; `cancel` ends it.
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
        self._unread: deque[str] = deque()
        self._changed = asyncio.Event()
        self._result: Result | None = None
        self._error: Exception | None = None
        self._was_sent = False
        self._ended: Callable[[Reply], None] = lambda _: None

    def __aiter__(self) -> "Reply":
        return self

    async def __anext__(self) -> str:
        while not self._unread:
            if self._error is not None:
                raise self._error
            if self._result is not None:
                raise StopAsyncIteration
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

    def add(self, delta: str) -> None:
        if len(self._unread) < MAX_UNREAD:
            self._unread.append(delta)
        else:
            self._unread[-1] += delta
        self._changed.set()

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
