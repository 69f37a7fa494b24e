"""The client library and a server with several models, each a scripted process of its own."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from answering import PATIENCE, answering, elsewhere

from mlx_websockets.client import Client, ModelProgress, ReplyError, connect, connect_sync
from mlx_websockets.engine.client import Engine
from mlx_websockets.engine.messages import ModelSpec
from mlx_websockets.engine.pool import EnginePool
from mlx_websockets.engine.supervisor import Deadlines
from mlx_websockets.testing import SMALL_GIF

PROGRAM = str(Path(__file__).parent.parent / "engine" / "scripted_worker.py")
QUICK = Deadlines(stop_step=1.0, first_delay=0.01, longest_delay=0.05)


def two_models() -> EnginePool:
    """Models "a" and "b" that do what the question says; "a" is the default."""

    def new_engine(spec: ModelSpec) -> Engine:
        return Engine(spec, command=(sys.executable, PROGRAM, "ready"), deadlines=QUICK, blas_finder=lambda: None)

    return EnginePool([ModelSpec(model="a"), ModelSpec(model="b")], new_engine=new_engine, estimate=lambda spec: 7)


def play(story: Callable[[Client], Awaitable[None]], model: str | None = None) -> None:
    async def tell() -> None:
        async with (
            asyncio.timeout(PATIENCE),
            answering(two_models()) as url,  # type: ignore[arg-type]
            connect(url, model=model) as mlx,
        ):
            await story(mlx)

    asyncio.run(tell())


async def running_on(mlx: Client) -> dict[str, int]:
    return {model.id: model.running for model in await mlx.models()}


def test_a_request_chooses_its_model() -> None:
    async def story(mlx: Client) -> None:
        reply = mlx.ask("hold", model="b")
        await anext(reply)

        assert await running_on(mlx) == {"a": 0, "b": 1}

    play(story)


def test_a_connection_chooses_for_the_requests_that_do_not() -> None:
    async def story(mlx: Client) -> None:
        await anext(mlx.ask("hold"))
        await anext(mlx.show(SMALL_GIF, "eye", "hold"))
        await anext(mlx.ask("hold", model="a"))

        assert await running_on(mlx) == {"a": 1, "b": 2}

    play(story, model="b")


def test_a_model_that_is_none_of_the_server_s_is_refused_by_name() -> None:
    async def story(mlx: Client) -> None:
        with pytest.raises(ReplyError, match="it has a, b") as refused:
            await mlx.ask("say hello", model="c").text()

        assert refused.value.code == "model_not_found"

    play(story)


def test_models_are_unloaded_and_loaded_with_progress() -> None:
    async def story(mlx: Client) -> None:
        told: list[ModelProgress] = []

        await mlx.unload_model("b")
        without = {model.id: model.state for model in await mlx.models()}
        await mlx.load_model("b", told.append)
        again = {model.id: model.state for model in await mlx.models()}

        assert without == {"a": "ready", "b": "unloaded"}
        assert again == {"a": "ready", "b": "ready"}
        assert {progress.model for progress in told} == {"b"}
        assert all(progress.stage for progress in told)

    play(story)


def test_a_model_with_a_running_reply_is_not_unloaded() -> None:
    async def story(mlx: Client) -> None:
        await anext(mlx.ask("hold"))

        with pytest.raises(ReplyError) as refused:
            await mlx.unload_model("a")

        assert (refused.value.code, refused.value.retryable) == ("model_busy", True)

    play(story)


def test_what_a_watcher_of_the_progress_raises_ends_its_wait_and_nothing_else() -> None:
    def stumble(progress: ModelProgress) -> None:
        raise LookupError("a mistake of the caller")

    async def story(mlx: Client) -> None:
        await mlx.unload_model("b")

        with pytest.raises(LookupError, match="of the caller"):
            await mlx.load_model("b", stumble)

        assert await mlx.ask("say hello").text() == "hello"

    play(story)


def test_scripts_choose_load_and_unload_models_too() -> None:
    with elsewhere(two_models()) as url, connect_sync(url, model="b") as mlx:
        told: list[ModelProgress] = []
        reply = mlx.ask("hold")
        next(iter(reply))
        running = {model.id: model.running for model in mlx.models()}
        reply.cancel()
        reply.result()
        mlx.unload_model("b")
        mlx.load_model("b", told.append)

        assert running == {"a": 0, "b": 1}
        assert told
        assert [model.state for model in mlx.models()] == ["ready", "ready"]
