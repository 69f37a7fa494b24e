"""How a server says that it ends. Peers are told why, so that they know whether to come back at once."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Farewell:
    """What every peer is told when the server ends.

    Attributes:
        sentence: for a person, in `goaway` and in the errors that end requests.
        close_code, close_reason: of the sockets.
    """

    sentence: str
    close_code: int
    close_reason: str


STOPPING = Farewell("The server is shutting down. Ask again when it is back.", 1001, "The server is shutting down.")
RESTARTING = Farewell("The server is being restarted. Connect again and ask again.", 1012, "The server is restarting.")
