"""Several models over the wire: a real server on a real port, each model a scripted process of its own."""

import asyncio
import json
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from serving import Running, hear, hear_until, holds, kinds, running, say

from mlx_websockets.engine.client import Engine
from mlx_websockets.engine.messages import ModelSpec
from mlx_websockets.engine.pool import EnginePool
from mlx_websockets.engine.supervisor import Deadlines

PROGRAM = str(Path(__file__).parent.parent / "engine" / "scripted_worker.py")
QUICK = Deadlines(stop_step=1.0, first_delay=0.01, longest_delay=0.05)


@asynccontextmanager
async def serving(*models: str, rows: int = 4, budget: int | None = None, **settings: Any) -> AsyncIterator[Running]:
    """Scripted models of 7 bytes each; they do what the question says."""

    def new_engine(spec: ModelSpec) -> Engine:
        return Engine(spec, command=(sys.executable, PROGRAM, "ready"), deadlines=QUICK, blas_finder=lambda: None)

    specs = [ModelSpec(model=model, rows=rows) for model in models]
    pool = EnginePool(specs, new_engine=new_engine, budget_bytes=budget, estimate=lambda spec: 7)
    async with running(pool, **settings) as server:
        yield server


async def listed(socket: Any) -> dict[str, str]:
    await say(socket, type="list_models")
    return {model["id"]: model["state"] for model in (await hear(socket))["models"]}


def test_a_request_says_which_model_it_is_for():
    async def story() -> None:
        async with serving("a", "b") as server:
            peer = await server.peer()
            models = {}
            for id, named in (("1", {}), ("2", {"model": "a"}), ("3", {"model": "b"})):
                await say(peer, type="text_input", id=id, content=f"say {id}", **named)
                told = await hear_until(peer, "response_complete")
                models[told[-1]["full_text"]] = told[0]["model"]

            assert models == {"1": "a", "2": "a", "3": "b"}

    asyncio.run(story())


def test_an_unknown_model_is_refused_with_the_names_of_those_there_are():
    async def story() -> None:
        async with serving("a", "b") as server:
            peer = await server.peer()
            await say(peer, type="text_input", id="1", content="say hello", model="c")
            refused = await hear(peer)
            await say(peer, type="video_frame", id="2", frame="AAAA", model="c")
            frame = await hear(peer)

            assert (refused["code"], refused["id"], frame["code"]) == ("model_not_found", "1", "model_not_found")
            assert "it has a, b." in refused["error"]

    asyncio.run(story())


def test_a_busy_model_does_not_hold_up_turns_for_another():
    async def story() -> None:
        async with serving("a", "b", rows=1) as server:
            peer, other = await server.peer(), await server.peer()
            for id in ("1", "2", "3"):  # one runs for ever, two wait for its row
                await say(peer, type="text_input", id=id, content="hold")
            await hear_until(peer, "token")

            for socket in (peer, other):
                await say(socket, type="text_input", id="b", content="say quick", model="b")
                assert (await hear_until(socket, "response_complete"))[-1]["full_text"] == "quick"

    asyncio.run(story())


def test_a_model_that_made_room_comes_back_when_it_is_asked():
    async def story() -> None:
        async with serving("a", "b", budget=10) as server:
            peer = await server.peer()
            before = await listed(peer)
            await say(peer, type="text_input", id="1", content="say hello", model="b")
            told = await hear_until(peer, "response_complete")
            meanwhile = await listed(peer)
            await say(peer, type="text_input", id="2", content="say again")
            back = await hear_until(peer, "response_complete")

            assert before == {"a": "ready", "b": "unloaded"}
            assert meanwhile == {"a": "unloaded", "b": "ready"}
            assert (told[-1]["full_text"], back[-1]["full_text"]) == ("hello", "again")
            assert back[0]["queue_ms"] > 10  # a process was started meanwhile

    asyncio.run(story())


def test_models_are_loaded_and_unloaded_by_a_peer_on_this_machine():
    async def story() -> None:
        async with serving("a", "b") as server:
            peer = await server.peer()
            await say(peer, type="unload_model", id="u", model="b")
            unloaded = await hear(peer)
            states = await listed(peer)
            await say(peer, type="load_model", id="l", model="b")
            loading = await hear_until(peer, "model_loaded")

            assert unloaded == {"type": "model_unloaded", "model": "b", "id": "u"}
            assert states == {"a": "ready", "b": "unloaded"}
            assert set(kinds(loading[:-1])) == {"model_progress"}
            assert loading[-1] == {"type": "model_loaded", "model": "b", "vision": True, "id": "l"}

    asyncio.run(story())


def test_a_model_in_use_and_one_that_nobody_named_stay_as_they_are():
    async def story() -> None:
        async with serving("a") as server:
            peer = await server.peer()
            await say(peer, type="text_input", id="1", content="hold")
            await hear_until(peer, "token")
            codes = []
            for wish, model in (("unload_model", "a"), ("load_model", "x"), ("unload_model", "x")):
                await say(peer, type=wish, id="m", model=model)
                codes.append((await hear(peer))["code"])

            assert codes == ["model_busy", "model_not_found", "model_not_found"]

    asyncio.run(story())


def test_who_comes_through_a_proxy_may_not_load_unless_it_is_allowed():
    async def story() -> None:
        through = {"additional_headers": {"X-Forwarded-For": "198.51.100.7"}}
        for allowed, answer in ((False, "error"), (True, "model_unloaded")):
            async with serving("a", "b", no_auth=True, allow_model_loading=allowed) as server:
                peer = await server.peer(**through)
                assert (await listed(peer)).keys() == {"a", "b"}
                await say(peer, type="unload_model", id="m", model="b")
                told = await hear(peer)

                assert told["type"] == answer
                assert allowed or told["code"] == "not_allowed"

    asyncio.run(story())


def test_a_peer_that_leaves_while_a_model_is_loaded_disturbs_nobody():
    async def story() -> None:
        async with serving("a", "b") as server:
            leaver, other = await server.peer(), await server.peer()
            await say(leaver, type="unload_model", model="b")
            await hear(leaver)
            await say(leaver, type="load_model", model="b")
            await leaver.close()

            await holds_ready(other)

    async def holds_ready(other: Any) -> None:
        async with asyncio.timeout(5):
            while (await listed(other))["b"] != "ready":
                await asyncio.sleep(0.01)

    asyncio.run(story())


def test_the_models_are_told_over_http_too():
    async def story() -> None:
        async with serving("a", "b") as server:
            url = f"http://127.0.0.1:{server.port}/v1/models"
            with await asyncio.to_thread(urllib.request.urlopen, url) as answer:
                told = json.load(answer)

            assert told["object"] == "list"
            assert [(model["id"], model["object"], model["state"]) for model in told["data"]] == [
                ("a", "model", "ready"),
                ("b", "model", "ready"),
            ]

    asyncio.run(story())


def test_a_crash_of_one_model_leaves_the_reply_of_another_running():
    async def story() -> None:
        async with serving("a", "b") as server:
            peer = await server.peer()
            await say(peer, type="text_input", id="1", content="hold")
            await hear_until(peer, "token")
            await say(peer, type="text_input", id="2", content="kill now", model="b")
            lost = (await hear_until(peer, "error"))[-1]
            await say(peer, type="cancel", id="1")
            kept = (await hear_until(peer, "response_complete"))[-1]

            assert (lost["id"], lost["code"]) == ("2", "engine_restarted")
            assert (kept["id"], kept["full_text"]) == ("1", "held")
            await holds(lambda: server.engine.engine_of("b").is_ready)

    asyncio.run(story())
