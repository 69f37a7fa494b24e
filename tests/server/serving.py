"""A real server on a real port, with an engine whose replies a test writes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from mlx_websockets.generation import GenerationRequest
from mlx_websockets.server.access import Access
from mlx_websockets.server.addresses import Addresses
from mlx_websockets.server.limits import Limits
from mlx_websockets.server.run import Stop, serve
from mlx_websockets.settings import Settings
from mlx_websockets.testing import ScriptedEngine

PATIENCE = 5.0
"""Seconds after which a test that waits has failed."""

HASTY = Limits(send_seconds=0.3, drain_seconds=0.5, shutdown_step_seconds=0.5, close_seconds=0.5, handshake_seconds=0.5)


class StartableScriptedEngine(ScriptedEngine):
    """A scripted engine that a server can start and stop."""

    is_stopped = False

    async def start(self, on_progress: Callable[[Any], None] | None = None) -> None:
        if on_progress is not None:
            on_progress("loading")

    async def stop(self) -> None:
        self.is_stopped = True


@dataclass
class Running:
    """A server that accepts connections."""

    addresses: Addresses
    engine: StartableScriptedEngine
    stop: Stop
    task: "asyncio.Task[bool]"
    opened: list[ClientConnection] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.addresses.port

    async def peer(self, path: str = "/", **options: Any) -> ClientConnection:
        """A WebSocket client that has connected."""
        socket = await connect(f"ws://127.0.0.1:{self.port}{path}", compression=None, **options)
        self.opened.append(socket)
        return socket


@asynccontextmanager
async def running(
    engine: StartableScriptedEngine | None = None,
    limits: Limits | None = None,
    access: Access = Access(),
    **settings: Any,
) -> AsyncIterator[Running]:
    """Serve while the block runs; the server's own errors are raised at its end."""
    engine = engine or StartableScriptedEngine()
    stop = Stop()
    told: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    chosen = Settings(**{"host": "127.0.0.1", "port": 0, **settings})
    task = asyncio.create_task(serve(chosen, engine, told.set_result, limits=limits, stop=stop, access=access))
    await asyncio.wait({task, told}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    server = Running(told.result(), engine, stop, task)
    try:
        yield server
    finally:
        for each in server.opened:
            each.transport.abort()
        stop.ask()
        stop.ask()
        await asyncio.wait_for(task, PATIENCE)


async def say(socket: ClientConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


async def hear(socket: ClientConnection) -> dict[str, Any]:
    """The next message."""
    async with asyncio.timeout(PATIENCE):
        return json.loads(await socket.recv())


async def hear_until(socket: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """The messages up to and with the next of this type."""
    heard = [await hear(socket)]
    while heard[-1]["type"] != kind:
        heard.append(await hear(socket))
    return heard


async def holds(claim: Callable[[], Any]) -> None:
    """Wait until `claim()` is true."""
    deadline = time.monotonic() + PATIENCE
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)


async def request_at(engine: ScriptedEngine, index: int) -> GenerationRequest:
    """The request that was submitted as number `index`, once it has been."""
    await holds(lambda: len(engine.requests) > index)
    return list(engine.requests.values())[index]


async def close_code(socket: ClientConnection) -> int | None:
    async with asyncio.timeout(PATIENCE):
        await socket.wait_closed()
    return socket.close_code


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]
