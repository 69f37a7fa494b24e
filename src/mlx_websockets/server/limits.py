"""How long the server waits and how much it holds; a test may make it less patient."""

from dataclasses import dataclass

from mlx_websockets.settings import MAX_WAITING, REPLY_SECONDS, SEND_SECONDS, SHUTDOWN_STEP_SECONDS, WAITING_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of every wait and every store at the server's edge.

    Attributes:
        handshake_seconds: for a peer to have sent its whole HTTP request.
        send_seconds: for a peer to take one message, before it counts as stalled.
        reply_seconds: for one reply.
        waiting_seconds: for an input to be begun on.
        shutdown_step_seconds: for each step of a shutdown.
        close_seconds: for a peer to answer our close.
        max_connections: sockets in all; more are told 503.
        max_fragments: frames of one message; `websockets` counts them too, but not where uvicorn uses it.
        max_waiting: inputs of one connection that may wait.
        max_owed_messages, max_owed_bytes: what an outbox holds before its peer counts as stalled.
    """

    handshake_seconds: float = 10.0
    send_seconds: float = SEND_SECONDS
    reply_seconds: float = REPLY_SECONDS
    waiting_seconds: float = WAITING_SECONDS
    shutdown_step_seconds: float = SHUTDOWN_STEP_SECONDS
    close_seconds: float = 1.0
    max_connections: int = 1000
    max_fragments: int = 4096
    max_waiting: int = MAX_WAITING
    max_owed_messages: int = 512
    max_owed_bytes: int = 1024 * 1024
