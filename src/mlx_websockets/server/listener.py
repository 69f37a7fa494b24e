"""Uvicorn's two protocol classes, with the bounds that they lack.

A TCP connection that sends no request in time is closed; past so many connections the next
is told 503; a peer that reads nothing can neither pile up pongs nor linger while it is being
closed; and an application finds `abort` in its scope's state, because closing a transport
waits for a peer that no longer reads.

What is relied on of uvicorn: `connection_made`, `connection_lost`, `handle_websocket_upgrade`,
`cycle`, `connections` of the one, `run_asgi`, `send`, `initial_response`, `handshake_complete`,
`handle_cont`, `send_receive_event_to_app`, `frames`,
`curr_msg_data_type`, `conn`, `close_sent`, `queue`, `connection_lost`, `handle_ping`, `keepalive_timeout`,
`handle_parser_exception`, `scope` of the other, and `transport` of both.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from mlx_websockets.server.gate import is_own_machine, network_of
from mlx_websockets.server.limits import Limits

MAX_PONG_BYTES = 1024 * 1024
"""Unsent bytes of a peer that goes on pinging."""

_TOO_MANY = b"The server has too many connections.\n"
TOO_MANY_CONNECTIONS = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (len(_TOO_MANY), _TOO_MANY)
)


def http_protocol(
    limits: Limits,
    on_refused: Callable[[int], None] = lambda status: None,
    is_own: Callable[[str, str], bool] = is_own_machine,
) -> type[H11Protocol]:
    """The class that meets every connection first.

    Args:
        on_refused: told the HTTP status of each connection that is turned away.
        is_own: whether a peer's address is of this machine, given the address that it reached.
    """

    class BoundedHTTP(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections or too_many_from(self, limits, is_own):
                on_refused(503)
                transport.write(TOO_MANY_CONNECTIONS)
                transport.close()
            self._expect_request()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect_nothing()
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, event: Any) -> None:
            self._expect_nothing()
            super().handle_websocket_upgrade(event)

        def _expect_request(self) -> None:
            self._deadline = self.loop.call_later(limits.handshake_seconds, self._too_late)

        def _expect_nothing(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()

        def _too_late(self) -> None:
            is_answering = self.cycle is not None and not self.cycle.response_complete
            if is_answering and not self.transport.is_closing():
                self._expect_request()
            else:
                self.transport.abort()

    return BoundedHTTP


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Takes over once a WebSocket handshake has been read."""

    limits: Limits

    async def run_asgi(self) -> None:
        self.scope["state"]["abort"] = self.transport.abort
        await super().run_asgi()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # a refusal, too, ends it: else uvicorn logs an error for each

    def handle_cont(self, event: Any) -> None:
        if self.close_sent:
            return  # what is left of a message that was refused
        if len(self.frames) < self.limits.max_fragments:
            super().handle_cont(event)
        else:
            self._refuse(1009, f"more than {self.limits.max_fragments} fragments")

    def send_receive_event_to_app(self) -> None:
        whole = b"".join(self.frames)
        if self.curr_msg_data_type == "text" and not _is_utf8(whole):
            self._refuse(1007, "text that is no UTF-8")  # uvicorn would log a traceback for each
        else:
            self.frames = [whole]
            super().send_receive_event_to_app()

    def _refuse(self, code: int, reason: str) -> None:
        self.frames = []
        if not self.close_sent:
            self.conn.fail(code, reason)
            self.handle_parser_exception()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.conn.close_rcvd is None:  # uvicorn calls that 1005 too: closed by the peer, without a code
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        super().connection_lost(exc)

    def handle_ping(self) -> None:
        if self.transport.get_write_buffer_size() > MAX_PONG_BYTES:
            self.transport.abort()
        else:
            super().handle_ping()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._abort_soon()

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._abort_soon()

    def _abort_soon(self) -> None:
        self.loop.call_later(self.limits.close_seconds, self.transport.abort)


def too_many_from(peer: Any, limits: Limits, is_own: Callable[[str, str], bool]) -> bool:
    """Whether the address of this connection has more of them than it may. Looks at each: there is a bound."""
    if peer.client is None or peer.server is None or is_own(peer.client[0], peer.server[0]):
        return False
    own = network_of(peer.client[0])
    clients = (getattr(each, "client", None) for each in peer.connections)
    return sum(each is not None and network_of(each[0]) == own for each in clients) > limits.max_connections_per_address


def websocket_protocol(limits: Limits) -> type[BoundedWebSocket]:
    """The class with its limits: uvicorn makes the objects."""
    return type("WebSocketWithin", (BoundedWebSocket,), {"limits": limits})


def _is_utf8(data: bytes) -> bool:
    if data.isascii():  # nearly free, and true of every large message
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
