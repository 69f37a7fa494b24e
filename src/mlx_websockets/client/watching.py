"""A stream of pictures on the way to the server, and what is said of those it gets to see.

Pictures come faster than they can be sent and described, so the newest counts and older
ones make way. Knows replies, no sockets.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, Generic, TypeVar

from mlx_websockets.client.errors import ClientError, ReplyError
from mlx_websockets.client.pictures import Picture
from mlx_websockets.client.replies import Reply, Result

MAX_UNSEEN_RESULTS = 8
"""Results that wait for who is slow to take them; the oldest makes way."""

Item = TypeVar("Item")

Show = Callable[[Picture, int, float], Reply]
"""Sends a frame, its number and when it was taken."""


async def watch(frames: Iterable[Picture] | AsyncIterable[Picture], show: Show) -> AsyncGenerator[Result, None]:
    """Show `frames` and yield the results of those that were not dropped. See `Client.watch`."""
    newest: NewestOnly[tuple[Picture, int, float]] = NewestOnly()
    shown = _Shown()
    reading = asyncio.create_task(_read(frames, newest))
    sending = asyncio.create_task(_send(newest, show, shown))
    sending.add_done_callback(lambda _: shown.note_all_sent())
    try:
        while reply := await shown.next_ended():
            try:
                result = await reply.result()
            except ReplyError as error:
                if not error.retryable:
                    raise
            else:
                if result.dropped is None:
                    yield result
        await sending  # raises what showing raised
        await reading  # raises what the frames raised
    finally:
        reading.cancel()
        sending.cancel()
        await asyncio.gather(reading, sending, return_exceptions=True)
        shown.cancel()


async def _read(frames: Iterable[Picture] | AsyncIterable[Picture], newest: "NewestOnly[Any]") -> None:
    number = 0
    try:
        async for image in each(frames):
            newest.offer((image, number, time.time()))
            number += 1
    finally:
        newest.close()


async def _send(newest: "NewestOnly[tuple[Picture, int, float]]", show: Show, shown: "_Shown") -> None:
    while (frame := await newest.take()) is not None:
        reply = show(*frame)
        shown.add(reply)
        await reply.sent()


class _Shown:
    """The replies that are open, and the newest of those that are over."""

    def __init__(self) -> None:
        self._open: dict[str, Reply] = {}
        self._ended: list[Reply] = []
        self._changed = asyncio.Event()
        self._are_all_sent = False

    def add(self, reply: Reply) -> None:
        self._open[reply.id] = reply
        reply.call_at_end(self._end)

    def note_all_sent(self) -> None:
        self._are_all_sent = True
        self._changed.set()

    async def next_ended(self) -> Reply | None:
        """The next reply that is over, or None: none is open, and none will be."""
        while not self._ended:
            if self._are_all_sent and not self._open:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._ended.pop(0)

    def cancel(self) -> None:
        with contextlib.suppress(ClientError):
            for reply in self._open.values():
                reply.cancel()

    def _end(self, reply: Reply) -> None:
        del self._open[reply.id]
        self._ended.append(reply)
        del self._ended[:-MAX_UNSEEN_RESULTS]
        self._changed.set()


class NewestOnly(Generic[Item]):
    """A place for one value; a newer one takes it."""

    def __init__(self) -> None:
        self._waiting: list[Item] = []
        self._changed = asyncio.Event()
        self._is_closed = False

    def offer(self, value: Item) -> None:
        """Put `value` in the place of whatever waits."""
        self._waiting = [value]
        self._changed.set()

    def close(self) -> None:
        """Nothing more will be offered."""
        self._is_closed = True
        self._changed.set()

    async def take(self) -> Item | None:
        """The newest value, once there is one; None if there will be none."""
        while not self._waiting:
            if self._is_closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.pop()


_END: Any = object()


async def each(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    """The items, one by one; of an iterable that may block, each is fetched in a thread."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    iterator = iter(items)
    while (item := await asyncio.to_thread(lambda: next(iterator, _END))) is not _END:
        yield item
