"""Several models, each in a worker of its own: here scripted ones, and real tiny Gemmas."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from test_client import PROGRAM, QUICK, Reply, request_of, until

from mlx_websockets.engine.client import Engine
from mlx_websockets.engine.messages import Loading, ModelSpec
from mlx_websockets.engine.pool import EnginePool
from mlx_websockets.errors import Refused, StartError
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest


@asynccontextmanager
async def pool_of(
    *models: str, budget: int | None = None, manners: dict[str, tuple[str, ...]] | None = None, size: int = 7
) -> AsyncIterator[EnginePool]:
    """Scripted models of 7 bytes each."""

    def new_engine(spec: ModelSpec) -> Engine:
        manner = (manners or {}).get(spec.model, ("ready",))
        return Engine(spec, command=(sys.executable, PROGRAM, *manner), deadlines=QUICK, blas_finder=lambda: None)

    specs = [ModelSpec(model=model, rows=4) for model in models]
    pool = EnginePool(specs, new_engine=new_engine, budget_bytes=budget, estimate=lambda spec: size)
    try:
        await pool.start()
        yield pool
    finally:
        await pool.stop()


def states(pool: EnginePool) -> dict[str, str]:
    return {model["id"]: model["state"] for model in pool.models()}


def ask(pool: EnginePool, model: str, id: int, text: str) -> Reply:
    reply = Reply()
    engine = pool.engine_of(model)
    assert engine is not None
    engine.submit(request_of(id, text), reply)
    return reply


async def ended(*replies: Reply) -> None:
    async with asyncio.timeout(30):
        for reply in replies:
            await reply.ended.wait()


# --- who answers ----------------------------------------------------------------------


def test_each_model_answers_for_itself_and_the_first_for_nobody_in_particular():
    async def story() -> None:
        async with pool_of("a", "b") as pool:
            first, second = ask(pool, "a", 1, "say one"), ask(pool, "b", 2, "say two")
            await ended(first, second)

            assert (first.text, second.text) == ("one", "two")
            assert pool.engine_of(None) is pool.engine_of("a")
            assert pool.engine_of("c") is None
            assert states(pool) == {"a": "ready", "b": "ready"}
            assert pool.engine_of("a").status()["pid"] != pool.engine_of("b").status()["pid"]

    asyncio.run(story())


def test_a_model_that_can_t_be_loaded_fails_the_start_and_leaves_nothing_running():
    async def story() -> None:
        with pytest.raises(StartError):
            async with pool_of("a", "b", manners={"b": ("fails", "model_not_found")}):
                pass

    asyncio.run(story())


# --- the budget -----------------------------------------------------------------------


def test_what_does_not_fit_is_loaded_when_it_is_asked_for_and_the_oldest_idle_one_leaves():
    async def story() -> None:
        async with pool_of("a", "b", "c", budget=15) as pool:
            assert states(pool) == {"a": "ready", "b": "ready", "c": "unloaded"}
            await ended(ask(pool, "a", 1, "say one"))  # so b is the one that was used longest ago

            reply = ask(pool, "c", 2, "say three")
            await ended(reply)

            assert reply.text == "three"
            assert states(pool) == {"a": "ready", "b": "unloaded", "c": "ready"}

    asyncio.run(story())


def test_a_model_with_a_running_reply_is_never_unloaded_and_takes_nothing_new_meanwhile():
    async def story() -> None:
        async with pool_of("a", "b", budget=10) as pool:
            running = ask(pool, "a", 1, "hold")
            await until(lambda: len(running.updates) > 0)
            waiting = ask(pool, "b", 2, "say two")
            await until(lambda: not pool.engine_of("a").is_ready)

            assert states(pool) == {"a": "ready", "b": "loading"}
            assert not waiting.updates
            pool.cancel(1)
            await ended(waiting)

            assert waiting.text == "two"
            assert states(pool) == {"a": "unloaded", "b": "ready"}

    asyncio.run(story())


def test_two_models_that_don_t_fit_together_take_turns():
    async def story() -> None:
        async with pool_of("a", "b", budget=10) as pool:
            for round in range(3):
                first, second = (
                    ask(pool, "a", 10 * round + 1, "say one"),
                    ask(pool, "b", 10 * round + 2, "say two"),
                )
                await ended(first, second)
                assert (first.text, second.text) == ("one", "two")

    asyncio.run(story())


def test_a_model_larger_than_the_budget_says_so_to_who_asks_for_it():
    async def story() -> None:
        async with pool_of("a", "b", budget=6) as pool:
            refused = ask(pool, "b", 1, "say two")
            answered = ask(pool, "a", 2, "say one")
            await ended(refused, answered)

            assert refused.failures == ["out_of_memory"]
            assert "memory budget" in refused.updates[-1].message
            assert answered.text == "one"
            assert states(pool)["b"] == "failed"

    asyncio.run(story())


# --- load and unload ------------------------------------------------------------------


def test_a_model_is_unloaded_and_loaded_as_one_likes_with_progress():
    async def story() -> None:
        async with pool_of("a", "b") as pool:
            told: list[Loading] = []
            await pool.unload("b")
            assert states(pool) == {"a": "ready", "b": "unloaded"}

            await pool.load("b", told.append)

            assert states(pool) == {"a": "ready", "b": "ready"}
            assert told
            await pool.load("b")

    asyncio.run(story())


def test_the_default_model_can_leave_too_and_is_back_when_it_is_asked():
    async def story() -> None:
        async with pool_of("a", "b") as pool:
            await pool.unload("a")
            assert pool.is_ready
            assert pool.status()["model_info"]["context_tokens"] == 512

            reply = ask(pool, "a", 1, "say one")
            await ended(reply)

            assert reply.text == "one"

    asyncio.run(story())


def test_a_busy_model_and_an_unknown_one_are_not_unloaded():
    async def story() -> None:
        async with pool_of("a") as pool:
            running = ask(pool, "a", 1, "hold")
            await until(lambda: len(running.updates) > 0)

            for model, code in (("a", "model_busy"), ("x", "model_not_found")):
                with pytest.raises(Refused) as refused:
                    await pool.unload(model)
                assert refused.value.code == code

    asyncio.run(story())


def test_a_request_that_was_given_up_while_its_model_was_loaded_gets_nothing():
    async def story() -> None:
        async with pool_of("a", "b", budget=10) as pool:
            reply = ask(pool, "b", 1, "say two")
            pool.cancel(1)
            await pool.load("b")

            assert not reply.updates
            assert not pool.engine_of("b").is_busy

    asyncio.run(story())


# --- crashes --------------------------------------------------------------------------


def test_a_crash_of_one_model_does_not_touch_the_replies_of_another(tiny_gemma3: Path, tmp_path: Path):
    second = tmp_path / "second"
    shutil.copytree(tiny_gemma3, second)

    async def story() -> tuple[Reply, Reply, Reply]:
        specs = [ModelSpec(model=str(folder), rows=2) for folder in (tiny_gemma3, second)]
        pool = EnginePool(specs)
        try:
            await pool.start()
            alone = await whole(pool, 1)
            survivor, victims = Reply(), [Reply() for _ in range(40)]
            pool.engine_of(str(tiny_gemma3)).submit(long_request(2), survivor)
            for id, victim in enumerate(victims, start=3):  # two at a time: the last can't have ended
                pool.engine_of(str(second)).submit(long_request(id), victim)
            await until(lambda: len(survivor.updates) > 3 and len(victims[0].updates) > 3)

            os.kill(pool.engine_of(str(second)).status()["pid"], signal.SIGKILL)
            await ended(survivor, *victims)
            await until(lambda: pool.engine_of(str(second)).is_ready)
            return alone, survivor, victims[-1]
        finally:
            await pool.stop()

    async def whole(pool: EnginePool, id: int) -> Reply:
        reply = Reply()
        pool.submit(long_request(id), reply)
        await ended(reply)
        return reply

    alone, survivor, victim = asyncio.run(story())

    assert victim.failures == ["engine_restarted"]
    assert survivor.failures == []
    assert survivor.text.replace(" ", "") == alone.text.replace(" ", "")


def long_request(id: int) -> GenerationRequest:
    choice = Choice(max_tokens=200, temperature=0.0)
    return GenerationRequest(id=id, messages=(ChatMessage("user", "Tell me a story."),), choice=choice)


def test_the_status_has_the_sums_and_a_line_for_each_model():
    async def story() -> None:
        async with pool_of("a", "b") as pool:
            await ended(ask(pool, "a", 1, "say one"), ask(pool, "b", 2, "say two"))

            status = pool.status()

            assert status["model"] == "a"
            assert [each["id"] for each in status["models"]] == ["a", "b"]
            assert status["memory"].keys() == {"active", "cached", "peak", "resident", "kept"}

    asyncio.run(story())
