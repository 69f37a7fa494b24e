"""What no client library would send, and a peer who has nothing to do with it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.acceptance.crowd import HANDSHAKE
from benchmarks.acceptance.fuzz import close_code, frame
from tests.server.serving import PATIENCE, Running, hear, say

__all__ = ["HANDSHAKE", "close_code", "frame"]


class RawPeer:
    """A socket whose bytes a test writes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """Everything until the server ends the connection."""
        try:
            async with asyncio.timeout(4 * PATIENCE):
                return await self.reader.read()
        except ConnectionError:
            return b""

    def leave(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def raw_peer(port: int, handshake: bytes = b"") -> AsyncIterator[RawPeer]:
    """A TCP connection; one that became a WebSocket if a handshake is given."""
    peer = RawPeer(*await asyncio.open_connection("127.0.0.1", port))
    try:
        if handshake:
            peer.send(handshake)
            async with asyncio.timeout(PATIENCE):
                assert b" 101 " in await peer.reader.readuntil(b"\r\n\r\n")
        yield peer
    finally:
        peer.leave()


@asynccontextmanager
async def somebody_innocent(server: Running) -> AsyncIterator[None]:
    """Another peer, who asks all the while; each question must be answered."""
    socket = await server.peer()
    answered = 0

    async def ask() -> None:
        nonlocal answered
        while True:
            await say(socket, type="ping", t=answered)
            assert (await hear(socket))["t"] == answered
            answered += 1

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        await asyncio.wait({asking}, timeout=0.05)
        asking.cancel()
        (ended,) = await asyncio.gather(asking, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), f"somebody innocent was not answered: {ended!r}"
        assert answered


async def errors_of(server: Running, *messages: str | bytes) -> list[dict[str, object]]:
    """The errors that these get, on one connection that must outlive them."""
    peer = await server.peer()
    for each in messages:
        await peer.send(each)
    await say(peer, type="ping", t="the end of it")
    errors = []
    while (heard := await hear(peer)).get("t") != "the end of it":
        if heard["type"] == "error":
            errors.append(heard)
    return errors


def as_json(**message: object) -> str:
    return json.dumps(message)
