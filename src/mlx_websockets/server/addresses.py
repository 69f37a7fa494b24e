"""Under which addresses a server can be reached, for people to read and copy."""

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running server listens.

    Attributes:
        port: the real one, also where the system chose it.
        local: for this machine, such as `ws://localhost:8765`.
        network: for the others on the same network; empty if they can't reach it.
        secure: where it takes encrypted connections, if it does.
    """

    port: int
    local: str
    network: tuple[str, ...] = ()
    secure: "Addresses | None" = None


def addresses_of(host: str, port: int, scheme: str = "ws") -> Addresses:
    """The addresses of a server bound to `host`: a name, an address, or every address."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104
        network = tuple(url(each, port, scheme) for each in network_addresses())
        return Addresses(port, url("localhost", port, scheme), network)
    if is_loopback(host):
        return Addresses(port, url(host, port, scheme))
    return Addresses(port, url(host, port, scheme), (url(host, port, scheme),))


def url(host: str, port: int, scheme: str = "ws") -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def network_addresses() -> list[str]:
    """This machine's IPv4 addresses on networks that are up, in the order of its interfaces."""
    is_up = {name: stats.isup for name, stats in psutil.net_if_stats().items()}
    return reachable(
        each.address
        for name, each_interface in psutil.net_if_addrs().items()
        if is_up.get(name)
        for each in each_interface
        if each.family == socket.AF_INET
    )


def reachable(found: Iterable[str]) -> list[str]:
    """Those that another machine can use: no loopback, nothing self-assigned for want of a network."""
    addresses = (ipaddress.IPv4Address(each) for each in dict.fromkeys(found))
    return [str(each) for each in addresses if not (each.is_loopback or each.is_link_local or each.is_unspecified)]
