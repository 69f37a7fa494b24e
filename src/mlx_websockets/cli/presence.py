"""What a running server shows of itself to other processes: its record, its log, its service manager."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_websockets import __version__
from mlx_websockets.daemon import service
from mlx_websockets.daemon.log import own_output
from mlx_websockets.daemon.process import INSTANCE_VARIABLE
from mlx_websockets.daemon.records import Record, Records, ServerRecord, new_id, start_time
from mlx_websockets.errors import StartError
from mlx_websockets.settings import Settings

if TYPE_CHECKING:
    from mlx_websockets.server.addresses import Addresses

logger = logging.getLogger(__name__)


class Presence:
    """How this server looks from outside, while it lives."""

    def __init__(self, held: ServerRecord | None) -> None:
        self._held = held

    def serving(self, addresses: "Addresses") -> None:
        """Connections are accepted from now on."""
        if self._held is not None:
            try:
                secure = addresses.secure
                self._held.update(
                    state="ready",
                    port=addresses.port,
                    tls_port=secure.port if secure is not None else None,
                    url=addresses.local,
                )
            except OSError as error:  # a full disk: the server is worth more than its record
                logger.warning("the server's record can't be changed: %s", error)
        service.notify("READY=1")

    @property
    def door(self) -> Path | None:
        """Where an heir asks for our listening sockets."""
        return Records.of_this_user().door_of(self._held.record.id) if self._held is not None else None

    def stopping(self) -> None:
        """A stop was asked for."""
        service.notify("STOPPING=1")


@contextlib.contextmanager
def present(settings: Settings, arguments: Sequence[str]) -> Iterator[Presence]:
    """Be on record meanwhile, with all output in a log if the starter named one.

    Args:
        settings: what the server was asked to do.
        arguments: flags of `mlx serve` that ask another one for the same.

    Raises:
        StartError: a background server has no place for its record or its log; one in a
            terminal only warns of that.
    """
    with contextlib.ExitStack() as stack:
        try:
            log = stack.enter_context(own_output())
        except OSError as error:
            raise StartError(f"The log can't be written: {error}.", "Look at that folder.") from None
        yield Presence(_held(stack, _record(settings, arguments, log)))


def _held(stack: contextlib.ExitStack, record: Record) -> ServerRecord | None:
    try:
        return stack.enter_context(Records.of_this_user().hold(record))
    except StartError as error:
        if record.is_background:
            raise
        logger.warning("`mlx status` will not know this server: %s", error.reason)
        return None


def _record(settings: Settings, arguments: Sequence[str], log: Path | None) -> Record:
    started = start_time(os.getpid())
    assert started is not None
    return Record(
        id=os.environ.pop(INSTANCE_VARIABLE, "") or new_id(),
        pid=os.getpid(),
        process_start=started,
        model=", ".join(settings.model),
        host=settings.host,
        port=settings.port,
        is_background=log is not None,
        started_at=time.time(),
        log=str(log) if log is not None else None,
        version=__version__,
        arguments=list(arguments),
        folder=str(Path.cwd()),
        drain_seconds=settings.drain_seconds,
    )
