"""How the worker is started: a program in a process group of its own, with one end of a socket.

Its own group, so that Ctrl-C in the terminal reaches the server alone, which then stops the
worker in order. Not its own session: Linux shares the cores out by session, and between two of
them the event loop waited up to a tenth of a second for its turn. What the worker prints goes to
the log, never to the terminal. Nothing here knows what the worker does.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence

import psutil

from mlx_websockets.engine.blas import Blas
from mlx_websockets.engine.channel import AsyncChannel
from mlx_websockets.engine.messages import Stop
from mlx_websockets.errors import ending_of

logger = logging.getLogger(__name__)

# -P: a file of the current folder must not pass for a module that the worker imports.
WORKER_COMMAND = (sys.executable, "-P", "-m", "mlx_websockets.engine.worker")
"""The number of the worker's file descriptor is appended."""

MAX_LINE_BYTES = 4096
KEPT_LINES = 40


class WorkerProcess:
    """A started worker. Whoever starts one calls `end`.

    Attributes:
        pid: its process id, which is also the id of its process group.
        channel: the server's end of its socket.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: AsyncChannel,
        output: asyncio.ReadTransport,
        lines: "PrintedLines",
    ) -> None:
        self.pid = process.pid
        self.channel = channel
        self._process = process
        self._output = output
        self._lines = lines

    @classmethod
    async def start(
        cls, command: Sequence[str], blas: Blas | None = None, log_level: int = logging.DEBUG
    ) -> "WorkerProcess":
        """Start `command` with the number of its socket as the last argument.

        Args:
            command: the program and its arguments.
            blas: what to preload.
            log_level: what its printed lines are logged as.

        Raises:
            OSError: the system can't start a process now.
        """
        near, far = socket.socketpair()
        with far:
            channel = await AsyncChannel.open(near)
            lines = PrintedLines(log_level)
            try:
                output, process = await _spawn([*command, str(far.fileno())], far.fileno(), lines, blas)
            except BaseException:
                await channel.close()
                raise
        return cls(process, channel, output, lines)

    @property
    def last_lines(self) -> list[str]:
        """The last lines it printed."""
        return list(self._lines.last)

    @property
    def ending(self) -> str:
        """How it ended, to follow "the process": "was killed by SIGSEGV"."""
        status = self._process.returncode
        return "does not end" if status is None else ending_of(status)

    def cpu_seconds(self) -> float:
        """CPU time it used so far, all threads; 0 when that can't be known."""
        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def kill(self) -> None:
        """SIGKILL, also for what it has started."""
        if self._process.returncode is None:
            self._signal(signal.SIGKILL)

    async def end(self, step_seconds: float) -> None:
        """Ask it to stop, then tell it, then kill it, `step_seconds` apart; returns when it is reaped."""
        for push in (self._ask, self._tell, self.kill):
            push()
            if await self._ended_within(step_seconds):
                break
        else:
            logger.error("worker %d can't be killed; leaving it to the system", self.pid)
        self._signal(signal.SIGKILL)  # what it has started goes with it
        await self.channel.close()
        await self._lines.ended_within(step_seconds)
        self._output.close()
        await asyncio.sleep(0)  # the pipe is closed by a callback

    def _ask(self) -> None:
        self.channel.send(Stop())

    def _tell(self) -> None:
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a dead group
            os.killpg(self.pid, number)

    async def _ended_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            return False
        return True


class PrintedLines(asyncio.Protocol):
    """What a process prints: every line is logged, the last ones are kept.

    Attributes:
        last: the last lines, oldest first; progress bars' carriage returns end lines too.
    """

    def __init__(self, log_level: int) -> None:
        self.last: deque[str] = deque(maxlen=KEPT_LINES)
        self._log_level = log_level
        self._begun = b""
        self._end = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        *lines, self._begun = re.split(rb"[\r\n]", self._begun + data)
        if len(self._begun) > MAX_LINE_BYTES:
            lines.append(self._begun)
            self._begun = b""
        for line in lines:
            self._keep(line)

    def connection_lost(self, error: Exception | None) -> None:
        self._keep(self._begun)
        self._begun = b""
        self._end.set()

    async def ended_within(self, seconds: float) -> bool:
        """Whether the process closed its output, waiting for that up to `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._end.wait()
        except TimeoutError:
            return False
        return True

    def _keep(self, line: bytes) -> None:
        text = line[:MAX_LINE_BYTES].decode(errors="replace").rstrip()
        if text:
            self.last.append(text)
            logger.log(self._log_level, "worker: %s", text)


async def _spawn(
    command: Sequence[str], fd: int, lines: PrintedLines, blas: Blas | None
) -> tuple[asyncio.ReadTransport, asyncio.subprocess.Process]:
    read_end, write_end = os.pipe()
    loop = asyncio.get_running_loop()
    try:
        output, _ = await loop.connect_read_pipe(lambda: lines, os.fdopen(read_end, "rb", 0))
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                pass_fds=[fd],
                env=_environment(os.environ, blas),
                process_group=0,
            )
        except BaseException:
            output.close()
            raise
    finally:
        os.close(write_end)
    return output, process


def _environment(inherited: Mapping[str, str], blas: Blas | None) -> dict[str, str]:
    environment = {**inherited, "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    if blas is not None:
        environment |= blas.environment(inherited)
    return environment
