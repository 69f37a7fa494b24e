"""One socket's life, over a real socket: what peers get, whatever happens around them."""

import asyncio
import base64
import contextlib
import io
import json
import logging
import socket as sockets

import pytest
from PIL import Image as Pillow
from serving import (
    HASTY,
    StartableScriptedEngine,
    close_code,
    hear,
    hear_until,
    holds,
    kinds,
    request_at,
    running,
    say,
)
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from mlx_websockets.events import EncodedImage
from mlx_websockets.generation import Delta, Started
from mlx_websockets.protocols.native_schema import SUBPROTOCOL
from mlx_websockets.server.desk import with_newest_images
from mlx_websockets.server.limits import Limits
from mlx_websockets.sessions.session import DraftMessage
from mlx_websockets.settings import MAX_MESSAGE_BYTES
from mlx_websockets.testing import whole_reply


def picture(size: tuple[int, int] = (8, 8)) -> str:
    file = io.BytesIO()
    Pillow.new("RGB", size, "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def echoing() -> StartableScriptedEngine:
    """Says what it was asked, word by word."""
    return StartableScriptedEngine(lambda request: whole_reply(request.id, *request.messages[-1].text.split()))


@pytest.mark.parametrize("path", ["/", "/ws"])
def test_a_question_gets_its_reply_in_order(path):
    async def story():
        async with running(echoing()) as server:
            peer = await server.peer(path)

            await say(peer, type="text_input", content="one two three")

            messages = await hear_until(peer, "response_complete")
            assert kinds(messages) == ["response_start", "token", "token", "token", "response_complete"]
            assert [each["content"] for each in messages[1:4]] == ["one", "two", "three"]
            assert messages[-1]["full_text"] == "onetwothree"

    asyncio.run(story())


def test_requests_with_ids_interleave():
    async def story():
        async with running() as server:
            peer = await server.peer()
            await say(peer, type="text_input", content="a", id="a")
            await say(peer, type="text_input", content="b", id="b")
            a, b = (await request_at(server.engine, 0)).id, (await request_at(server.engine, 1)).id

            for update in (Started(a), Started(b), Delta(a, "A"), Delta(b, "B"), Delta(a, "AA")):
                server.engine.say(update)

            messages = [await hear(peer) for _ in range(5)]
            assert [(each["id"], each.get("seq")) for each in messages] == [
                ("a", None),
                ("b", None),
                ("a", 0),
                ("b", 0),
                ("a", 1),
            ]

    asyncio.run(story())


def test_a_peer_of_version_2_is_greeted_and_others_are_not():
    async def story():
        async with running(echoing()) as server:
            modern, plain = await server.peer(subprotocols=[SUBPROTOCOL]), await server.peer()
            await say(plain, type="get_status")

            hello, status = await hear(modern), await hear(plain)

            assert modern.subprotocol == SUBPROTOCOL and plain.subprotocol is None
            assert (hello["type"], hello["model"]) == ("hello", {"id": "scripted", "vision": True})
            assert status["type"] == "status"

    asyncio.run(story())


def test_the_status_has_the_settings_of_its_connection():
    async def story():
        async with running() as server:
            peer, other = await server.peer(), await server.peer()
            await say(peer, type="config", temperature=0.1)
            await hear(peer)
            await say(peer, type="get_status")
            await say(other, type="get_status")

            stats, others = (await hear(peer))["stats"], (await hear(other))["stats"]

            assert (stats["config"]["temperature"], others["config"]["temperature"]) == (0.1, 0.7)
            assert stats["queue"] == {"waiting": 0, "running": 0, "connections": 2}
            assert stats["model"] == {"name": "scripted", "loaded": True, "vision": True}

    asyncio.run(story())


# --- pictures -------------------------------------------------------------------------


def test_a_picture_reaches_the_engine_opened():
    async def story():
        async with running() as server:
            peer = await server.peer()

            await say(peer, type="image_input", image=picture((20, 10)), prompt="What?")

            message = (await request_at(server.engine, 0)).messages[-1]
            assert (message.text, message.images[0].width, message.images[0].height) == ("What?", 20, 10)

    asyncio.run(story())


def test_a_picture_that_cannot_be_opened_is_refused_and_the_talk_goes_on():
    async def story():
        async with running(echoing()) as server:
            peer = await server.peer()

            await say(peer, type="image_input", image="bm90IGEgcGljdHVyZQ==", id="1")
            error = await hear(peer)
            await say(peer, type="text_input", content="still here", id="2")

            assert (error["code"], error["id"], error["param"]) == ("invalid_image", "1", "$.image")
            assert (await hear_until(peer, "response_complete"))[-1]["id"] == "2"

    asyncio.run(story())


def test_a_frame_is_superseded_by_a_newer_one_of_its_source():
    async def story():
        async with running() as server:
            peer = await server.peer()
            await say(peer, type="video_frame", frame=picture((5, 5)), source="webcam", frame_id=1)
            first = await request_at(server.engine, 0)
            await say(peer, type="video_frame", frame=picture((6, 6)), source="webcam", frame_id=2)
            await say(peer, type="video_frame", frame=picture((7, 7)), source="webcam", frame_id=3)

            dropped = await hear(peer)
            server.engine.reply(first.id, "a five")

            assert (dropped["type"], dropped["reason"]) == ("frame_dropped", "superseded")
            assert (await request_at(server.engine, 1)).messages[-1].images[0].width == 7

    asyncio.run(story())


def test_a_model_that_cannot_see_is_named_before_anything_is_opened():
    async def story():
        engine = StartableScriptedEngine()
        engine.sees = False
        engine.max_images = 0
        async with running(engine) as server:
            peer = await server.peer()

            await say(peer, type="image_input", image="bm90IGEgcGljdHVyZQ==")

            error = await hear(peer)
            assert error["code"] == "model_cannot_see" and "--model demo" in error["error"]

    asyncio.run(story())


def test_more_pictures_than_the_model_takes_are_refused():
    async def story():
        engine = StartableScriptedEngine()
        engine.max_images = 1
        async with running(engine) as server:
            peer = await server.peer()

            await say(peer, type="image_input", images=[picture(), picture()])

            assert (await hear(peer))["code"] == "too_many_images"

    asyncio.run(story())


def test_remembered_pictures_make_room_for_new_ones():
    image = EncodedImage(b"")
    old = DraftMessage(role="user", text="old", images=(image, image))
    new = DraftMessage(role="user", text="new", images=(image,))

    fitted = with_newest_images((old, new, new), 2)

    assert [len(message.images) for message in fitted] == [0, 1, 1]


def test_a_cancelled_picture_never_reaches_the_engine():
    async def story():
        async with running(limits=Limits()) as server:
            peer = await server.peer()

            await say(peer, type="image_input", image=picture((3000, 3000)), id="1")
            await say(peer, type="cancel", id="1")
            await say(peer, type="text_input", content="next", id="2")

            ended = (await hear_until(peer, "response_complete"))[-1]
            assert (ended["id"], ended["finish_reason"]) == ("1", "cancelled")
            assert (await request_at(server.engine, 0)).messages[-1].text == "next"

    asyncio.run(story())


# --- ends -----------------------------------------------------------------------------


def test_a_cancelled_reply_ends_with_what_it_had():
    async def story():
        async with running() as server:
            peer = await server.peer()
            await say(peer, type="text_input", content="story", id="s")
            request = await request_at(server.engine, 0)
            server.engine.say(Started(request.id))
            server.engine.say(Delta(request.id, "Once"))

            await say(peer, type="cancel", id="s")

            ended = (await hear_until(peer, "response_complete"))[-1]
            assert (ended["full_text"], ended["finish_reason"]) == ("Once", "cancelled")
            assert server.engine.cancelled == [request.id]

    asyncio.run(story())


def test_a_reply_that_takes_too_long_ends_with_what_it_had():
    async def story():
        async with running(limits=Limits(reply_seconds=0.1)) as server:
            peer = await server.peer()
            await say(peer, type="text_input", content="story", id="s")
            request = await request_at(server.engine, 0)
            server.engine.say(Delta(request.id, "Once"))

            ended = (await hear_until(peer, "response_complete"))[-1]

            assert (ended["full_text"], ended["finish_reason"]) == ("Once", "timeout")
            assert server.engine.cancelled == [request.id]

    asyncio.run(story())


def test_a_peer_that_leaves_frees_its_rows():
    async def story():
        engine = StartableScriptedEngine()
        engine.rows = 1
        async with running(engine) as server:
            leaver, waiter = await server.peer(), await server.peer()
            await say(leaver, type="text_input", content="long")
            first = await request_at(engine, 0)
            await say(waiter, type="text_input", content="next")

            await leaver.close()

            assert (await request_at(engine, 1)).messages[-1].text == "next"
            assert engine.cancelled == [first.id]

    asyncio.run(story())


def test_a_crash_of_the_engine_is_told_and_the_sockets_survive():
    async def story():
        async with running() as server:
            peer = await server.peer()
            await say(peer, type="text_input", content="before", id="1")
            await request_at(server.engine, 0)

            server.engine.crash()
            error = await hear(peer)
            await say(peer, type="text_input", content="after", id="2")
            await say(peer, type="ping", t=1)
            await hear_until(peer, "pong")
            server.engine.recover()
            server.engine.reply((await request_at(server.engine, 1)).id, "back")

            assert (error["code"], error["id"], error["retryable"]) == ("engine_restarted", "1", True)
            assert (await hear_until(peer, "response_complete"))[-1]["id"] == "2"

    asyncio.run(story())


def test_a_message_over_the_limit_closes_with_1009():
    async def story():
        async with running() as server:
            peer = await server.peer()

            with contextlib.suppress(ConnectionClosed):  # perhaps before it is all written
                await peer.send("x" * (MAX_MESSAGE_BYTES + 1))

            assert await close_code(peer) == 1009

    asyncio.run(story())


def test_a_mistake_of_ours_closes_that_connection_and_no_other(caplog):
    class Faulty(StartableScriptedEngine):
        def submit(self, request, listener):
            if request.messages[-1].text == "my secret":
                raise KeyError(request.messages[-1].text)
            super().submit(request, listener)

    async def story():
        engine = Faulty()
        engine.script = lambda request: whole_reply(request.id, "fine")
        async with running(engine, HASTY) as server:
            unlucky, lucky = await server.peer(subprotocols=[SUBPROTOCOL]), await server.peer()

            await say(unlucky, type="text_input", content="my secret")
            error = (await hear_until(unlucky, "error"))[-1]
            await say(lucky, type="text_input", content="hello")

            assert (error["code"], error["fatal"]) == ("internal_error", True)
            assert await close_code(unlucky) == 1011
            assert (await hear_until(lucky, "response_complete"))[-1]["full_text"] == "fine"
            assert error["error"].split()[-1].rstrip(".") in caplog.text

    with caplog.at_level(logging.ERROR):
        asyncio.run(story())

    assert "my secret" not in caplog.text


# --- bad company ----------------------------------------------------------------------


def test_nonsense_gets_an_answer_each_and_disturbs_nobody():
    nonsense = [
        "",
        "{",
        "[]",
        "null",
        '{"type": 5}',
        '{"type": "dance"}',
        '{"type": "text_input"}',
        b"\x00\x01",
        b"M\x01\xff",
    ]

    async def story():
        async with running(echoing()) as server:
            vandal, other = await server.peer(), await server.peer()

            async def flood():
                for message in nonsense * 20:
                    await vandal.send(message)
                return [(await hear(vandal))["type"] for _ in nonsense * 20]

            flooding = asyncio.create_task(flood())
            for _ in range(20):
                await say(other, type="text_input", content="hello")
                assert (await hear_until(other, "response_complete"))[-1]["full_text"] == "hello"

            assert set(await flooding) == {"error"}

    asyncio.run(story())


async def deaf_peer(port: int) -> sockets.socket:
    """A WebSocket that reads nothing after its handshake."""
    loop = asyncio.get_running_loop()
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await loop.sock_connect(raw, ("127.0.0.1", port))
    key = base64.b64encode(bytes(16)).decode()
    request = (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await loop.sock_sendall(raw, request.encode())
    assert b"101" in await loop.sock_recv(raw, 2000)
    return raw


def masked(payload: bytes, opcode: int = 1) -> bytes:
    """A client's frame, masked with zeros."""
    assert len(payload) < 126
    return bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload


def test_a_peer_that_reads_nothing_is_let_go_while_others_stream():
    async def story():
        async with running(limits=HASTY) as server:
            other = await server.peer()
            deaf = await deaf_peer(server.port)
            question = json.dumps({"type": "text_input", "content": "long", "id": "x"}).encode()
            await asyncio.get_running_loop().sock_sendall(deaf, masked(question))
            long = await request_at(server.engine, 0)
            await say(other, type="text_input", content="short")
            short = await request_at(server.engine, 1)

            while not server.engine.cancelled:
                server.engine.say(Delta(long.id, "blah " * 20_000))
                server.engine.say(Delta(short.id, "."))
                assert (await hear(other))["content"] == "."

            assert server.engine.cancelled == [long.id]
            server.engine.reply(short.id, "!")
            assert (await hear_until(other, "response_complete"))[-1]["full_text"].endswith(".!")
            deaf.close()

    asyncio.run(story())


def test_a_flood_of_pings_without_reading_is_cut_off():
    async def story():
        async with running(limits=HASTY) as server:
            deaf = await deaf_peer(server.port)
            loop = asyncio.get_running_loop()

            async def flood():
                while True:
                    await loop.sock_sendall(deaf, masked(b"x" * 120, opcode=9) * 1000)

            with pytest.raises((ConnectionError, BrokenPipeError)):
                await asyncio.wait_for(flood(), 10)
            deaf.close()

    asyncio.run(story())


def test_connections_come_and_go_and_leave_nothing():
    async def story():
        async with running() as server:
            for _ in range(30):
                async with connect(f"ws://127.0.0.1:{server.port}", compression=None) as peer:
                    await say(peer, type="text_input", content="hello")
            watcher = await server.peer()

            async def connections():
                await say(watcher, type="get_status")
                return (await hear(watcher))["stats"]["queue"]

            queue = await connections()
            while queue["connections"] > 1:
                queue = await connections()
            assert queue == {"waiting": 0, "running": 0, "connections": 1}
            await holds(lambda: not server.engine.running)

    asyncio.run(story())


def test_more_candidates_than_the_engine_has_rows_are_refused():
    async def story():
        engine = StartableScriptedEngine()
        engine.rows = 2
        async with running(engine) as server:
            peer = await server.peer()
            await say(peer, type="text_input", id="q", content="Hi", config={"candidateCount": 3})
            return await hear(peer)

    refused = asyncio.run(story())

    assert (refused["code"], refused["param"]) == ("invalid_config", "$.config.candidateCount")
    assert refused["error"] == "`candidateCount` must be a whole number between 1 and 2, got 3"
