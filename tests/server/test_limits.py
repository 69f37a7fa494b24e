"""Each limit, met through a real socket: who is past it is told by a code of its own, and nobody else is touched.

Message bytes, fragments, the handshake and stalled readers have their tests in test_listener.py and
test_connection.py, pictures in test_images.py, JSON in test_native.py, the queue in test_session.py.
"""

import asyncio
import base64
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from serving import close_code, hear, hear_until, holds, kinds, request_at, running, say
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from mlx_websockets.protocols.native_schema import SUBPROTOCOL
from mlx_websockets.server.access import Access
from mlx_websockets.server.app import create_app
from mlx_websockets.server.limits import FIXED, Limits, declared, told
from mlx_websockets.server.listener import http_protocol
from mlx_websockets.server.parties import Key, holder
from mlx_websockets.server.run import listener_config
from mlx_websockets.settings import Settings
from mlx_websockets.testing import SMALL_GIF, ScriptedEngine

REPOSITORY = Path(__file__).parents[2]
PICTURE = base64.b64encode(SMALL_GIF).decode()
FROM_AFAR = {"additional_headers": {"x-forwarded-for": "203.0.113.7"}}
"""Makes a peer one of another machine, behind a proxy on this one."""


def test_a_peer_hears_every_limit_in_its_hello():
    async def story():
        async with running(limits=Limits(max_waiting=3), max_tokens=99) as server:
            limits = (await hear(await server.peer(subprotocols=[SUBPROTOCOL])))["limits"]

            assert limits == told(Limits(max_waiting=3), max_output_tokens=99, context_tokens=None)
            assert (limits["max_queue"], limits["max_message_bytes"], limits["max_output_tokens"]) == (3, 20971520, 99)

    asyncio.run(story())


def test_the_limits_that_a_flag_sets_are_those_of_the_server():
    async def story():
        async with running(idle_seconds=7.0, max_connections=5, requests_per_minute=8) as server:
            limits = (await hear(await server.peer(subprotocols=[SUBPROTOCOL])))["limits"]

            assert (limits["idle_seconds"], limits["max_connections"], limits["requests_per_minute"]) == (7, 5, 8)

    asyncio.run(story())


def test_the_context_of_the_model_is_declared_once_it_is_known():
    limits = told(Limits(), max_output_tokens=1, context_tokens=8192)

    assert limits["context_tokens"] == 8192


def test_every_limit_has_a_unit_a_meaning_an_ending_and_one_name():
    names = [each.name for each in declared()]

    assert len(names) == len(set(names)) == len(FIXED) + len(dataclasses.fields(Limits))
    assert all(each.unit and each.meaning and each.told and each.value > 0 for each in declared())


def test_the_page_of_limits_is_what_the_code_says():
    script = REPOSITORY / "scripts" / "update_limits_docs.py"

    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


# --- rates ------------------------------------------------------------------------------


def test_too_many_requests_of_another_machine_are_told_when_to_go_on_and_the_connection_stays():
    async def story():
        async with running(requests_per_minute=12, no_auth=True) as server:
            afar, here = await server.peer(**FROM_AFAR), await server.peer()
            for number in range(3):
                await say(afar, type="text_input", content="Hi", id=str(number))
            refusal = await hear(afar)
            await say(here, type="text_input", content="Hi", id="h")
            await say(afar, type="ping")

            assert (refusal["code"], refusal["id"], refusal["retryable"]) == ("rate_limited", "2", True)
            assert 0 < refusal["retry_after_ms"] <= 5000
            assert (await hear(afar))["type"] == "pong"
            await holds(lambda: len(server.engine.requests) == 3)

    asyncio.run(story())


def test_a_token_with_a_name_has_an_allowance_of_its_own_wherever_it_is_shown():
    cameras = Key("the-token-of-the-cameras", holder("cameras", requests_per_minute=6))

    async def story():
        async with running(requests_per_minute=600, access=Access("everybody-s-token", more=(cameras,))) as server:
            first, second = [await server.peer(**shown(each, cameras.token)) for each in ("192.0.2.1", "192.0.2.2")]
            other = await server.peer(**shown("192.0.2.1", "everybody-s-token"))
            limits = [(await hear(each))["limits"]["requests_per_minute"] for each in (first, second, other)]
            await say(first, type="text_input", content="Hi", id="1")
            await request_at(server.engine, 0)
            await say(second, type="text_input", content="Hi", id="2")
            refusal = await hear(second)
            await say(other, type="text_input", content="Hi", id="3")

            assert limits == [6, 6, 600]
            assert (refusal["code"], refusal["error"]) == (
                "rate_limited", "More than 6 requests a minute came with your token.",
            )  # fmt: skip
            await request_at(server.engine, 1)

    asyncio.run(story())


def test_while_inputs_wait_the_weight_of_a_token_says_how_many_of_them_start():
    heavy = Key("the-token-of-the-heavy", holder("heavy", weight=3))

    async def story():
        async with running(access=Access("everybody-s-token", more=(heavy,))) as server:
            server.engine.rows = 1
            peers = [await server.peer(**shown("192.0.2.1", heavy.token))]
            peers.append(await server.peer(**shown("192.0.2.2", "everybody-s-token")))
            for peer, name in zip(peers, ("heavy", "light"), strict=True):
                for number in range(8):
                    await say(peer, type="text_input", content=name, id=str(number))
                await say(peer, type="ping")
                await hear_until(peer, "pong")
            for number in range(11):
                request = await request_at(server.engine, number)
                server.engine.reply(request.id, "Hi")

            order = [request.messages[-1].text for request in server.engine.requests.values()]
            assert order[:8] == [*["heavy"] * 3, "light"] * 2

    asyncio.run(story())


def shown(address: str, token: str) -> dict[str, Any]:
    """How a peer of another machine shows a token."""
    headers = {"X-Forwarded-For": address, "Authorization": f"Bearer {token}"}
    return {"additional_headers": headers, "subprotocols": [SUBPROTOCOL]}


def test_the_allowance_is_the_address_s_and_not_the_connection_s():
    async def story():
        async with running(requests_per_minute=6, no_auth=True) as server:
            first, second = await server.peer(**FROM_AFAR), await server.peer(**FROM_AFAR)
            await say(first, type="text_input", content="Hi", id="1")
            await request_at(server.engine, 0)
            await say(second, type="video_frame", frame=PICTURE, id="2")

            assert (await hear(second))["code"] == "rate_limited"

    asyncio.run(story())


def test_this_machine_may_ask_as_often_as_it_likes():
    async def story():
        async with running(requests_per_minute=1) as server:
            peer = await server.peer()
            for number in range(5):
                await say(peer, type="text_input", content="Hi", id=str(number))

            await holds(lambda: len(server.engine.requests) == 5)

    asyncio.run(story())


def test_a_peer_that_talks_nonsense_without_end_is_told_so_and_closed():
    async def story():
        async with running(limits=Limits(bad_messages_per_minute=5), no_auth=True) as server:
            peer, other = await server.peer(subprotocols=[SUBPROTOCOL], **FROM_AFAR), await server.peer()
            for _ in range(7):
                await peer.send("nonsense")

            heard = [(await hear(peer)).get("code") for _ in range(7)]
            last = heard[-1]

            assert heard[1:6] == ["invalid_json"] * 5 and last == "too_many_errors"
            assert await close_code(peer) == 1008
            await say(other, type="ping")
            assert (await hear(other))["type"] == "pong"

    asyncio.run(story())


def test_nonsense_from_this_machine_costs_only_its_errors():
    async def story():
        async with running(limits=Limits(bad_messages_per_minute=5)) as server:
            peer = await server.peer()
            for _ in range(50):
                await peer.send("nonsense")

            assert [(await hear(peer))["code"] for _ in range(50)] == ["invalid_json"] * 50

    asyncio.run(story())


# --- time -------------------------------------------------------------------------------


def test_a_connection_on_which_nothing_happens_is_closed_with_the_reason():
    async def story():
        async with running(limits=Limits(idle_seconds=0.2)) as server:
            peer = await server.peer()

            assert await close_code(peer) == 1000
            assert peer.close_reason == "Nothing happened for 0.2 seconds."
            await holds(lambda: not server.engine.running)

    asyncio.run(story())


def test_a_connection_that_waits_for_its_reply_is_not_idle():
    async def story():
        async with running(limits=Limits(idle_seconds=0.1)) as server:
            peer, idle = await server.peer(), None
            await say(peer, type="text_input", content="Take your time.")
            request = await request_at(server.engine, 0)
            idle = await server.peer()
            await close_code(idle)  # as long as that takes, the other has waited
            server.engine.reply(request.id, "Done.")

            assert kinds(await hear_until(peer, "response_complete"))[-1] == "response_complete"
            assert await close_code(peer) == 1000

    asyncio.run(story())


# --- bytes ------------------------------------------------------------------------------


def test_past_the_bytes_of_all_pictures_a_question_is_refused_and_a_frame_is_dropped():
    async def story():
        async with running(limits=Limits(max_held_bytes=3 * len(PICTURE))) as server:
            holder, other = await server.peer(), await server.peer()
            for number in range(3):
                await say(holder, type="image_input", image=PICTURE, id=str(number))
            requests = [await request_at(server.engine, number) for number in range(3)]
            await say(other, type="image_input", image=PICTURE, id="question")
            await say(other, type="video_frame", frame=PICTURE, id="frame")
            question, frame = await hear(other), await hear(other)
            await say(other, type="text_input", content="Words are free.", id="words")
            await request_at(server.engine, 3)
            server.engine.reply(requests[0].id, "Seen.")
            await say(other, type="image_input", image=PICTURE, id="again")

            assert (question["code"], question["id"], question["retryable"]) == ("overloaded", "question", True)
            assert question["retry_after_ms"] == 1000
            assert (frame["type"], frame["reason"], frame["id"]) == ("frame_dropped", "overloaded", "frame")
            await request_at(server.engine, 4)

    asyncio.run(story())


def test_what_a_peer_held_is_free_when_it_leaves():
    async def story():
        async with running(limits=Limits(max_held_bytes=len(PICTURE))) as server:
            holder, other = await server.peer(), await server.peer()
            await say(holder, type="image_input", image=PICTURE, id="1", history=True)
            server.engine.reply((await request_at(server.engine, 0)).id, "Seen, and remembered.")
            await hear_until(holder, "response_complete")
            await say(other, type="image_input", image=PICTURE, id="2")
            refused = await hear(other)
            await holder.close()
            await holds(lambda: server.engine.requests)
            while (await _asked(other, server.engine)) == "overloaded":
                await asyncio.sleep(0.005)

            assert refused["code"] == "overloaded"

    asyncio.run(story())


async def _asked(peer, engine):
    """Ask about a picture; the code of the refusal, or None if it is taken."""
    before = len(engine.requests)
    await say(peer, type="image_input", image=PICTURE)
    await say(peer, type="ping")
    heard = await hear_until(peer, "pong")
    if heard[0].get("code"):
        return heard[0]["code"]
    await request_at(engine, before)
    return None


# --- connections ------------------------------------------------------------------------


def test_one_address_has_so_many_connections_and_no_more():
    async def story():
        limits, refused = Limits(max_connections_per_address=2), []
        config = listener_config(create_app(Settings(host="127.0.0.1"), ScriptedEngine(), limits), limits)
        config.http = http_protocol(limits, refused.append, is_own=lambda peer, here: False)
        server = uvicorn.Server(config)
        config.port, config.host = 0, "127.0.0.1"
        task = asyncio.create_task(server.serve())
        await holds(lambda: server.started)
        url = f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        async with connect(url) as first, connect(url):
            with pytest.raises(InvalidStatus) as caught:
                await connect(url)
            await first.close()
            await holds(lambda: len(server.server_state.connections) < 2)
            async with connect(url):
                assert (caught.value.response.status_code, refused) == (503, [503])
        server.should_exit = True
        await task

    asyncio.run(story())


def test_weight_lets_more_of_this_machine_s_inputs_start():
    async def story():
        engine = await _three_rows_taken_in_turn(local_weight=2)

        return [request.messages[-1].text for request in engine.requests.values()]

    order = asyncio.run(story())

    assert order == ["busy", "here 0", "afar 0", "here 1", "here 2", "afar 1"]


async def _three_rows_taken_in_turn(**settings):
    """One row: it is taken, then peers here and afar ask, then replies end one by one."""
    from serving import StartableScriptedEngine

    engine = StartableScriptedEngine()
    engine.rows = 1
    async with running(engine, no_auth=True, **settings) as server:
        here, afar = await server.peer(), await server.peer(**FROM_AFAR)
        await say(here, type="text_input", content="busy", id="busy")
        await request_at(engine, 0)
        for peer, name, count in ((here, "here", 3), (afar, "afar", 2)):
            for number in range(count):
                await say(peer, type="text_input", content=f"{name} {number}", id=f"{number}")
            await say(peer, type="ping")
            await hear_until(peer, "pong")
        for number in range(6):
            engine.reply((await request_at(engine, number)).id, "Yes.")
        return engine


# --- nothing is fetched -----------------------------------------------------------------


def test_no_address_and_no_file_that_a_peer_names_is_ever_opened(tmp_path):
    secret = tmp_path / "canary.png"
    secret.write_bytes(SMALL_GIF)
    wanted = ["http://canary.invalid/a.png", "https://127.0.0.1:1/canary", f"file://{secret}", str(secret)]
    opened: list[str] = []
    is_watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if is_watching and event in ("open", "socket.getaddrinfo", "socket.connect", "urllib.Request", "os.system"):
            opened.append(f"{event} {arguments}")

    async def story():
        async with running() as server:
            peer = await server.peer(subprotocols=[SUBPROTOCOL])
            await hear(peer)
            sys.addaudithook(watch)
            for number, name in enumerate(wanted):
                await say(peer, type="image_input", image=name, id=f"i{number}")
                await say(peer, type="video_frame", frame=name, id=f"f{number}")
                await say(peer, type="image_input", images=[{"url": name}], id=f"o{number}")
                await say(peer, type="text_input", content=f"Look at {name} <img src='{name}'>", id=f"t{number}")
                server.engine.reply((await request_at(server.engine, number)).id, name)
            return [
                message["id"] for message in await ends(peer, 4 * len(wanted)) if message["type"] != "response_complete"
            ]

    refused = asyncio.run(story())
    is_watching = False

    assert [each for each in opened if "canary" in each] == []
    assert not any(each.startswith(("socket.connect", "socket.getaddrinfo")) for each in opened)
    assert sorted(refused) == sorted(f"{kind}{number}" for kind in "ifo" for number in range(len(wanted)))


async def ends(peer, count: int) -> list[dict[str, Any]]:
    """The next messages that end a request; pictures are opened in threads, so their order is not known."""
    heard: list[dict[str, Any]] = []
    while len(heard) < count:
        message = await hear(peer)
        heard += [message] if message["type"] in ("response_complete", "error", "frame_dropped") else []
    return heard
