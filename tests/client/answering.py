"""A real server on a real port for the client's tests, with an engine whose replies a test writes."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from mlx_websockets.generation import (
    Delta,
    Finished,
    FinishReason,
    GenerationRequest,
    Started,
    Timings,
    TokenLogprob,
    Update,
    Usage,
)
from mlx_websockets.server.addresses import Addresses
from mlx_websockets.server.run import Stop, serve
from mlx_websockets.settings import Settings
from mlx_websockets.testing import ScriptedEngine

PATIENCE = 10.0
"""Seconds after which a test that waits has failed."""


class Engine(ScriptedEngine):
    """A scripted engine that a server can start and stop, and whose requests can be awaited."""

    def __init__(self, script: Callable[[GenerationRequest], list[Update]] | None = None) -> None:
        super().__init__(script)
        self._submitted = asyncio.Event()

    async def start(self, on_progress: Callable[[Any], None] | None = None) -> None:
        pass

    async def stop(self) -> None:
        pass

    def submit(self, request: GenerationRequest, listener: Callable[[Update], None]) -> None:
        super().submit(request, listener)
        self._submitted.set()

    async def request(self, number: int) -> GenerationRequest:
        """The request that reached the engine as number `number`, from 0, once it has."""
        async with asyncio.timeout(PATIENCE):
            while len(self.requests) <= number:
                self._submitted.clear()
                await self._submitted.wait()
        return list(self.requests.values())[number]

    def start_saying(self, request: GenerationRequest, *deltas: str) -> None:
        self.say(Started(request.id))
        self.say_more(request, *deltas)

    def say_more(self, request: GenerationRequest, *deltas: str) -> None:
        for delta in deltas:
            self.say(Delta(request.id, delta))

    def finish(self, request: GenerationRequest) -> None:
        """End a reply; one that has not begun begins with it."""
        if request.id not in self.said:
            self.say(Started(request.id))
        usage = Usage(input_tokens=7, output_tokens=2)
        self.say(Finished(request.id, "stop", usage, Timings(tokens_per_second=50.0)))


def parrot(request: GenerationRequest) -> list[Update]:
    """Says the last message again, in words, as every candidate; is half sure of each word."""
    words = request.messages[-1].text.split(" ")
    deltas = [delta for delta in (words[0], *(f" {word}" for word in words[1:])) if delta]
    every = range(request.choice.candidates)
    said = [Delta(request.id, delta, each, _half_sure(request, delta)) for delta in deltas for each in every]
    usage = Usage(input_tokens=7, cached_tokens=3, output_tokens=len(said))
    reasons: tuple[FinishReason, ...] = ("stop",) * len(every) if len(every) > 1 else ()
    return [Started(request.id), *said, Finished(request.id, "stop", usage, candidate_reasons=reasons)]


def _half_sure(request: GenerationRequest, token: str) -> tuple[TokenLogprob, ...]:
    if request.choice.logprobs is None:
        return ()
    return (TokenLogprob(token, -0.5, ((token, -0.5), ("else", -1.5))[: request.choice.logprobs]),)


@asynccontextmanager
async def answering(engine: Engine, stop: Stop | None = None, **settings: Any) -> AsyncIterator[str]:
    """The URL of a server that runs while the block does."""
    stop = stop or Stop()
    told: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    chosen = Settings(**{"host": "127.0.0.1", "port": 0, **settings})
    task = asyncio.create_task(serve(chosen, engine, told.set_result, stop=stop))
    waited: set[asyncio.Future[Any]] = {task, told}
    await asyncio.wait(waited, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield f"ws://127.0.0.1:{told.result().port}"
    finally:
        stop.ask()
        stop.ask()
        await asyncio.wait_for(task, PATIENCE)


@contextmanager
def answering_elsewhere(script: Callable[[GenerationRequest], list[Update]] = parrot) -> Iterator[str]:
    """The URL of a server in another thread, for a client that blocks this one."""
    with elsewhere(Engine(script)) as url:
        yield url


@contextmanager
def elsewhere(engine: Engine) -> Iterator[str]:
    """The URL of a server of this engine in another thread."""
    url: list[str] = []
    is_up, is_done = threading.Event(), threading.Event()

    async def live() -> None:
        async with answering(engine) as address:
            url.append(address)
            is_up.set()
            await asyncio.to_thread(is_done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        assert is_up.wait(PATIENCE)
        yield url[0]
    finally:
        is_done.set()
        thread.join(PATIENCE)
