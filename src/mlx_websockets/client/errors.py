"""What can go wrong between the client library and a server.

ClientError
├── CannotConnect     nobody there, or we were not let in
├── ConnectionLost    the connection is over; so is every reply that was open
├── ReplyError        the server refused a request or could not finish it
├── OutboxFull        more is asked than the network takes
└── UnknownPicture    not a kind of picture that can be sent
"""

from mlx_websockets.errors import MLXWebSocketsError


class ClientError(MLXWebSocketsError):
    """Base of everything that the client library raises on purpose."""

    code = "client_error"


class CannotConnect(ClientError):
    """The connection can't be opened. `status` is the HTTP status of a refusal, if it was one."""

    code = "cannot_connect"

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class ConnectionLost(ClientError):
    """The connection is over. `close_code` and `reason` are what the server said, if it did."""

    code = "connection_lost"
    retryable = True

    def __init__(self, close_code: int | None, reason: str = "") -> None:
        said = f": {reason}" if reason else ""
        super().__init__(f"The connection is closed ({close_code or 'no close code'}){said}")
        self.close_code = close_code
        self.reason = reason


class ReplyError(ClientError):
    """The server answered with an error.

    Attributes:
        code: stable, see `docs/reference/protocol.md`.
        param: the path of the field that was wrong, if one was.
        retryable: asking again may help.
        retry_after_ms: when to, if the server said so.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retryable: bool = False,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms


class OutboxFull(ClientError):
    """Too many requests wait to be sent. Await a reply before asking for more."""

    code = "outbox_full"
    retryable = True


class UnknownPicture(ClientError):
    """A picture is neither a JPEG, PNG, WebP or GIF file, nor a PIL image."""

    code = "unknown_picture"
