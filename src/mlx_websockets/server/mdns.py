"""The server's name on the local network, for peers that know no address: `mlx://NAME`.

Multicast DNS, by the zeroconf package, which is imported only where it was asked for. A server
that is bound to this machine alone is announced to this machine alone.
"""

import asyncio
import contextlib
import importlib.util
import logging
import socket
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlx_websockets.errors import UsageError
from mlx_websockets.protocols.native_schema import MDNS_SERVICE
from mlx_websockets.server.addresses import Addresses
from mlx_websockets.settings import DEFAULT_PORT

if TYPE_CHECKING:
    from zeroconf import ServiceInfo

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
FAREWELL_SECONDS = 2.0
MAX_VALUE_BYTES = 200
"""Of what is said about a server; a record has 255 for name and value."""


def check_available() -> None:
    """Raises `UsageError` if the package that announces is not here."""
    if importlib.util.find_spec("zeroconf") is None:
        raise UsageError("--mdns needs the package zeroconf.", "pip install 'mlx-websockets[mdns]'")


def name_of(hostname: str, port: int) -> str:
    """What a server on this machine is called: the machine's name, and its port where that is not the usual one."""
    host = hostname.partition(".")[0].lower() or "mlx"
    return host if port == DEFAULT_PORT else f"{host}-{port}"


def hosts_of(addresses: Addresses) -> list[str]:
    """The IPv4 addresses under which it is announced; none if it has only others."""
    hosts = [urllib.parse.urlsplit(each).hostname or "" for each in addresses.network]
    return [host for host in hosts if _is_ipv4(host)] if addresses.network else [LOOPBACK]


def service_of(name: str, hosts: Sequence[str], port: int, about: dict[str, str]) -> "ServiceInfo":
    """The record of a server; of each value only so much is said as there is room for."""
    from zeroconf import ServiceInfo

    properties = {key: value.encode()[:MAX_VALUE_BYTES] for key, value in about.items()}
    return ServiceInfo(
        MDNS_SERVICE,
        f"{name}.{MDNS_SERVICE}",
        port=port,
        addresses=[socket.inet_aton(host) for host in hosts],
        properties=properties,
        server=f"mlx-ws-{name}.local.",
    )


async def announce(addresses: Addresses, about: dict[str, str]) -> None:
    """Be known by name until it is cancelled. A network on which that can't be is worth a warning, no more."""
    from zeroconf import Error, IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    hosts = hosts_of(addresses)
    if not hosts:
        logger.warning("not announced by mDNS: there is no IPv4 address")
        return
    info = service_of(name_of(socket.gethostname(), addresses.port), hosts, addresses.port, about)
    interfaces: Any = hosts
    try:
        zeroconf = AsyncZeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)
    except OSError as error:
        logger.warning("not announced by mDNS: %s", error.strerror)
        return
    try:
        await (await zeroconf.async_register_service(info, allow_name_change=True))
        logger.info("announced by mDNS", extra={"name_there": info.get_name()})
        await asyncio.Event().wait()
    except (OSError, Error) as error:
        logger.warning("not announced by mDNS: %s", type(error).__name__)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await zeroconf.async_unregister_all_services()
                await zeroconf.async_close()


def _is_ipv4(host: str) -> bool:
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True
