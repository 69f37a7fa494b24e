"""Servers are found by name, over the loopback interface alone."""

import asyncio
import socket
import time

import pytest
from answering import Engine, parrot
from zeroconf.asyncio import AsyncZeroconf

from mlx_websockets.client import CannotConnect, connect, discover, discovery
from mlx_websockets.protocols.native_schema import MDNS_SERVICE
from mlx_websockets.server import mdns
from mlx_websockets.server.addresses import Addresses
from mlx_websockets.server.run import Stop, serve
from mlx_websockets.settings import DEFAULT_PORT, Settings

ABOUT = {"version": "1.2.3", "model": "m"}


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask nobody else's network."""
    monkeypatch.setattr(discovery, "LOOK_ON", ["127.0.0.1"])


def test_a_server_is_called_like_its_machine_and_its_port_where_that_is_unusual():
    assert mdns.name_of("Studio.local", DEFAULT_PORT) == "studio"
    assert mdns.name_of("Studio", 9000) == "studio-9000"
    assert mdns.name_of("", DEFAULT_PORT) == "mlx"


def test_the_record_says_where_the_server_is_and_what_it_serves():
    info = mdns.service_of("studio", ["192.168.1.20"], 8765, {"model": "x" * 300})

    assert (info.type, info.get_name(), info.port) == ("_mlx-ws._tcp.local.", "studio", 8765)
    assert info.parsed_addresses() == ["192.168.1.20"]
    assert info.properties == {b"model": b"x" * mdns.MAX_VALUE_BYTES}


def test_a_server_for_this_machine_alone_is_announced_to_this_machine_alone():
    assert mdns.hosts_of(Addresses(1, "ws://localhost:1")) == ["127.0.0.1"]
    assert mdns.hosts_of(Addresses(1, "ws://localhost:1", ("ws://10.0.0.5:1", "ws://[fe80::1]:1"))) == ["10.0.0.5"]


def test_a_server_started_with_mdns_is_found_by_its_name_and_answers_under_it():
    async def story() -> tuple[str, str, str]:
        stop, told = Stop(), asyncio.get_running_loop().create_future()
        settings = Settings(host="127.0.0.1", port=0, mdns=True)
        task = asyncio.create_task(serve(settings, Engine(parrot), told.set_result, stop=stop))
        addresses = await asyncio.wait_for(told, 10)
        name = mdns.name_of(socket.gethostname(), addresses.port)
        try:
            address = await discover(name, seconds=10)
            async with connect(f"mlx://{name}") as mlx:
                text = "".join([delta async for delta in mlx.ask("Polly?")])
            return address, addresses.local, text
        finally:
            stop.ask()
            await asyncio.wait_for(task, 10)

    address, local, text = asyncio.run(story())

    assert address == local and text


def test_a_server_that_has_ended_says_goodbye():
    async def story() -> None:
        addresses = Addresses(54321, "ws://127.0.0.1:54321")
        announcing = asyncio.create_task(mdns.announce(addresses, ABOUT))
        name = mdns.name_of(socket.gethostname(), 54321)
        watcher = AsyncZeroconf(["127.0.0.1"])
        before = await _until_known(watcher, name, is_known=True)
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)
        after = await _until_known(watcher, name, is_known=False)
        await watcher.async_close()

        assert before and not after

    asyncio.run(story())


async def _until_known(watcher: AsyncZeroconf, name: str, *, is_known: bool) -> bool:
    deadline = time.monotonic() + 10
    while True:
        found = await watcher.async_get_service_info(MDNS_SERVICE, f"{name}.{MDNS_SERVICE}", 300)
        if (found is not None) == is_known or time.monotonic() > deadline:
            return found is not None


def test_a_name_that_nobody_has_is_told_as_a_sentence():
    with pytest.raises(CannotConnect, match="No server of the name 'nobody-here' is announced"):
        asyncio.run(discover("nobody-here", seconds=0.3))


def test_without_a_name_the_first_server_is_taken():
    async def story() -> str:
        announcing = asyncio.create_task(mdns.announce(Addresses(54322, "ws://127.0.0.1:54322"), ABOUT))
        try:
            return await discover(seconds=10)
        finally:
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)

    assert asyncio.run(story()).startswith("ws://127.0.0.1:")


def test_an_address_that_is_none_of_ours_is_left_alone():
    assert asyncio.run(discovery.resolved("wss://gpu.lan/ws", 1.0)) == "wss://gpu.lan/ws"
