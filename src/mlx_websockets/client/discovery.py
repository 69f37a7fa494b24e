"""Servers on this network, by name: those that were started with `--mdns`.

async with connect("mlx://studio") as mlx:
    ...
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from mlx_websockets.client.errors import CannotConnect
from mlx_websockets.protocols.native_schema import MDNS_SERVICE

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

SCHEME = "mlx://"

LOOK_ON: list[str] | None = None
"""The addresses of the interfaces to look on; None: all of them."""


async def discover(name: str | None = None, *, seconds: float = 3.0) -> str:
    """The address of the server of this name, such as `ws://192.168.1.20:8765`; without a name, of the first found.

    Raises:
        CannotConnect: there is none within `seconds`, or the package zeroconf is not installed.
    """
    try:
        async with asyncio.timeout(seconds), _zeroconf() as zeroconf:
            return await _address(zeroconf, name if name is not None else await _first_name(zeroconf))
    except TimeoutError:
        what = "No server" if name is None else f"No server of the name {name!r}"
        raise CannotConnect(f"{what} is announced on this network. Start it with --mdns.") from None


async def resolved(url: str, seconds: float) -> str:
    """`url`, with `mlx://NAME` replaced by the address of that server. Raises `CannotConnect`."""
    if not url.startswith(SCHEME):
        return url
    return await discover(url.removeprefix(SCHEME).rstrip("/") or None, seconds=seconds)


@contextlib.asynccontextmanager
async def _zeroconf() -> AsyncIterator["AsyncZeroconf"]:
    try:
        from zeroconf import InterfaceChoice, IPVersion
        from zeroconf.asyncio import AsyncZeroconf
    except ImportError:
        raise CannotConnect("Finding a server by name needs a package: pip install 'mlx-websockets[mdns]'.") from None
    try:
        zeroconf = AsyncZeroconf(LOOK_ON or InterfaceChoice.All, ip_version=IPVersion.V4Only)
    except OSError as error:
        raise CannotConnect(f"Servers can't be looked for on this network: {error.strerror}.") from None
    try:
        yield zeroconf
    finally:
        await zeroconf.async_close()


async def _address(zeroconf: "AsyncZeroconf", name: str) -> str:
    """Asks until it is answered; a service that was announced a moment ago takes more than one question."""
    while True:
        info = await zeroconf.async_get_service_info(MDNS_SERVICE, f"{name}.{MDNS_SERVICE}", 1000)
        if info is not None and (hosts := info.parsed_addresses()):
            return f"ws://{hosts[0]}:{info.port}"
        await asyncio.sleep(0.05)


async def _first_name(zeroconf: "AsyncZeroconf") -> str:
    from zeroconf import ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser

    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def note(state_change: ServiceStateChange, name: str, **_: Any) -> None:
        if state_change is ServiceStateChange.Added and not found.done():
            found.set_result(name.removesuffix(f".{MDNS_SERVICE}"))

    browser = AsyncServiceBrowser(zeroconf.zeroconf, MDNS_SERVICE, handlers=[note])
    try:
        return await found
    finally:
        await browser.async_cancel()
