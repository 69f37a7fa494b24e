"""Whoever sends too much, too slowly, or never reads, is stopped; others never notice."""

import asyncio
import contextlib
import socket
import tempfile
import time

import pytest
from benchmarks.acceptance.crowd import scripted_server
from benchmarks.acceptance.fuzz import exchange
from tests.hostile.crafting import HANDSHAKE, as_json, close_code, frame, raw_peer, somebody_innocent
from tests.server.serving import HASTY, PATIENCE, hear, holds, running, say

from mlx_websockets.generation import Delta, Started
from mlx_websockets.server.limits import Limits


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "of one byte"])
def test_fragments_without_end_are_counted_and_refused(payload):
    async def story():
        async with (
            running(limits=Limits(max_fragments=100)) as server,
            somebody_innocent(server),
            raw_peer(server.port, HANDSHAKE) as peer,
        ):
            peer.send(frame(payload, 0x01) + frame(payload, 0x00) * 5000)

            assert close_code(await peer.rest()) == 1009

    asyncio.run(story())


def test_a_message_in_as_many_fragments_as_are_allowed_is_taken():
    async def story():
        async with running(limits=Limits(max_fragments=100)) as server, raw_peer(server.port, HANDSHAKE) as peer:
            text = as_json(type="ping", t=7).encode().ljust(100)
            pieces = [frame(bytes([byte]), 0x00) for byte in text]
            pieces[0] = frame(text[:1], 0x01)
            pieces[-1] = frame(text[-1:], 0x80)
            peer.send(b"".join(pieces))

            await asyncio.wait_for(peer.reader.readuntil(b'"pong"'), 5)

    asyncio.run(story())


def test_text_that_is_no_utf_8_ends_its_connection_and_leaves_no_traceback(caplog):
    async def story():
        async with running() as server, somebody_innocent(server):
            for _ in range(50):
                async with raw_peer(server.port, HANDSHAKE) as peer:
                    peer.send(frame(b"\xff\xfe" * 50))
                    assert close_code(await peer.rest()) == 1007

    asyncio.run(story())

    assert not caplog.records


def test_peers_that_vanish_leave_no_line_in_the_log(caplog):
    async def story():
        async with running() as server, somebody_innocent(server):
            for number in range(200):
                peer = await server.peer()
                await say(peer, type="text_input", content="hello", id=f"{number}")
                peer.transport.abort()
            await holds(lambda: len(server.engine.requests) > 0 and not server.engine.running)

    asyncio.run(story())

    assert not caplog.records


def test_half_open_handshakes_are_closed_in_time_and_hold_up_nobody():
    async def story():
        async with running(limits=HASTY) as server, somebody_innocent(server):
            streams = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(50)]
            for _, writer in streams:
                writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: b\r\n")

            answers = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in streams)), 5)

            assert answers == [b""] * 50
            for _, writer in streams:
                writer.transport.abort()

    asyncio.run(story())


def test_a_flood_of_questions_is_refused_past_the_queue_and_another_peer_is_answered():
    async def story():
        async with running(limits=Limits(max_waiting=10)) as server, somebody_innocent(server):
            greedy = await server.peer()
            for number in range(2000):
                await say(greedy, type="text_input", content="more", id=f"{number}")
            await say(greedy, type="ping", t="the end of it")
            refused = 0
            while (heard := await hear(greedy)).get("t") != "the end of it":
                refused += heard["type"] == "error" and heard["code"] in ("queue_full", "rate_limited")

            assert refused >= 1900
            asked = len(server.engine.requests)
            await say(other := await server.peer(), type="text_input", content="me too", id="x")
            await say(other, type="ping")
            await hear(other)
            while server.engine.requests[max(server.engine.requests)].messages[-1].text != "me too":
                server.engine.reply(server.engine.running[0].id, "done")
                await asyncio.sleep(0)

            assert len(server.engine.requests) - asked < 10  # it did not wait behind all that was there before

    asyncio.run(story())


def test_a_message_larger_than_any_may_be_is_refused_before_it_is_read():
    async def story():
        async with running() as server, somebody_innocent(server), raw_peer(server.port, HANDSHAKE) as peer:
            peer.send(frame(b"x" * 100, claimed=2**31))

            assert close_code(await peer.rest()) == 1009

    asyncio.run(story())


def test_pings_around_a_message_are_answered():
    async def story():
        async with running() as server, raw_peer(server.port, HANDSHAKE) as peer:
            peer.send(frame(b"before", 0x89) + frame(as_json(type="ping").encode()) + frame(b"between", 0x89))

            for each in (b"before", b"between"):
                await asyncio.wait_for(peer.reader.readuntil(each), 5)

    asyncio.run(story())


def test_out_of_descriptors_new_peers_are_told_the_log_stays_short_and_it_recovers():
    def knock(port: int) -> bytes:
        try:
            return exchange(port, HANDSHAKE)[9:12]
        except OSError:
            return b""

    with (
        tempfile.TemporaryFile("w+") as log,
        scripted_server(prefix=("sh", "-c", 'ulimit -n 64; exec "$@"', "sh"), stderr=log) as server,
        contextlib.ExitStack() as stack,
    ):
        there = []
        while len(there) < 60 and (peer := _let_in(server.port, stack)) is not None:
            there.append(peer)
        refused = [knock(server.port) for _ in range(100)]
        for each in there:
            each.close()
        late = _let_in_at_last(server.port, stack)
        late.sendall(frame(b'{"type": "ping"}'))

        assert 10 <= len(there) < 60
        assert set(refused) <= {b"503", b""} and refused.count(b"503") >= 50
        assert b'"pong"' in late.recv(4096)
        log.seek(0)
        assert len(log.readlines()) < 10


def _let_in(port: int, stack: contextlib.ExitStack) -> socket.socket | None:
    """A WebSocket, or None: it was turned away."""
    try:
        peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
        peer.sendall(HANDSHAKE)
        if peer.recv(4096).startswith(b"HTTP/1.1 101 "):
            return peer
        peer.close()
    except OSError:
        pass
    return None


def _let_in_at_last(port: int, stack: contextlib.ExitStack) -> socket.socket:
    """A WebSocket, once there is a place: of those who left one is free in a moment."""
    deadline = time.monotonic() + PATIENCE
    while (peer := _let_in(port, stack)) is None:
        assert time.monotonic() < deadline, "nobody is let in any more"
    return peer


def test_a_slow_reader_is_let_go_and_frees_its_row():
    async def story():
        async with running(limits=HASTY) as server, somebody_innocent(server):
            deaf = await server.peer(max_queue=1)
            await say(deaf, type="get_status")
            await hear(deaf)
            deaf.transport.pause_reading()
            await say(deaf, type="text_input", content="long", id="x")
            await holds(lambda: server.engine.running)
            request = server.engine.running[0]
            server.engine.say(Started(request.id))
            while server.engine.running:
                server.engine.say(Delta(request.id, "blah " * 20_000))
                await asyncio.sleep(0.01)

            assert server.engine.cancelled == [request.id]

    asyncio.run(story())
