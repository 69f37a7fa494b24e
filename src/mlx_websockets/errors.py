"""Every error that this package raises on purpose.

    MLXWebSocketsError
    ├── PeerError                 the peer's doing: it is told, its connection stays open
    │   ├── InvalidMessage        makes no sense in its protocol
    │   ├── InvalidImage          not a picture that we open
    │   └── Refused               makes sense, but not now or not here; `code` says which
    ├── EngineError               the model's side of things; a request ends with it
    └── StartError                the server can't start; `exit_code` tells a script why
        ├── UsageError            a flag is wrong
        ├── NotRunning            there is no server to do that with
        ├── PortInUse
        ├── ModelNotFound
        ├── ModelBroken           incomplete, truncated, or not safe to open
        ├── NoBackend             mlx has nothing to run on here
        └── OutOfMemory

`code` is stable and goes over the wire; the text is a sentence for a person: what
happened, why, and what to do next. Nothing here knows how either is shown.
"""

import signal


class MLXWebSocketsError(Exception):
    """Base of every error this package raises on purpose."""

    code = "internal_error"
    retryable = False


class PeerError(MLXWebSocketsError):
    """The peer sent something we refuse. `path` names the field (JSON path, `$` = all of it)."""

    code = "refused"

    def __init__(self, reason: str, path: str = "$") -> None:
        super().__init__(reason if path == "$" else f"{reason} (at {path})")
        self.reason = reason
        self.path = path


class InvalidMessage(PeerError):
    """A message makes no sense in its protocol. `code` may be narrower, see `docs/reference`."""

    code = "invalid_message"

    def __init__(self, reason: str, path: str = "$", code: str = "invalid_message") -> None:
        super().__init__(reason, path)
        self.code = code


class InvalidImage(PeerError):
    """A picture can't be opened or is over a limit."""

    code = "invalid_image"

    def __init__(self, reason: str, path: str = "$", code: str = "invalid_image") -> None:
        super().__init__(reason, path)
        self.code = code


class Refused(PeerError):
    """A sound request that can't be taken now."""

    def __init__(self, code: str, reason: str, *, retryable: bool = False, retry_after_ms: int | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms


class EngineError(MLXWebSocketsError):
    """A request failed on the model's side. `retryable` says whether asking again may help, and after how long."""

    def __init__(self, code: str, reason: str, *, retryable: bool = False, retry_after_ms: int | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms


class StartError(MLXWebSocketsError):
    """The server can't start. `hint` is the next thing to run or to change."""

    code = "start_failed"
    exit_code = 1

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class UsageError(StartError):
    """A flag or a setting is wrong."""

    code = "usage"
    exit_code = 2


class NotRunning(StartError):
    """There is no server, or no service, to do that with."""

    code = "not_running"
    exit_code = 3


class PortInUse(StartError):
    """The port that was asked for is taken."""

    code = "port_in_use"
    exit_code = 4


class ModelNotFound(StartError):
    """No such model here or on the hub, or the hub can't be reached."""

    code = "model_not_found"
    exit_code = 5


class NoBackend(StartError):
    """The mlx package is missing, or has no backend for this machine."""

    code = "no_backend"
    exit_code = 6


class OutOfMemory(StartError):
    """The model does not fit."""

    code = "out_of_memory"
    exit_code = 7


class ModelBroken(StartError):
    """A model folder is incomplete, truncated, of no known kind, or not safe to open."""

    code = "model_broken"
    exit_code = 8


START_ERRORS: dict[str, type[StartError]] = {
    error.code: error
    for error in (StartError, UsageError, NotRunning, PortInUse, ModelNotFound, NoBackend, OutOfMemory, ModelBroken)
}
"""By `code`, so that a failure in the worker keeps its kind on the way to the terminal."""


def ending_of(exit_status: int) -> str:
    """How a process ended, to follow "the process" in an error's sentence: "was killed by SIGSEGV"."""
    if exit_status >= 0:
        return f"ended with exit status {exit_status}"
    try:
        return f"was killed by {signal.Signals(-exit_status).name}"
    except ValueError:
        return f"was killed by signal {-exit_status}"
