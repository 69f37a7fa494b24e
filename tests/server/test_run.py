"""Bind, load, serve, drain: with a real port, real sockets and, for signals, a real process."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from serving import (
    HASTY,
    StartableScriptedEngine,
    close_code,
    hear,
    hear_until,
    holds,
    request_at,
    running,
    say,
)
from websockets.asyncio.client import connect

from mlx_websockets.errors import ModelNotFound, PortInUse, UsageError
from mlx_websockets.generation import Delta, Started
from mlx_websockets.protocols.native_schema import SUBPROTOCOL
from mlx_websockets.server.binding import bind
from mlx_websockets.server.run import Stop, serve
from mlx_websockets.settings import Settings

HERE = Path(__file__).parent


@contextlib.contextmanager
def taken_port(host: str = "127.0.0.1"):
    with socket.create_server((host, 0)) as taken:
        yield taken.getsockname()[1]


# --- ports ----------------------------------------------------------------------------


def test_port_0_is_the_systems_choice_and_is_told():
    async def story():
        async with running() as one, running() as two:
            assert one.port != two.port and 0 not in (one.port, two.port)
            assert one.addresses.local == f"ws://127.0.0.1:{one.port}"

    asyncio.run(story())


def test_a_taken_port_fails_before_the_model_is_loaded():
    class Unloadable(StartableScriptedEngine):
        async def start(self, on_progress=None):
            raise AssertionError("loaded all the same")

    async def story(port):
        with pytest.raises(PortInUse) as caught:
            await serve(Settings(host="127.0.0.1", port=port), Unloadable(), print)
        return caught.value

    with taken_port() as port:
        error = asyncio.run(story(port))

    assert f"Port {port} on 127.0.0.1 is already in use" in error.reason
    assert "--auto-port" in error.hint and "--port 0" in error.hint


def test_auto_port_takes_the_next_free_one_and_keeps_it():
    with taken_port() as port:
        first = bind(Settings(host="127.0.0.1", port=port, auto_port=True))
        second = bind(Settings(host="127.0.0.1", port=port, auto_port=True))

        ports = [each[0].getsockname()[1] for each in (first, second)]

        assert port < ports[0] < ports[1] <= port + 100
        for each in [*first, *second]:
            each.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])
def test_both_kinds_of_addresses_share_a_port(host):
    bound = bind(Settings(host=host, port=0))

    assert len({each.getsockname()[1] for each in bound}) == 1
    assert bound[0].family == socket.AF_INET
    assert len(bound) == 2 or not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists()
    for each in bound:
        each.close()


def test_no_message_waits_until_the_one_before_is_acknowledged():
    with contextlib.ExitStack() as stack:
        bound = [stack.enter_context(each) for each in bind(Settings(host="localhost", port=0))]
        bound[0].setblocking(True)
        stack.enter_context(socket.create_connection(bound[0].getsockname()))

        accepted = stack.enter_context(bound[0].accept()[0])

        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_taken_on_one_address_is_taken_on_every_address():
    with taken_port() as port, pytest.raises(PortInUse):
        bind(Settings(host="0.0.0.0", port=port))


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "b\u00fc\u00df\u00df.."])
def test_a_host_that_is_not_this_machine_is_a_wrong_flag(host):
    with pytest.raises(UsageError, match="--host"):
        bind(Settings(host=host, port=0))


# --- loading --------------------------------------------------------------------------


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind():
    class Missing(StartableScriptedEngine):
        async def start(self, on_progress=None):
            raise ModelNotFound("There is no such model.")

    async def story():
        engine = Missing()
        stop = Stop()
        with pytest.raises(ModelNotFound):
            await serve(Settings(host="127.0.0.1", port=0), engine, print, stop=stop)
        assert engine.is_stopped

    asyncio.run(story())


def test_a_stop_while_loading_ends_the_loading():
    class Slow(StartableScriptedEngine):
        is_loading = False

        async def start(self, on_progress=None):
            self.is_loading = True
            await asyncio.Event().wait()

    async def story():
        engine, stop, announced = Slow(), Stop(), []
        task = asyncio.create_task(serve(Settings(host="127.0.0.1", port=0), engine, announced.append, stop=stop))
        await holds(lambda: engine.is_loading)

        stop.ask()

        assert await asyncio.wait_for(task, 5) is False
        assert engine.is_stopped and not announced

    asyncio.run(story())


def test_progress_is_passed_on():
    async def story():
        heard, stop = [], Stop()
        await serve(
            Settings(host="127.0.0.1", port=0),
            StartableScriptedEngine(),
            lambda _: stop.ask(),
            on_progress=heard.append,
            stop=stop,
        )
        assert heard == ["loading"]

    asyncio.run(story())


# --- shutdown -------------------------------------------------------------------------


def test_a_shutdown_tells_everybody_how_it_ended():
    async def story():
        engine = StartableScriptedEngine()
        engine.rows = 2
        async with running(engine, HASTY) as server:
            idle, busy = await server.peer(), await server.peer(subprotocols=[SUBPROTOCOL])
            await say(busy, type="text_input", content="slow", id="slow")
            await say(busy, type="text_input", content="quick", id="quick")
            slow, quick = await request_at(engine, 0), await request_at(engine, 1)
            await say(busy, type="text_input", content="waits", id="waits")
            await say(busy, type="ping")
            await hear_until(busy, "pong")
            engine.say(Delta(slow.id, "Once upon"))

            server.stop.ask()
            told = await hear_until(busy, "goaway")
            await say(busy, type="text_input", content="late", id="late")
            told.append(await hear(busy))
            engine.reply(quick.id, "done")
            told += [await hear(busy) for _ in range(4)]

            assert [(each["type"], each.get("id"), each.get("code")) for each in told] == [
                ("token", "slow", None),
                ("error", "waits", "shutting_down"),
                ("goaway", None, None),
                ("error", "late", "shutting_down"),
                ("response_start", "quick", None),
                ("token", "quick", None),
                ("response_complete", "quick", None),
                ("error", "slow", "shutting_down"),
            ]
            assert all(each["retryable"] for each in told if each["type"] == "error")
            assert [await close_code(idle), await close_code(busy)] == [1001, 1001]
            assert await asyncio.wait_for(server.task, 5) is True
            assert engine.is_stopped and engine.cancelled == [slow.id]

    asyncio.run(story())


def test_a_shutdown_with_nothing_to_finish_does_not_wait():
    async def story():
        async with running() as server:  # the seed's patience: 2 seconds a step
            peers = [await server.peer() for _ in range(3)]

            server.stop.ask()
            codes = [await close_code(peer) for peer in peers]
            await asyncio.wait_for(server.task, 1.9)

            assert codes == [1001, 1001, 1001]

    asyncio.run(story())


def test_a_shutdown_does_not_wait_for_a_peer_that_reads_nothing():
    async def story():
        async with running(limits=HASTY) as server:
            deaf = await server.peer(max_queue=1)
            await say(deaf, type="text_input", content="long")
            request = await request_at(server.engine, 0)
            server.engine.say(Started(request.id))
            deaf.transport.pause_reading()
            for _ in range(20):
                server.engine.say(Delta(request.id, "x" * 500_000))
                await asyncio.sleep(0)

            server.stop.ask()

            assert await asyncio.wait_for(server.task, 5) is True

    asyncio.run(story())


def test_a_second_wish_to_stop_waits_for_nothing():
    async def story():
        async with running() as server:
            peer = await server.peer()
            await say(peer, type="text_input", content="long")
            await request_at(server.engine, 0)

            server.stop.ask()
            server.stop.ask()

            await asyncio.wait_for(server.task, 1.5)  # a first wish alone takes 2 seconds here

    asyncio.run(story())


PROGRAM = """
import asyncio, sys
from serving import StartableScriptedEngine
from mlx_websockets.server.run import serve
from mlx_websockets.settings import Settings
ready = asyncio.run(serve(
    Settings(host="127.0.0.1", port=0), StartableScriptedEngine(), lambda told: print(told.port, flush=True)
))
print("served", ready, flush=True)
"""


def program(*prefix: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", PROGRAM],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_program_politely(number):
    async def story(process, port):
        async with connect(f"ws://127.0.0.1:{port}", compression=None) as peer:
            await say(peer, type="get_status")
            await hear(peer)
            process.send_signal(number)
            assert await close_code(peer) == 1001

    with program() as process:
        asyncio.run(story(process, int(process.stdout.readline())))
        said, complained = process.communicate(timeout=10)

    assert (process.returncode, said, complained) == (0, "served True\n", "")


def test_a_signal_that_is_ignored_stays_ignored():
    async def story(process, port):
        async with connect(f"ws://127.0.0.1:{port}", compression=None) as peer:
            process.send_signal(signal.SIGHUP)
            await say(peer, type="ping")
            assert (await hear(peer))["type"] == "pong"

    with program("nohup") as process:
        asyncio.run(story(process, int(process.stdout.readline())))
        process.terminate()
        process.communicate(timeout=10)

    assert process.returncode == 0


# --- over plain HTTP ------------------------------------------------------------------


async def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    """Status and body."""

    def ask() -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


def test_a_server_says_how_it_is_over_http():
    async def story():
        async with running() as server:
            alive, ready = await get(server.port, "/healthz"), await get(server.port, "/readyz")
            server.engine.crash()
            crashed = await get(server.port, "/readyz")
            status, stats = await get(server.port, "/v1/status")
            _, greeting = await get(server.port, "/")
            missing, _ = await get(server.port, "/nowhere")

            assert (alive, ready[0], crashed[0], missing) == ((200, "ok\n"), 200, 503, 404)
            assert status == 200
            stats = json.loads(stats)
            assert stats["engine"]["state"] == "restarting" and stats["model"]["loaded"] is False
            assert {"total_gb", "available_gb", "percent_used"} == stats["memory"].keys()
            assert f"ws://127.0.0.1:{server.port}" in greeting

    asyncio.run(story())


def test_a_foreign_host_is_refused_over_http_too():
    async def story():
        async with running() as server:
            status, _ = await get(server.port, "/v1/status", host="evil.example")

            assert status == 403

    asyncio.run(story())


def test_silence_is_kept_about_the_software_underneath():
    async def story():
        async with running() as server:
            with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{server.port}/healthz") as response:
                assert {"server", "date"}.isdisjoint(name.lower() for name in response.headers)

    asyncio.run(story())
