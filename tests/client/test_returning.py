"""A broken socket costs a client nothing; a closed one ends everything."""

import asyncio
import random

import pytest
from answering import PATIENCE, Engine, answering
from cutting import cutting, random_lengths
from hypothesis import given
from hypothesis import strategies as st

from mlx_websockets.client import ConnectionLost, connect
from mlx_websockets.client.returning import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, Journal, waits
from mlx_websockets.generation import Delta, Finished, GenerationRequest, Started
from mlx_websockets.server.run import Stop
from mlx_websockets.testing import SMALL_GIF

WORDS = 120


def expected(name: str) -> str:
    return "".join(f"{name}{number} " for number in range(WORDS))


class Talkative(Engine):
    """Says many words about each request, a few at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.talks: set[asyncio.Task[None]] = set()

    def submit(self, request, listener) -> None:
        super().submit(request, listener)
        task = asyncio.create_task(self.talk(request))
        self.talks.add(task)
        task.add_done_callback(self.talks.discard)

    async def talk(self, request: GenerationRequest) -> None:
        name = request.messages[-1].text
        self.say(Started(request.id))
        for number in range(WORDS):
            self.say(Delta(request.id, f"{name}{number} "))
            await asyncio.sleep(0.001)
        self.say(Finished(request.id, "stop"))


@pytest.mark.parametrize("seed", range(4))
def test_sockets_that_are_cut_anywhere_lose_no_token_and_double_none(seed):
    async def story():
        async with (
            asyncio.timeout(60),
            answering(Talkative()) as url,
            cutting(url, random_lengths(6, seed, 30_000)) as (way, cutter),
            connect(way) as mlx,
        ):
            replies = {name: mlx.ask(name) for name in "abc"}
            replies["d"] = mlx.ask("d", images=[SMALL_GIF])
            heard = {name: "".join([delta async for delta in reply]) for name, reply in replies.items()}
            more = mlx.ask("e")
            heard["e"] = "".join([delta async for delta in more])

            assert cutter.cuts > 0
            assert heard == {name: expected(name) for name in heard}
            assert [await reply.text() for reply in replies.values()] == [expected(name) for name in "abcd"]

    asyncio.run(story())


def test_what_was_set_and_remembered_is_still_there():
    async def story():
        async with (
            asyncio.timeout(PATIENCE),
            answering(Talkative()) as url,
            cutting(url, iter([20_000])) as (way, cutter),
            connect(way) as mlx,
        ):
            await mlx.configure(temperature=0.25)
            await mlx.ask("first", history=True).text()
            await mlx.ask("second", history=True).text()

            assert cutter.cuts == 1
            assert (await mlx.configure(top_k=3))["temperature"] == 0.25
            assert (await mlx.status())["queue"]["connections"] == 1

    asyncio.run(story())


def test_who_does_not_want_to_come_back_is_told_of_the_break():
    async def story():
        async with (
            asyncio.timeout(PATIENCE),
            answering(Talkative()) as url,
            cutting(url, iter([5_000])) as (way, _),
            connect(way, reconnect=False) as mlx,
        ):
            with pytest.raises(ConnectionLost):
                await mlx.ask("a").text()

    asyncio.run(story())


def test_a_session_that_is_over_ends_the_client():
    async def story():
        async with asyncio.timeout(PATIENCE):
            stop, engine = Stop(), Engine()
            async with answering(engine, stop) as url, cutting(url, iter([])) as (way, _), connect(way) as mlx:
                reply = mlx.ask("a")
                await engine.request(0)
                stop.ask_for_heir()
                with pytest.raises(Exception, match="restart"):
                    await reply.text()
                while not mlx.is_over:
                    await asyncio.sleep(0.01)
                with pytest.raises(ConnectionLost) as lost:
                    mlx.ask("b")
                assert lost.value.close_code == 1012

    asyncio.run(story())


@given(st.integers(0, 20), st.data())
def test_what_had_not_arrived_is_said_again_in_order(count, data):
    class Draft:
        def __init__(self, id: str) -> None:
            self.id = id

    journal: Journal[Draft] = Journal()
    drafts = [Draft(str(number)) for number in range(count)]
    for draft in drafts:
        journal.note_said(draft)
    answered = data.draw(st.integers(0, count))
    if answered:
        journal.note_answer(str(answered - 1))
    received = data.draw(st.integers(answered, count))

    assert journal.unreceived(received) == drafts[received:]
    assert journal.unreceived(count + 1) is None


def test_the_waits_grow_up_to_a_limit():
    waiting = waits(random.Random(1))
    first, *more = [next(waiting) for _ in range(200)]

    assert 0 <= first <= FIRST_WAIT_SECONDS
    assert LONGEST_WAIT_SECONDS / 2 < max(more) <= LONGEST_WAIT_SECONDS
