"""Which handshake may pass.

Browsers let any page open a WebSocket to any host, so a page's `Origin` is checked; and a
name that a stranger controls may resolve to this machine, so `Host` must be an address or a
name of ours. Both always, on every address. Pure functions; nothing here sends anything.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

Headers = Iterable[tuple[bytes, bytes]]

_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_ORIGIN = re.compile(r"https?://(?P<authority>[^/?#@]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a handshake does not pass. `is_for_browser`: it has an Origin, so a browser sent it."""

    reason: str
    is_for_browser: bool


def own_names(bound_host: str, hostname: str | None = None) -> frozenset[str]:
    """The names, in lower case, that mean this machine beside `localhost`.

    Args:
        bound_host: what the server was told to bind to.
        hostname: the machine's own name; asked of the system if not given.
    """
    full = (socket.gethostname() if hostname is None else hostname).lower().rstrip(".")
    return frozenset({full, full.partition(".")[0] + ".local", bound_host.lower()} - {"", ".local"})


def refusal(headers: Headers, names: frozenset[str]) -> Refusal | None:
    """Why a WebSocket handshake with these headers is refused, or None: it may pass."""
    listed = list(headers)
    origins = _values(listed, b"origin")
    reason = host_refusal(listed, names) or _origin_refusal(origins, listed)
    return Refusal(reason, is_for_browser=bool(origins)) if reason else None


def host_refusal(headers: Headers, names: frozenset[str]) -> str | None:
    """Why any request with these headers is refused for its Host, or None."""
    hosts = _values(headers, b"host")
    if len(hosts) != 1:
        return "A request needs exactly one Host header."
    host = _host_of(hosts[0])
    if host is not None and (_is_address(host) or _is_localhost(host) or host in names):
        return None
    return "The Host header names a host that is not this server. Use its address, or localhost."


def _origin_refusal(origins: list[str], headers: Headers) -> str | None:
    if not origins:
        return None  # no browser: nothing to protect a user from
    origin = _ORIGIN.fullmatch(origins[0]) if len(origins) == 1 else None
    authority = origin["authority"] if origin is not None else ""
    host = _host_of(authority)
    if host is not None and (authority == _values(headers, b"host")[0] or _is_this_machine(host)):
        return None
    return "Pages of this origin may not connect."


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip().lower() for key, value in headers if key.lower() == name]


def _host_of(authority: str) -> str | None:
    """The host in `host`, `host:port` or `[address]:port`; None if it is none of these."""
    match = _AUTHORITY.fullmatch(authority)
    return match["host"].removesuffix(".") if match is not None else None


def _is_address(host: str) -> bool:
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        else:
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def _is_this_machine(host: str) -> bool:
    return host in ("localhost", "127.0.0.1", "[::1]")
