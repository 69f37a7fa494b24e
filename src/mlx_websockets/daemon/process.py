"""Starting a server that outlives its terminal, and ending one: politely, then firmly.

A process is signalled only while it holds a record of ours and is the one that the record
was written by. Names and command lines prove nothing, so none is ever looked at.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from mlx_websockets.daemon.log import LOG_VARIABLE, Follower, last_lines
from mlx_websockets.daemon.records import (
    STATE_VARIABLE,
    Record,
    Records,
    make_private,
    new_id,
    open_private,
    start_time,
)
from mlx_websockets.errors import START_ERRORS, StartError, ending_of

INSTANCE_VARIABLE = "MLX_WS_INSTANCE"
HEIR_VARIABLE = "MLX_WS_HEIR_OF"
"""Where a server that is to take another's place gets the listening sockets."""
# -P: a file of the current folder must not pass for a module that the server imports.
SERVE_COMMAND = (sys.executable, "-P", "-m", "mlx_websockets", "serve")
"""The server's flags are appended."""

POLITE_SECONDS = 8.0
"""Beyond the time that its replies may take."""
FIRM_SECONDS = 5.0
LOOK_SECONDS = 0.02
SHOWN_LINES = 10
SAME_START_SECONDS = 1.5
"""Two readings of one process's start differ by less: the boot's date is in whole seconds."""


# --- starting -------------------------------------------------------------------------


class Launch:
    """A server on its way up.

    Attributes:
        id: of its record.
        log: where it says how far it is.
    """

    def __init__(
        self,
        records: Records,
        arguments: Sequence[str],
        *,
        folder: Path,
        command: Sequence[str] = SERVE_COMMAND,
        heir_of: Record | None = None,
    ) -> None:
        """Start it, in a session of its own; whatever ends this process or its terminal does not end it.

        Args:
            records: where it is to be on record.
            arguments: flags of `mlx serve`.
            folder: where it is to run; relative paths among the flags start there.
            command: the program; the flags are appended.
            heir_of: the server whose listening sockets it takes over; that one leaves once it is ready.

        Raises:
            StartError: the system can't start a process, or there is no place for its log.
        """
        self.id = new_id()
        self.log = records.log_of(self.id)
        self._records = records
        self._heir_of = heir_of
        try:
            make_private(records.logs)
            self._process = self._spawn([*command, *arguments], folder)
        except OSError as error:
            raise StartError(
                f"The server can't be started: {error}.", "Look at that folder, or set MLX_WS_STATE to another one."
            ) from None
        self._said = Follower(self.log)

    def wait(self, on_line: Callable[[str], None]) -> Record:
        """Return its record once it is ready. It has deadlines of its own for everything it does until then.

        Args:
            on_line: told each line that it logs meanwhile.

        Raises:
            StartError: it has failed; with its own reason, hint and exit status if it left any.
        """
        while True:
            status = self._process.poll()
            record = self._records.find(self.id)
            for line in self._said.new_lines():  # after the look at how it is: it logs first
                on_line(line)
            if status is not None:
                raise self._failure(status, record)
            if record is not None and record.state == "ready":
                return record
            time.sleep(LOOK_SECONDS)

    def _spawn(self, command: Sequence[str], folder: Path) -> "subprocess.Popen[bytes]":
        output = open_private(self.log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        try:
            return subprocess.Popen(  # noqa: S603 - our own program, its flags checked
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=folder,
                env=self._environment(os.environ),
            )
        finally:
            os.close(output)

    def _environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        return {
            **inherited,
            INSTANCE_VARIABLE: self.id,
            LOG_VARIABLE: str(self.log),
            STATE_VARIABLE: str(self._records.servers.parent),
            HEIR_VARIABLE: str(self._records.door_of(self._heir_of.id)) if self._heir_of is not None else "",
        }

    def _failure(self, status: int, record: Record | None) -> StartError:
        """What to raise for a server that ended before it was ready; its record has done its duty."""
        self._records.forget(self.id)
        if record is not None and record.state == "failed":
            error = _error_of(record.exit_code, record.reason, record.hint)
        else:
            error = _error_of(status, f"The server {ending_of(status)} before it was ready.", "")
        lines = [line for line in last_lines(self.log, SHOWN_LINES) if line.strip()]
        said = list(itertools.takewhile(lambda line: error.reason not in line, lines))  # after that it repeats itself
        if said:
            error.hint = "\n".join(filter(None, [error.hint, f"Its log, {self.log}, ends with:", *said]))
        return error


def _error_of(exit_code: int, reason: str, hint: str) -> StartError:
    kinds = {kind.exit_code: kind for kind in START_ERRORS.values()}
    error = kinds.get(exit_code, StartError)(reason, hint)
    error.exit_code = exit_code if exit_code > 0 else StartError.exit_code
    return error


# --- ending ---------------------------------------------------------------------------


def process_of(records: Records, record: Record) -> psutil.Process | None:
    """The process that holds this record; None: it has ended, or is not one of this machine's."""
    try:
        process = psutil.Process(record.pid)
    except psutil.Error:
        return None
    started = start_time(record.pid)
    if started is None or abs(started - record.process_start) > SAME_START_SECONDS:
        return None
    return process if records.is_held(record.id) else None


def patience(chosen: Sequence[Record]) -> float:
    """How many seconds these servers may take to leave by themselves."""
    return POLITE_SECONDS + max((record.drain_seconds for record in chosen), default=0.0)


def end(
    records: Records,
    chosen: Sequence[Record],
    *,
    on_wait: Callable[[float], None] = lambda seconds: None,
    polite_seconds: float | None = None,
) -> list[Record]:
    """End these servers: ask all of them, wait, kill those that don't leave.

    Args:
        on_wait: told about each second how many have passed.
        polite_seconds: how long one may take to leave by itself; `patience` if not given.

    Returns:
        Those that had to be killed.

    Raises:
        StartError: one can't be reached from here, or can't even be killed.
    """
    leaving = [_Leaving(records, record) for record in chosen]
    for each in leaving:
        each.signal(signal.SIGTERM)
    _wait(leaving, patience(chosen) if polite_seconds is None else polite_seconds, on_wait)
    stubborn = [each for each in leaving if not each.is_gone]
    for each in stubborn:
        each.kill()
    _wait(stubborn, FIRM_SECONDS, lambda seconds: None)
    for each in leaving:
        if not each.is_gone:
            raise StartError(f"Process {each.record.pid} can't be killed; the system holds it.", "Restart the machine.")
        records.forget(each.record.id)
    return [each.record for each in stubborn]


class _Leaving:
    """A server that is being ended."""

    def __init__(self, records: Records, record: Record) -> None:
        self.record = record
        self._records = records
        self._process = process_of(records, record)
        if self._process is None and records.is_held(record.id):
            raise StartError(
                f"The server on port {record.port} is not a process of this machine.",
                "It runs on another machine or in a container that shares this folder: stop it there.",
            )
        self._children = self._with_children()

    @property
    def is_gone(self) -> bool:
        return self._process is None or _is_gone(self._process)

    def signal(self, number: signal.Signals) -> None:
        if process_of(self._records, self.record) is not None and self._process is not None:
            _signal(self._process, number)

    def kill(self) -> None:
        """The server, and its worker, which it can't take with it any more."""
        self._children = self._with_children() or self._children
        self.signal(signal.SIGKILL)
        for child in self._children:
            _signal(child, signal.SIGKILL)

    def _with_children(self) -> list[psutil.Process]:
        try:
            return self._process.children(recursive=True) if self._process is not None else []
        except psutil.Error:
            return []


def _wait(leaving: Sequence[_Leaving], seconds: float, on_wait: Callable[[float], None]) -> None:
    """Until all are gone, at most so long."""
    begun, told = time.monotonic(), 0
    while not all(each.is_gone for each in leaving):
        passed = time.monotonic() - begun
        if passed >= seconds:
            return
        if int(passed) > told:
            told = int(passed)
            on_wait(passed)
        time.sleep(LOOK_SECONDS)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)  # psutil refuses if the pid belongs to another process by now
    except psutil.Error:
        return


def _is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
