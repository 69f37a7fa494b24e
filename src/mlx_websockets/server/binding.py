"""Listening sockets: bound before anything slow begins, so that a taken port is known at once."""

import errno
import socket
import sys

import psutil

from mlx_websockets.errors import PortInUse, StartError, UsageError
from mlx_websockets.settings import Settings

PORTS_TO_TRY = 100
BACKLOG = 128
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104

_Address = tuple[socket.AddressFamily, str]


def bind(settings: Settings) -> list[socket.socket]:
    """Sockets that listen where the settings say, all on one port.

    The system takes connections from now on; they wait until they are accepted.

    Raises:
        PortInUse: the port, and with `auto_port` each of the next hundred, is taken.
        UsageError: the host is not this machine's, or the port is for the administrator only.
    """
    addresses = _addresses(settings.host)
    if settings.port == 0:
        return _bind_to_any_port(addresses)
    tries = PORTS_TO_TRY if settings.auto_port else 0
    for port in range(settings.port, min(settings.port + tries, 65535) + 1):
        try:
            return _bind_all(addresses, port)
        except PortInUse as error:
            taken = error
    if settings.auto_port:
        raise PortInUse(f"Port {settings.port} and the {tries} after it are in use.", "Try --port 0.")
    raise taken


def _addresses(host: str) -> list[_Address]:
    """What to bind to for `host`; the first is essential, the rest where this machine has them."""
    if host in WILDCARDS:
        return [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]  # noqa: S104
    if host == "localhost":
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(f"--host: there is no address for {host}.", "Try --host localhost.") from None
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _bind_to_any_port(addresses: list[_Address]) -> list[socket.socket]:
    for _ in range(PORTS_TO_TRY):
        first = _bind_one(addresses[0], 0)
        try:
            return [first, *_bind_rest(addresses, first.getsockname()[1])]
        except PortInUse:  # free there and taken here: let the system choose again
            first.close()
    raise PortInUse("The system found no port that is free on every address.")


def _bind_all(addresses: list[_Address], port: int) -> list[socket.socket]:
    if addresses[0][1] in WILDCARDS and _somebody_answers(port):
        raise _port_in_use(port)
    first = _bind_one(addresses[0], port)
    try:
        return [first, *_bind_rest(addresses, port)]
    except BaseException:
        first.close()
        raise


def _bind_rest(addresses: list[_Address], port: int) -> list[socket.socket]:
    bound: list[socket.socket] = []
    try:
        for address in addresses[1:]:
            try:
                bound.append(_bind_one(address, port))
            except UsageError:
                continue  # a machine without IPv6
    except BaseException:
        for each in bound:
            each.close()
        raise
    return bound


def _bind_one(address: _Address, port: int) -> socket.socket:
    family, host = address
    try:
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        raise UsageError(f"--host: this machine has no addresses like {host}.", "Try --host localhost.") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. Without it a token waits, 40 ms at times, until the one before it is acknowledged.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)  # only now is the port surely ours: Linux lets two bind, and one listen
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise _explained(error, host, port) from None
    return bound


def _explained(error: OSError, host: str, port: int) -> StartError:
    if error.errno == errno.EADDRINUSE:
        return _port_in_use(port, host)
    if error.errno == errno.EACCES:
        return UsageError(f"Port {port} needs administrator rights.", "Use a port from 1024 on, such as --port 8765.")
    return UsageError(f"--host: this machine does not have the address {host}.", "Try --host localhost.")


def _port_in_use(port: int, host: str = "127.0.0.1") -> PortInUse:
    owner = _owner_of(port)
    by = f" by {owner}" if owner else ""
    return PortInUse(
        f"Port {port} on {host} is already in use{by}.",
        "Add --auto-port to use the next free one, or --port 0 to let the system choose.",
    )


def _somebody_answers(port: int) -> bool:
    """On macOS every address can be bound beside a server on the loopback one, which would get our local peers."""
    if sys.platform != "darwin":
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _owner_of(port: int) -> str:
    """The program that listens on `port`, where the system lets us know it."""
    try:
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid is not None:
                return f"{psutil.Process(each.pid).name()} (process {each.pid})"
    except (psutil.Error, OSError):
        pass  # macOS tells only the administrator
    return ""
