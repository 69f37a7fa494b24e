"""Listening sockets, handed from a server to the one that takes its place.

The heir gets them before it loads its model, and says a word once it serves. Until that word
the old server goes on, and if it never comes nothing has happened: the sockets were copies.
What the system has queued on them belongs to both, so nobody who connects is refused.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from mlx_websockets.daemon.process import HEIR_VARIABLE
from mlx_websockets.errors import StartError

MAX_SOCKETS = 16
TAKE_SECONDS = 5.0
_READY = b"!"


class Inheritance:
    """What an heir has got; `sockets` are its own from now on."""

    def __init__(self, sockets: Sequence[socket.socket], testator: socket.socket) -> None:
        self.sockets = list(sockets)
        self._testator = testator

    def say_ready(self) -> None:
        """We serve: the old server may go. Fine if it has gone already."""
        with contextlib.suppress(OSError):
            self._testator.send(_READY)
        self._testator.close()


def inherited(environment: Mapping[str, str] = os.environ) -> Inheritance | None:
    """The sockets that the starter wants us to take over; None: there are none.

    Raises:
        StartError: the old server hands over nothing.
    """
    path = environment.get(HEIR_VARIABLE)
    if not path:
        return None
    testator = socket.socket(socket.AF_UNIX)
    testator.settimeout(TAKE_SECONDS)
    try:
        testator.connect(path)
        _, descriptors, _, _ = socket.recv_fds(testator, 1, MAX_SOCKETS)
    except OSError as error:
        descriptors, reason = [], str(error)
    else:
        reason = "it sent none"
    if not descriptors:
        testator.close()
        raise StartError(f"The old server does not hand its port over: {reason}.", "Stop it, and start a new one.")
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for each in sockets:
        each.setblocking(False)
    return Inheritance(sockets, testator)


@contextlib.asynccontextmanager
async def offering(
    path: Path | None, sockets: Sequence[socket.socket], on_ready: Callable[[], None]
) -> AsyncIterator[None]:
    """Let an heir have copies of `sockets` meanwhile; `on_ready` is called once it serves.

    Args:
        path: where an heir asks, in a folder that is for our user alone. None, or one that the system
            does not take (they may have about 100 bytes): nobody can ask.
    """
    door = _door(path) if path is not None else None
    if door is None or path is None:
        yield
        return
    task = asyncio.create_task(_hand_over(door, sockets, on_ready), name="handover")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        _shut(door, path)


def _door(path: Path) -> socket.socket | None:
    door = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        door.bind(os.fspath(path))
        door.listen(1)
    except OSError:
        door.close()
        return None
    door.setblocking(False)
    return door


def _shut(door: socket.socket, path: Path) -> None:
    door.close()
    path.unlink(missing_ok=True)


async def _hand_over(door: socket.socket, sockets: Sequence[socket.socket], on_ready: Callable[[], None]) -> None:
    """To one heir after the other, until one of them serves."""
    loop = asyncio.get_running_loop()
    while True:
        heir, _ = await loop.sock_accept(door)
        with heir, contextlib.suppress(OSError):
            socket.send_fds(heir, [b" "], [each.fileno() for each in sockets])
            if await loop.sock_recv(heir, 1) == _READY:
                on_ready()
                return
