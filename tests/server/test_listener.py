"""The bounds at the door: silence, crowds, and who may come in."""

import asyncio

import pytest
from serving import HASTY, hear, running, say
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from mlx_websockets.protocols.native_schema import SUBPROTOCOL
from mlx_websockets.server.limits import Limits


async def end_of(port: int, *pieces: bytes) -> bytes:
    """What a TCP peer gets, that sends these pieces slowly, until it is cut off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = asyncio.create_task(reader.read())
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.wait({got}, timeout=0.1)
        async with asyncio.timeout(5):
            return await got
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"GET / HTTP/1.1\r\n",),
        (b"GET ", b"/ ", b"HTTP/1.1\r\n", b"a: b\r\n", b"c: d\r\n", b"e: f\r\n"),
    ],
    ids=["silent", "unfinished", "dribbling"],
)
def test_a_connection_without_a_request_is_closed_in_time(pieces):
    async def story():
        async with running(limits=HASTY) as server:
            assert await end_of(server.port, *pieces) == b""

    asyncio.run(story())


def test_a_connection_that_became_a_websocket_stays():
    async def story():
        async with running(limits=Limits(handshake_seconds=0.05)) as server:
            peer = await server.peer()
            await end_of(server.port)  # outlasts the deadline

            await say(peer, type="ping", t=1)

            assert (await hear(peer))["type"] == "pong"

    asyncio.run(story())


def test_past_so_many_connections_the_next_is_told_to_come_later():
    async def story():
        async with running(limits=Limits(max_connections=2)) as server:
            first, _ = await server.peer(), await server.peer()

            with pytest.raises(InvalidStatus) as caught:
                await server.peer()
            await first.close()

            assert caught.value.response.status_code == 503
            await say(await server.peer(), type="ping")

    asyncio.run(story())


def test_compression_is_not_offered():
    async def story():
        async with running() as server, connect(f"ws://127.0.0.1:{server.port}") as peer:
            assert "Sec-WebSocket-Extensions" not in peer.response.headers

    asyncio.run(story())


@pytest.mark.parametrize("origin", [None, "http://localhost:3000", "http://127.0.0.1:{port}"])
def test_pages_of_this_machine_come_in(origin):
    async def story():
        async with running() as server:
            peer = await server.peer(origin=origin and origin.format(port=server.port))
            await say(peer, type="ping")

            assert (await hear(peer))["type"] == "pong"

    asyncio.run(story())


@pytest.mark.parametrize("origin", ["null", "https://evil.example", "file://"])
def test_a_foreign_page_is_let_in_only_to_hear_why_not(origin):
    async def story():
        async with running() as server:
            peer = await server.peer(origin=origin, subprotocols=[SUBPROTOCOL])

            with pytest.raises(ConnectionClosedError):
                await asyncio.wait_for(peer.recv(), 5)

            assert (peer.close_code, peer.close_reason) == (1008, "Pages of this origin may not connect.")

    asyncio.run(story())


def test_a_foreign_host_is_refused_before_the_upgrade():
    request = (
        b"GET / HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )

    async def story():
        async with running() as server:
            answer = await end_of(server.port, request)

            assert answer.startswith(b"HTTP/1.1 403") and b"Host header" in answer

    asyncio.run(story())


def test_an_unknown_path_is_refused():
    async def story():
        async with running() as server:
            with pytest.raises(InvalidStatus) as caught:
                await server.peer("/elsewhere")

            assert caught.value.response.status_code in (403, 404)

    asyncio.run(story())
