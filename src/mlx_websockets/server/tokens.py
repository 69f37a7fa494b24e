"""The token that a peer shows: where it may be, whether it is right, how often one may guess.

A browser can't set headers of a WebSocket, so beside `Authorization: Bearer` a token may be
in the address (`?token=`) or in an item of the subprotocols (`mlx-key.` and base64url). Pure:
nothing here knows a socket or a clock.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

KEY_ITEM = "mlx-key."
PARAMETER = "token"
MAX_GUESSES = 10
GUESS_SECONDS = 60.0
MAX_GUESSERS = 4096

_TELLING = (b"authorization", b"referer")  # the latter is the address that a page was opened with


def shown_token(scope: Mapping[str, Any]) -> bytes | None:
    """The token of a request: its header's, else its subprotocol's, else its address's; None: it shows none.

    One that makes no sense is still one: it counts as wrong.
    """
    for name, value in scope["headers"]:
        scheme, _, rest = value.partition(b" ")
        if name.lower() == b"authorization" and scheme.lower() == b"bearer":
            return bytes(rest.strip())
    for item in scope.get("subprotocols", ()):
        if item.startswith(KEY_ITEM):
            return _decoded(item.removeprefix(KEY_ITEM))
    for name, value in _parameters(scope):
        if name == PARAMETER:
            return value.encode(errors="replace")
    return None


def is_right(shown: bytes, token: str) -> bool:
    """In a time that tells nothing of how much of it is right."""
    return hmac.compare_digest(shown, token.encode())


def key_item(token: str) -> str:
    """The subprotocol item that carries this token."""
    return KEY_ITEM + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def with_token(url: str, token: str | None) -> str:
    """An address that lets in who opens it."""
    return url if token is None else f"{url}/?{PARAMETER}={quote(token, safe='')}"


def without_token(scope: dict[str, Any]) -> dict[str, Any]:
    """The same request, showing none."""
    rest = [(name, value) for name, value in _parameters(scope) if name != PARAMETER]
    cleaned = {
        **scope,
        "headers": [_cleaned(name, value) for name, value in scope["headers"] if name.lower() not in _TELLING],
        "query_string": urlencode(rest).encode() if scope.get("query_string") else b"",
    }
    if "subprotocols" in scope:
        cleaned["subprotocols"] = [item for item in scope["subprotocols"] if not item.startswith(KEY_ITEM)]
    return cleaned


def _cleaned(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    if name.lower() != b"sec-websocket-protocol":
        return name, value
    items = (item.strip() for item in value.split(b","))
    return name, b", ".join(item for item in items if not item.startswith(KEY_ITEM.encode()))


def _parameters(scope: Mapping[str, Any]) -> list[tuple[str, str]]:
    query = scope.get("query_string", b"").decode("latin-1")
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=100)
    except ValueError:  # more than that
        return []


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


class Guesses:
    """Wrong tokens by the address they came from. Past so many in a minute the address waits for one."""

    def __init__(self, *, most: int = MAX_GUESSES, seconds: float = GUESS_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._wrong: dict[str, list[float]] = {}

    def note_wrong(self, address: str, now: float) -> None:
        """One more from there; the address that has been silent for longest makes way if there are too many."""
        recent = [at for at in self._wrong.pop(address, []) if at > now - self._seconds]
        self._wrong[address] = [*recent, now]
        if len(self._wrong) > MAX_GUESSERS:
            del self._wrong[next(iter(self._wrong))]

    def seconds_to_wait(self, address: str, now: float) -> float:
        """Until the address may try again; 0: now. Whoever has to wait is not heard, so nothing is added meanwhile."""
        wrong = self._wrong.get(address, [])
        return max(0.0, wrong[-1] + self._seconds - now) if len(wrong) >= self._most else 0.0
