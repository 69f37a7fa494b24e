import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from mlx_websockets.engine.client import Engine, derived_seed
from mlx_websockets.engine.messages import Loading, ModelSpec
from mlx_websockets.engine.supervisor import Deadlines
from mlx_websockets.generation import ChatMessage, Choice, Delta, Failed, Finished, GenerationRequest, Started, Update
from mlx_websockets.sampling import MAX_SEED

PROGRAM = str(Path(__file__).with_name("scripted_worker.py"))
QUICK = Deadlines(stop_step=1.0, first_delay=0.01, longest_delay=0.05)
DEADLINE_SECONDS = 30.0


def engine_of(*manner: str, run_seed: int | None = None) -> Engine:
    return Engine(
        ModelSpec(model="scripted", rows=4),
        run_seed=run_seed,
        command=(sys.executable, PROGRAM, *(manner or ("ready",))),
        deadlines=QUICK,
        blas_finder=lambda: None,
    )


def request_of(id: int, text: str, seed: int | None = None) -> GenerationRequest:
    choice = Choice(max_tokens=8, seed=seed)
    return GenerationRequest(id=id, messages=(ChatMessage("user", text),), choice=choice)


class Reply:
    """What one request got, so far."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.ended = asyncio.Event()

    def __call__(self, update: Update) -> None:
        self.updates.append(update)
        if isinstance(update, Finished | Failed):
            self.ended.set()

    @property
    def text(self) -> str:
        return " ".join(update.text for update in self.updates if isinstance(update, Delta))

    @property
    def failures(self) -> list[str]:
        return [update.code for update in self.updates if isinstance(update, Failed)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(engine: Engine, request: GenerationRequest) -> Reply:
    reply = Reply()
    engine.submit(request, reply)
    await asyncio.wait_for(reply.ended.wait(), DEADLINE_SECONDS)
    return reply


def play(engine: Engine, story: Callable[[], Awaitable[None]]) -> None:
    """Run `story` with a started engine, and stop it whatever happens."""

    async def whole() -> None:
        await engine.start()
        try:
            await story()
        finally:
            await engine.stop()

    asyncio.run(whole())


def kill_worker_of(engine: Engine) -> None:
    os.kill(engine.status()["pid"], signal.SIGKILL)


# --- requests ---------------------------------------------------------------------------


def test_a_request_gets_its_updates_in_order() -> None:
    engine = engine_of()

    async def story() -> None:
        reply = await ask(engine, request_of(1, "say once upon"))

        assert [Started(1), Delta(1, "once"), Delta(1, "upon")] == reply.updates[:-1]
        assert isinstance(reply.updates[-1], Finished)

    play(engine, story)


def test_requests_in_flight_together_each_get_their_own_updates() -> None:
    engine = engine_of()

    async def story() -> None:
        replies = await asyncio.gather(*(ask(engine, request_of(id, f"say {id}")) for id in range(20)))

        assert [str(id) for id in range(20)] == [reply.text for reply in replies]

    play(engine, story)


def test_a_cancelled_request_gets_nothing_more() -> None:
    engine = engine_of()

    async def story() -> None:
        held = Reply()
        engine.submit(request_of(1, "hold"), held)
        await until(lambda: held.text == "held")
        await until(lambda: engine.status()["running"] == 1)

        engine.cancel(1)
        engine.cancel(1)

        await until(lambda: engine.status()["running"] == 0)
        kill_worker_of(engine)
        await until(lambda: engine.status()["restarts"] == 1)
        assert [Started(1), Delta(1, "held")] == held.updates

    play(engine, story)


def test_a_failure_of_one_request_is_told_to_it_alone() -> None:
    engine = engine_of()

    async def story() -> None:
        failed, fine = await asyncio.gather(ask(engine, request_of(1, "fail")), ask(engine, request_of(2, "say yes")))

        assert failed.failures == ["context_full"]
        assert fine.text == "yes"

    play(engine, story)


def test_a_listener_that_raises_does_not_disturb_the_others() -> None:
    engine = engine_of()

    def broken(update: Update) -> None:
        raise RuntimeError("a mistake")

    async def story() -> None:
        engine.submit(request_of(1, "say no"), broken)

        assert (await ask(engine, request_of(2, "say yes"))).text == "yes"

    play(engine, story)


def test_a_request_that_can_not_be_sent_fails_and_is_not_worth_retrying() -> None:
    engine = engine_of()

    async def story() -> None:
        refused = await ask(engine, request_of(1, "\ud800"))

        assert [Failed] == [type(update) for update in refused.updates]
        assert refused.failures == ["request_unsendable"]
        assert (await ask(engine, request_of(2, "say yes"))).text == "yes"

    play(engine, story)


# --- before, between and after ----------------------------------------------------------


def test_a_request_to_an_engine_that_is_not_ready_fails_after_submit_has_returned() -> None:
    async def story() -> None:
        engine, reply = engine_of(), Reply()

        engine.submit(request_of(1, "say hello"), reply)
        assert reply.updates == []
        await reply.ended.wait()

        assert reply.failures == ["engine_not_ready"]

    asyncio.run(story())


def test_a_request_cancelled_before_its_failure_is_told_hears_nothing() -> None:
    async def story() -> None:
        engine, cancelled = engine_of(), Reply()

        engine.submit(request_of(1, "say hello"), cancelled)
        engine.cancel(1)
        await ask(engine, request_of(2, "say hello"))

        assert cancelled.updates == []

    asyncio.run(story())


def test_what_it_is_is_known_once_it_is_ready() -> None:
    engine = engine_of()
    assert (
        engine.is_ready,
        engine.model_id,
        engine.sees,
        engine.max_images,
        engine.rows,
    ) == (False, "scripted", False, 0, 4)

    async def story() -> None:
        await ask(engine, request_of(1, "say one two"))
        await until(lambda: engine.status()["tokens"] == 2)

        status = engine.status()
        assert engine.is_ready and engine.sees and engine.max_images == 4
        assert (
            status["state"],
            status["model"],
            status["restarts"],
            status["blas"],
        ) == ("ready", "scripted", 0, None)
        assert status["model_info"]["backend"] == "cpu"
        assert status["memory"]["active"] == 1

    play(engine, story)
    assert (engine.status()["state"], engine.status()["pid"]) == ("stopped", None)


def test_loading_reports_how_far_it_is() -> None:
    async def story() -> None:
        engine, heard = engine_of(), list[Loading]()

        await engine.start(heard.append)
        await engine.stop()

        assert [Loading("weights", 1, 2, "bytes"), Loading("weights", 2, 2, "bytes")] == heard

    asyncio.run(story())


def test_stopping_fails_what_is_in_flight() -> None:
    engine = engine_of()
    held = Reply()

    async def story() -> None:
        engine.submit(request_of(1, "hold"), held)
        await until(lambda: held.text == "held")

    play(engine, story)
    assert held.failures == ["engine_stopped"]


# --- crashes ----------------------------------------------------------------------------


def test_a_worker_killed_in_mid_reply_fails_each_request_once_and_the_next_is_answered() -> None:
    engine = engine_of()

    async def story() -> None:
        for round in range(20):
            held = [Reply() for _ in range(3)]
            for index, reply in enumerate(held):
                engine.submit(request_of(10 * round + index, "hold"), reply)
            await until(lambda held=held: all(reply.text == "held" for reply in held))

            kill_worker_of(engine)
            await until(lambda held=held: all(reply.ended.is_set() for reply in held))
            assert not engine.is_ready
            await until(lambda: engine.is_ready)

            assert [reply.failures for reply in held] == [["engine_restarted"]] * 3
            assert (await ask(engine, request_of(10 * round + 9, "say alive"))).text == "alive"
        assert engine.status()["restarts"] == 20

    play(engine, story)


def test_a_worker_that_aborts_or_talks_nonsense_is_replaced() -> None:
    engine = engine_of()

    async def story() -> None:
        for id, wish in enumerate(("abort so far", "kill so far", "garbage so far")):
            lost = await ask(engine, request_of(id, wish))
            await until(lambda: engine.is_ready)

            assert lost.failures == ["engine_restarted"]
        assert (await ask(engine, request_of(9, "say alive"))).text == "alive"

    play(engine, story)


def test_a_worker_that_gathered_memory_is_renewed_when_nothing_is_under_way() -> None:
    engine = engine_of()

    async def story() -> None:
        first = engine.status()["pid"]
        held = Reply()
        engine.submit(request_of(1, "hold"), held)
        await ask(engine, request_of(2, "grow"))
        assert (await ask(engine, request_of(3, "say still here"))).text == "still here"

        engine.cancel(1)
        await until(lambda: engine.status()["pid"] not in (None, first) and engine.is_ready)

        assert not held.failures
        assert (await ask(engine, request_of(4, "say new"))).text == "new"

    play(engine, story)


def test_whoever_follows_the_state_hears_of_every_change() -> None:
    engine = engine_of()
    seen: list[str] = []
    engine.on_state_change(lambda: seen.append(engine.status()["state"]))

    async def story() -> None:
        kill_worker_of(engine)
        await until(lambda: engine.status()["restarts"] == 1 and engine.is_ready)

    play(engine, story)
    assert seen == ["ready", "restarting", "ready", "stopped"]


def test_a_listener_may_ask_again_when_it_is_told_of_the_crash() -> None:
    engine = engine_of()
    again = Reply()

    def retry(update: Update) -> None:
        if isinstance(update, Failed):
            engine.submit(request_of(2, "say again"), again)

    async def story() -> None:
        engine.submit(request_of(1, "kill"), retry)
        await until(again.ended.is_set)

        assert again.failures == ["engine_not_ready"]

    play(engine, story)


def test_tokens_are_counted_across_restarts() -> None:
    engine = engine_of()

    async def story() -> None:
        await ask(engine, request_of(1, "say one two"))
        await until(lambda: engine.status()["tokens"] == 2)
        kill_worker_of(engine)
        await until(lambda: engine.status()["restarts"] == 1 and engine.is_ready)
        await ask(engine, request_of(2, "say three"))

        await until(lambda: engine.status()["tokens"] == 3)

    play(engine, story)


def test_the_status_says_how_fast_tokens_come_now() -> None:
    engine = engine_of()
    numbers = itertools.count(1)

    async def speaking() -> None:
        while engine.status()["tokens_per_second"] == 0:
            await ask(engine, request_of(next(numbers), "say one two"))

    async def story() -> None:
        assert engine.status()["tokens_per_second"] == 0
        async with asyncio.timeout(10):
            await speaking()
        await until(lambda: engine.status()["tokens_per_second"] == 0)

    play(engine, story)


# --- seeds ------------------------------------------------------------------------------


def test_with_a_run_seed_a_run_is_repeatable_and_its_requests_differ() -> None:
    async def seeds() -> list[str]:
        engine = engine_of(run_seed=42)
        await engine.start()
        replies = [await ask(engine, request_of(id, "seed")) for id in (7, 8)]
        await engine.stop()
        return [reply.text for reply in replies]

    first, second = asyncio.run(seeds()), asyncio.run(seeds())

    assert first == second
    assert first[0] != first[1]


def test_a_seed_of_the_request_is_left_alone_and_without_a_run_seed_there_is_none() -> None:
    seeded, unseeded = engine_of(run_seed=42), engine_of()

    async def with_run_seed() -> None:
        assert (await ask(seeded, request_of(1, "seed", seed=5))).text == "5"

    async def without() -> None:
        assert (await ask(unseeded, request_of(1, "seed"))).text == "None"

    play(seeded, with_run_seed)
    play(unseeded, without)


def test_derived_seeds_are_seeds() -> None:
    seeds = {derived_seed(run, ordinal) for run in range(20) for ordinal in range(20)}

    assert len(seeds) == 400
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
