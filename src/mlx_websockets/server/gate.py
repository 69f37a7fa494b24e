"""Who gets in: the Host that was asked for, the page that asks, the token.

Browsers let any page open a WebSocket to any host, so a page's `Origin` is checked; a name
that a stranger controls may resolve to this machine, so `Host` must be an address or a name
of ours; and whoever asks from another machine needs the token. In this order, for every
request there is, but for the page and `/healthz`, which are for everybody. Knows the time only as a number; nothing
here sends anything.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_websockets.server import page
from mlx_websockets.server.parties import Key, Party
from mlx_websockets.server.tokens import Guesses, is_right, shown_token, without_token

Headers = Iterable[tuple[bytes, bytes]]

OPEN_PATHS = page.PATHS | {"/healthz"}
"""What needs no token, nor does the page itself, which holds no secret and asks for one."""

PARTY = "mlx_websockets.party"
"""Where a scope says who asks."""

_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_ORIGIN = re.compile(r"https?://(?P<authority>[^/?#@]+)", re.ASCII)

NO_TOKEN = "From another machine this server wants its token: a Bearer header, or ?token= in the address."  # noqa: S105
WRONG_TOKEN = "This is not the server's token. `mlx token` shows it."  # noqa: S105
TOO_MANY_GUESSES = "Too many wrong tokens came from this address. Try again in a minute."


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request does not pass.

    Attributes:
        reason: a sentence; short enough for a close frame.
        status: of the HTTP answer.
        headers: that go with it.
        is_for_browser: it has an Origin, so a browser sent it.
    """

    reason: str
    is_for_browser: bool
    status: int = 403
    headers: Mapping[str, str] = field(default_factory=dict)


class Gate:
    """The rule of one server."""

    def __init__(
        self,
        names: frozenset[str],
        *,
        keys: Iterable[Key] = (),
        is_open: bool = False,
        origins: Iterable[str] = (),
        guesses: Guesses | None = None,
    ) -> None:
        """
        Args:
            names: see `own_names`.
            keys: what other machines have to show one of; without any, nothing that they show is right.
            is_open: nobody needs a token.
            origins: of foreign pages that may connect all the same.
            guesses: counts the wrong tokens.
        """
        self._names = names
        self._keys = tuple(keys)
        self._is_open = is_open
        self._origins = frozenset(origin.lower() for origin in origins)
        self._guesses = Guesses() if guesses is None else guesses

    def refusal(self, scope: Mapping[str, Any], now: float) -> Refusal | None:
        """Why the request with this ASGI scope is refused, or None: it may pass. `now` is in seconds."""
        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        origins = _values(headers, b"origin")
        reason = host_refusal(headers, self._names) or self._origin_refusal(origins, headers)
        if reason:
            return Refusal(reason, bool(origins))
        return self._token_refusal(scope, bool(origins), now)

    def passed(self, scope: dict[str, Any]) -> dict[str, Any]:
        """The scope as everything behind the gate sees it: a token that is not there can't leak. See `party_of`."""
        return {**without_token(scope), PARTY: self._party(scope)}

    def _party(self, scope: Mapping[str, Any]) -> Party | None:
        shown = shown_token(scope)
        key = self._key(shown) if shown is not None else None
        if key is not None and key.holder is not None:
            return key.holder
        return None if is_local(scope) else Party(address_of(scope))

    def _key(self, shown: bytes) -> Key | None:
        """What it opens the door as. Every token is looked at, so the time tells nothing of which it was."""
        right = [key for key in self._keys if is_right(shown, key.token)]
        return right[0] if right else None

    def _origin_refusal(self, origins: list[str], headers: Headers) -> str | None:
        if not origins:
            return None  # no browser: nothing to protect a user from
        if len(origins) == 1 and (origins[0] in self._origins or _is_own_page(origins[0], headers)):
            return None
        return "Pages of this origin may not connect."

    def _token_refusal(self, scope: Mapping[str, Any], is_for_browser: bool, now: float) -> Refusal | None:
        if self._is_open or is_local(scope) or _is_open_to_all(scope):
            return None
        shown = shown_token(scope)
        if shown is None:
            return Refusal(NO_TOKEN, is_for_browser, 401, {"www-authenticate": "Bearer"})
        address = address_of(scope)
        wait = self._guesses.seconds_to_wait(address, now)
        if wait > 0:
            return Refusal(TOO_MANY_GUESSES, is_for_browser, 429, {"retry-after": str(int(wait) + 1)})
        if self._key(shown) is not None:
            return None
        self._guesses.note_wrong(address, now)
        header = {"www-authenticate": 'Bearer error="invalid_token"'}
        return Refusal(WRONG_TOKEN, is_for_browser, 401, header)


def party_of(scope: Mapping[str, Any]) -> Party | None:
    """Who asks, behind the gate; None: this machine."""
    found: Party | None = scope.get(PARTY)
    return found


# --- where a request comes from ---------------------------------------------------------


def _is_open_to_all(scope: Mapping[str, Any]) -> bool:
    return page.is_wanted(scope) or (scope["type"] == "http" and scope["path"] in OPEN_PATHS)


def is_local(scope: Mapping[str, Any]) -> bool:
    """Whether the request comes from this machine, and not through a proxy on it."""
    return _is_from_this_machine(scope) and not any(_is_of_a_proxy(name) for name, _ in scope["headers"])


def address_of(scope: Mapping[str, Any]) -> str:
    """Whom a wrong token is counted against; a whole network of IPv6, where one peer has many addresses."""
    peer = _host_in(scope, "client")
    if _is_from_this_machine(scope):  # then it is a proxy that told us, and its last word is its own
        told = _values(scope["headers"], b"x-forwarded-for")
        peer = told[-1].rpartition(",")[2].strip() if told else "a proxy"
    return network_of(peer)


def network_of(host: str) -> str:
    """`host`, or of IPv6 the network that one peer may have to itself."""
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address), 64), strict=False))
    return host[:64] if address is None else str(address)


def is_own_machine(peer: str, here: str) -> bool:
    """Whether the address of a peer is this machine's, given the one that it reached."""
    address = _address(peer)
    return address is not None and (address.is_loopback or address == _address(here))


def _is_from_this_machine(scope: Mapping[str, Any]) -> bool:
    return is_own_machine(_host_in(scope, "client"), _host_in(scope, "server"))


def _is_of_a_proxy(name: bytes) -> bool:
    name = name.lower()
    return name in (b"forwarded", b"via", b"x-real-ip") or name.startswith(b"x-forwarded-")


def _host_in(scope: Mapping[str, Any], end: str) -> str:
    return str((scope.get(end) or ("",))[0])


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


# --- Host and Origin --------------------------------------------------------------------


def own_names(bound_host: str, hostname: str | None = None, allowed: Iterable[str] = ()) -> frozenset[str]:
    """The names, in lower case, that mean this machine beside `localhost`.

    Args:
        bound_host: what the server was told to bind to.
        hostname: the machine's own name; asked of the system if not given.
        allowed: more of them, as the settings say.
    """
    full = (socket.gethostname() if hostname is None else hostname).lower().rstrip(".")
    names = {full, full.partition(".")[0] + ".local", bound_host.lower(), *(name.lower() for name in allowed)}
    return frozenset(names - {"", ".local"})


def host_refusal(headers: Headers, names: frozenset[str]) -> str | None:
    """Why any request with these headers is refused for its Host, or None."""
    hosts = _values(headers, b"host")
    if len(hosts) != 1:
        return "A request needs exactly one Host header."
    host = _host_of(hosts[0])
    if host is not None and (_is_literal(host) or _is_localhost(host) or host in names):
        return None
    return "The Host header names a host that is not this server. Use its address, or --allowed-host."


def _is_own_page(origin: str, headers: Headers) -> bool:
    """A page of this server, or one that this machine's user serves to himself."""
    match = _ORIGIN.fullmatch(origin)
    host = _host_of(match["authority"]) if match is not None else None
    if match is None or host is None:
        return False
    return match["authority"] == _values(headers, b"host")[0] or host in ("localhost", "127.0.0.1", "[::1]")


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip().lower() for key, value in headers if key.lower() == name]


def _host_of(authority: str) -> str | None:
    """The host in `host`, `host:port` or `[address]:port`; None if it is none of these."""
    match = _AUTHORITY.fullmatch(authority)
    return match["host"].removesuffix(".") if match is not None else None


def _is_literal(host: str) -> bool:
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
