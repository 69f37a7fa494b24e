"""Peers that are there and do nothing: stopped processes, whose kernel still says that all is well."""

import asyncio
import os
import signal
import sys

import pytest
from serving import PATIENCE, hear, holds, request_at, running, say

from mlx_websockets.generation import Delta
from mlx_websockets.server import run
from mlx_websockets.server.limits import Limits

PEER = """
import asyncio, sys
from websockets.asyncio.client import connect
async def main():
    async with connect(sys.argv[1], compression=None) as peer:
        await peer.send('{"type": "text_input", "content": "long", "id": "x"}')
        print("asked", flush=True)
        async for _ in peer:
            pass
asyncio.run(main())
"""


async def stopped_peer(port: int) -> asyncio.subprocess.Process:
    """A process that has asked a question and then stands still."""
    peer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PEER, f"ws://127.0.0.1:{port}", stdout=asyncio.subprocess.PIPE
    )
    assert peer.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert await peer.stdout.readline() == b"asked\n"
    os.kill(peer.pid, signal.SIGSTOP)
    return peer


async def end(peer: asyncio.subprocess.Process) -> None:
    peer.kill()
    await peer.wait()


def test_a_stopped_process_that_is_sent_much_is_let_go_and_its_row_is_free():
    async def story():
        async with running(limits=Limits(send_seconds=0.3)) as server:
            peer = await stopped_peer(server.port)
            request = await request_at(server.engine, 0)

            while not server.engine.cancelled:
                server.engine.say(Delta(request.id, "blah " * 2_000))
                await asyncio.sleep(0.001)

            assert server.engine.cancelled == [request.id]
            await end(peer)

    asyncio.run(story())


@pytest.mark.parametrize("is_full", [False, True], ids=["with an empty buffer", "with a full buffer"])
def test_a_stopped_process_that_answers_no_ping_is_let_go(monkeypatch, is_full):
    """Also if the kernel takes no more of it: uvicorn's own close would wait for that for ever."""

    async def story():
        configured = run.listener_config

        def impatient(*arguments):
            config = configured(*arguments)
            config.ws_ping_interval, config.ws_ping_timeout = 0.2, 0.2
            return config

        monkeypatch.setattr(run, "listener_config", impatient)
        async with running(limits=Limits(close_seconds=0.2, send_seconds=60)) as server:
            peer = await stopped_peer(server.port)
            request = await request_at(server.engine, 0)
            if is_full:
                server.engine.say(Delta(request.id, "x" * 12_000_000))

            await holds(lambda: server.engine.cancelled == [request.id])
            other = await server.peer()
            await say(other, type="get_status")
            assert (await hear(other))["stats"]["queue"]["connections"] == 1
            await end(peer)

    asyncio.run(story())
