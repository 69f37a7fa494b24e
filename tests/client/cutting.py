"""A way to the server that breaks: bytes go through, up to some byte, and then the socket is gone."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Cutter:
    """Relays TCP to a server and cuts each connection, but for the last ones, after so many bytes.

    Attributes:
        cuts: how many connections were cut.
    """

    def __init__(self, port: int, lengths: Iterator[int]) -> None:
        self.cuts = 0
        self._port = port
        self._lengths = lengths

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        left = [next(self._lengths, -1)]

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(4096):
                if 0 <= left[0] < len(data):
                    sink.write(data[: left[0]])
                    self.cuts += 1
                    return
                if left[0] >= 0:
                    left[0] -= len(data)
                sink.write(data)

        pumps = [asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in pumps:
                each.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in (writer, back):
                each.close()  # sends what fits, and is heard as a connection that ends without a word


@asynccontextmanager
async def cutting(url: str, lengths: Iterator[int]) -> AsyncIterator[tuple[str, Cutter]]:
    """The URL of a relay to `url`; its connections end after `lengths` bytes, those after the last never."""
    cutter = Cutter(urlsplit(url).port or 0, lengths)
    relay = await asyncio.start_server(cutter.relay, "127.0.0.1", 0)
    async with relay:
        port = relay.sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}", cutter


def random_lengths(count: int, seed: int, most: int) -> Iterator[int]:
    """Where to cut: anywhere from the handshake on, also inside a message's header."""
    chance = random.Random(seed)
    return iter([chance.randint(0, most) + 700 for _ in range(count)])
