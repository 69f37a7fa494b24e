"""A session outlives its socket: for who has its token, for a while, and only if the peer did not end it."""

import asyncio
from typing import Any

from serving import (
    HASTY,
    PATIENCE,
    StartableScriptedEngine,
    close_code,
    hear,
    hear_until,
    holds,
    request_at,
    running,
    say,
)
from websockets.asyncio.client import ClientConnection

from mlx_websockets.generation import Delta, Started
from mlx_websockets.protocols.native_schema import SUBPROTOCOL
from mlx_websockets.server.limits import Limits


async def greeted(server) -> tuple[ClientConnection, dict[str, Any]]:
    peer = await server.peer(subprotocols=[SUBPROTOCOL])
    return peer, await hear(peer)


async def resume(server, hello, last_seq: int, **more: Any) -> tuple[ClientConnection, dict[str, Any]]:
    peer, _ = await greeted(server)
    await say(peer, type="resume", token=hello["resume_token"], last_seq=last_seq, **more)
    return peer, await hear(peer)


def test_what_was_missed_comes_again_and_the_reply_goes_on():
    async def story():
        async with running() as server:
            peer, hello = await greeted(server)
            await say(peer, type="text_input", content="story", id="s")
            request = await request_at(server.engine, 0)
            for update in (Started(request.id), Delta(request.id, "Once")):
                server.engine.say(update)
            await hear_until(peer, "token")

            peer.transport.abort()
            server.engine.say(Delta(request.id, " upon"))
            server.engine.say(Delta(request.id, " a"))
            again, resumed = await resume(server, hello, 1, id="r")
            server.engine.reply(request.id, " time")

            assert resumed["missed"] >= 1  # and what was sent before the break was noticed
            expected = {"type": "resumed", "id": "r", "session": hello["session"], "received": 1}
            assert resumed == expected | {"missed": resumed["missed"]}
            *tokens, whole = [
                each for each in await hear_until(again, "response_complete") if "seq" in each or "full_text" in each
            ]
            assert [each["seq"] for each in tokens] == list(range(len(tokens)))
            assert whole["full_text"] == "".join(each["content"] for each in tokens) == "Once upon a time"
            assert server.engine.cancelled == []

    asyncio.run(story())


def test_a_socket_that_still_seems_open_is_closed_by_its_successor():
    async def story():
        async with running() as server:
            peer, hello = await greeted(server)
            await say(peer, type="ping", t=1)
            await hear(peer)

            again, resumed = await resume(server, hello, 1)

            assert (resumed["type"], resumed["missed"]) == ("resumed", 0)
            assert await close_code(peer) == 1000
            await say(again, type="get_status")
            assert (await hear(again))["stats"]["queue"]["connections"] == 1

    asyncio.run(story())


def test_a_peer_that_says_goodbye_takes_its_session_along():
    async def story():
        async with running() as server:
            peer, hello = await greeted(server)
            await say(peer, type="text_input", content="long")
            request = await request_at(server.engine, 0)

            await peer.close()

            await holds(lambda: server.engine.cancelled == [request.id])
            again, refused = await resume(server, hello, 0)
            assert (refused["type"], refused["code"]) == ("error", "resume_failed")
            await say(again, type="ping", t="still there")
            assert (await hear(again))["t"] == "still there"

    asyncio.run(story())


def test_nobody_gets_a_session_without_its_whole_token_or_from_its_future():
    async def story():
        async with running() as server:
            peer, hello = await greeted(server)
            peer.transport.abort()
            wrong = {"resume_token": hello["session"] + ".guess"}

            assert (await resume(server, wrong, 0))[1]["code"] == "resume_failed"
            assert (await resume(server, hello, 5))[1]["code"] == "resume_failed"
            assert (await resume(server, hello, 0))[1]["type"] == "resumed"

    asyncio.run(story())


def test_only_the_first_message_of_version_2_can_resume():
    async def story():
        async with running() as server:
            lost, hello = await greeted(server)
            lost.transport.abort()
            late, _ = await greeted(server)
            await say(late, type="ping")
            await hear(late)
            plain = await server.peer()

            for peer in (late, plain):
                await say(peer, type="resume", token=hello["resume_token"], last_seq=0)
                assert (await hear(peer))["code"] == "resume_failed"

    asyncio.run(story())


def test_a_session_whose_peer_stays_away_is_given_up_with_its_rows():
    async def story():
        async with running(limits=Limits(park_seconds=0.05)) as server:
            peer, hello = await greeted(server)
            await say(peer, type="text_input", content="long")
            request = await request_at(server.engine, 0)

            peer.transport.abort()

            await holds(lambda: server.engine.cancelled == [request.id])
            assert (await resume(server, hello, 0))[1]["code"] == "resume_failed"

    asyncio.run(story())


def test_a_session_that_is_owed_more_than_is_kept_is_given_up_with_its_rows():
    async def story():
        async with running(limits=Limits(max_owed_bytes=10_000)) as server:
            peer, hello = await greeted(server)
            await say(peer, type="text_input", content="long")
            request = await request_at(server.engine, 0)
            peer.transport.abort()

            while not server.engine.cancelled:
                server.engine.say(Delta(request.id, "blah " * 100))
                await asyncio.sleep(0)

            assert (await resume(server, hello, 0))[1]["code"] == "resume_failed"

    asyncio.run(story())


def test_a_stalled_peer_may_come_back():
    async def story():
        async with running(limits=HASTY) as server:
            peer, hello = await greeted(server)
            await say(peer, type="text_input", content="long", id="x")
            request = await request_at(server.engine, 0)
            peer.transport.pause_reading()
            said = 0
            while (await stats(server))["connections"] > 1:
                server.engine.say(Delta(request.id, "blah " * 20_000))
                said += 1

            again, resumed = await resume(server, hello, 0)
            server.engine.reply(request.id, "end")

            assert resumed["type"] in ("resumed", "error")
            if resumed["type"] == "resumed":
                assert (await hear_until(again, "response_complete"))[-1][
                    "full_text"
                ] == "blah " * 20_000 * said + "end"
            else:  # more was under way than is kept
                assert server.engine.cancelled == [request.id]

    async def stats(server) -> dict[str, Any]:
        watcher = await server.peer()
        await say(watcher, type="get_status")
        queue = (await hear(watcher))["stats"]["queue"]
        await watcher.close()
        return queue

    asyncio.run(story())


def test_a_server_that_stops_gives_lost_sessions_up_at_once():
    async def story():
        engine = StartableScriptedEngine()
        async with running(engine) as server:
            peer, _ = await greeted(server)
            await say(peer, type="text_input", content="long")
            request = await request_at(engine, 0)
            peer.transport.abort()
            await asyncio.sleep(0.05)

            server.stop.ask()
            await asyncio.wait_for(asyncio.shield(server.task), PATIENCE)

            assert engine.cancelled == [request.id]

    asyncio.run(story())


def test_a_restart_is_told_and_closes_with_its_own_code():
    async def story():
        async with running(limits=HASTY) as server:
            peer, _ = await greeted(server)

            server.stop.ask_for_heir()

            goaway = await hear(peer)
            assert goaway["type"] == "goaway" and "restart" in goaway["reason"]
            assert await close_code(peer) == 1012

    asyncio.run(story())
