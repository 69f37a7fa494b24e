"""Keeps one worker alive: starts it, listens, and replaces it when it dies or hangs.

    starting ──ready──▶ ready ──died, hung──▶ restarting ──ready──▶ ready
        │                                        │   ▲
        └─ failed to load: `start` raises        └─ five deaths without a ready: failed (still trying)

`stop` leads from everywhere to stopped. Only the first load is fatal: later ones are tried
again, ever slower. Nothing here knows what a request is.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from mlx_websockets.engine.blas import Blas
from mlx_websockets.engine.channel import ChannelBroken, ChannelClosed
from mlx_websockets.engine.launch import WORKER_COMMAND, WorkerProcess
from mlx_websockets.engine.messages import FromWorker, Load, LoadFailed, ModelSpec, Ready, Stop, ToWorker, Updates
from mlx_websockets.errors import START_ERRORS, StartError
from mlx_websockets.settings import SHUTDOWN_STEP_SECONDS

logger = logging.getLogger(__name__)

State = Literal["starting", "ready", "restarting", "failed", "stopped"]

SHOWN_LINES = 8
"""How many of a dead worker's last lines a person is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long the supervisor waits. Seconds, except where said.

    Attributes:
        loading_silence: a loading worker that says nothing for this long hangs.
        idle_silence: a ready one hangs when it says nothing and uses no CPU for this long.
        silence: a ready one hangs when it says nothing for this long.
        look: how often a silent worker is looked at.
        stop_step: between asking it to stop, telling it, and killing it.
        first_delay, longest_delay: before a restart; doubles from the one to the other.
        steady: ready for this long, and the delay starts over; so it does once it has worked.
        hopeless_deaths, hopeless_within: that many deaths (a count) within that time and no
            ready in between: the state is "failed".
    """

    loading_silence: float = 600.0
    idle_silence: float = 15.0
    silence: float = 120.0
    look: float = 1.0
    stop_step: float = SHUTDOWN_STEP_SECONDS
    first_delay: float = 0.2
    longest_delay: float = 30.0
    steady: float = 60.0
    hopeless_deaths: int = 5
    hopeless_within: float = 600.0


class Supervisor:
    """One worker at a time, from `start` to `stop`; all on one event loop.

    Attributes:
        state: see the module's picture.
        restarts: how many workers were lost so far, once one had been ready.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        on_message: Callable[[FromWorker], None],
        on_state: Callable[[State], None],
        command: Sequence[str] = WORKER_COMMAND,
        deadlines: Deadlines | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            spec: what every worker is to load.
            on_message: gets everything a worker says.
            on_state: told of every change of `state`, after it happened. When it leaves
                "ready" nothing more comes from the worker that had the requests.
            command: the worker's program, see `launch.py`.
            deadlines: how long to wait for what.
        """
        self.state: State = "starting"
        self.restarts = 0
        self._spec = spec
        self._on_message = on_message
        self._on_state = on_state
        self._command = command
        self._deadlines = deadlines or Deadlines()
        self._pace = RestartPace(self._deadlines)
        self._blas: Blas | None = None
        self._worker: WorkerProcess | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The worker's process id, while there is one."""
        return self._worker.pid if self._worker is not None else None

    async def start(self, blas: Blas | None = None) -> None:
        """Start a worker and return when it is ready; from then on it is kept alive.

        Raises:
            StartError: it could not load, died or hung. Nothing is left running.
        """
        self._blas = blas
        first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep_alive(first_ready), name="worker supervisor")
        self._keeper.add_done_callback(lambda keeper: self._settle(first_ready, keeper))
        try:
            await first_ready
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the worker, politely at first; returns when it is reaped. May be called again."""
        self._become("stopped")
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})

    def renew(self) -> None:
        """Put a new worker in this one's place. For when nothing is under way."""
        if self.state == "ready":
            logger.info("the model's process has gathered memory that it can't give back; it is begun anew")
            self._become("restarting")
            self.send(Stop())

    def send(self, message: ToWorker) -> None:
        """Send to the worker, if there is one; never waits.

        Raises:
            Unsendable: see `AsyncChannel.send`.
        """
        if self._worker is not None:
            self._worker.channel.send(message)

    async def _keep_alive(self, first_ready: "asyncio.Future[None]") -> None:
        clock = asyncio.get_running_loop().time
        while True:
            end = await self._live(first_ready)
            if not first_ready.done():
                raise end
            self.restarts += 1
            delay = self._pace.died(clock())
            logger.warning("the engine restarts in %.1f s: %s", delay, end.reason)
            self._become("failed" if self._pace.is_hopeless else "restarting")
            await asyncio.sleep(delay)

    async def _live(self, first_ready: "asyncio.Future[None]") -> StartError:
        """One worker's life, and why it ended."""
        level = logging.WARNING if self._spec.show_warnings else logging.DEBUG
        try:
            worker = await WorkerProcess.start(self._command, self._blas, level)
        except OSError as error:
            return StartError(f"The model's process can't be started: {error}.", "Check `ulimit -u` and `ulimit -n`.")
        self._worker = worker
        try:
            end = await self._ended(worker, first_ready)
        finally:
            self._worker = None
            if self.state == "ready":
                self._become("restarting")  # first of all: requests are waiting for it
            await worker.end(self._deadlines.stop_step)
        return end or _death(worker, quote=not first_ready.done())

    async def _ended(self, worker: WorkerProcess, first_ready: "asyncio.Future[None]") -> StartError | None:
        """Why listening to it ended; None: it left, how is known when it has been reaped."""
        try:
            worker.channel.send(Load(self._spec))
            await self._listen(worker, first_ready)
        except _CouldNotLoad as refusal:
            return refusal.error
        except _Hung as hung:
            worker.kill()
            return StartError(f"The model's process {hung}.", "Run again with --debug to see what it does.")
        except ChannelBroken as broken:
            worker.kill()
            return StartError(f"The model's process can't be talked to: {broken}")
        except ChannelClosed:
            return None

    async def _listen(self, worker: WorkerProcess, first_ready: "asyncio.Future[None]") -> NoReturn:
        patience = Patience(self._deadlines, worker.cpu_seconds)
        while True:
            try:
                async with asyncio.timeout(self._deadlines.look):
                    message = await worker.channel.receive()
            except TimeoutError:
                if silence := patience.worn_out():
                    raise _Hung(silence) from None
                continue
            patience.heard(message)
            if isinstance(message, Updates):
                self._pace.worked()
            if isinstance(message, LoadFailed):
                raise _CouldNotLoad(message)
            self._on_message(message)
            if isinstance(message, Ready):
                self._pace.ready(asyncio.get_running_loop().time())
                self._become("ready")
                if not first_ready.done():
                    first_ready.set_result(None)

    def _settle(self, first_ready: "asyncio.Future[None]", keeper: "asyncio.Task[None]") -> None:
        """Whoever waits for the first worker learns how the keeping ended, if it ended before."""
        error = None if keeper.cancelled() else keeper.exception()
        if not first_ready.done():
            first_ready.set_exception(error or StartError("The server was stopped while the model was loading."))
        elif error is not None:
            logger.critical("the engine's supervisor failed", exc_info=error)
            self._become("failed")

    def _become(self, state: State) -> None:
        if state != self.state and self.state != "stopped":
            self.state = state
            self._on_state(state)


class RestartPace:
    """How long to wait before the next worker. Time is an argument, in seconds."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._delay = deadlines.first_delay
        self._ready_since: float | None = None
        self._has_worked = False
        self._deaths: deque[float] = deque(maxlen=deadlines.hopeless_deaths)

    @property
    def is_hopeless(self) -> bool:
        """Whether so many died in a row, so soon, that a person should look."""
        limits = self._deadlines
        return len(self._deaths) == limits.hopeless_deaths and (
            self._deaths[-1] - self._deaths[0] <= limits.hopeless_within
        )

    def ready(self, now: float) -> None:
        self._ready_since = now
        self._has_worked = False
        self._deaths.clear()

    def worked(self) -> None:
        """It did something for a request: whatever kills it, the model can be served."""
        self._has_worked = True

    def died(self, now: float) -> float:
        """Note a death; how long to wait after it."""
        limits = self._deadlines
        was_steady = self._ready_since is not None and now - self._ready_since >= limits.steady
        if was_steady or self._has_worked:
            self._delay = limits.first_delay
        self._ready_since, self._has_worked = None, False
        self._deaths.append(now)
        delay = limits.longest_delay if self.is_hopeless else self._delay
        self._delay = min(2 * self._delay, limits.longest_delay)
        return delay


class Patience:
    """Tells a hanging worker from a busy one.

    Silence is counted in looks and not read off a clock: a server that was itself
    suspended must not blame the worker.
    """

    def __init__(self, deadlines: Deadlines, cpu_seconds: Callable[[], float]) -> None:
        self._deadlines = deadlines
        self._cpu_seconds = cpu_seconds
        self._is_loading = True
        self._silent_looks = 0
        self._idle_looks = 0
        self._cpu_at_last_look = 0.0

    def heard(self, message: FromWorker) -> None:
        """It said something."""
        self._is_loading = self._is_loading and not isinstance(message, Ready)
        self._silent_looks = 0
        self._idle_looks = 0

    def worn_out(self) -> str:
        """Note a look at which it had said nothing; why it must be hanging, or "" if it need not be."""
        limits = self._deadlines
        self._silent_looks += 1
        silence = self._silent_looks * limits.look
        if self._is_loading:
            return f"said nothing for {silence:g} seconds while loading" if silence >= limits.loading_silence else ""
        cpu_seconds = self._cpu_seconds()
        was_busy = self._silent_looks > 1 and cpu_seconds > self._cpu_at_last_look
        self._cpu_at_last_look = cpu_seconds
        self._idle_looks = 0 if was_busy else self._idle_looks + 1
        if self._idle_looks * limits.look >= limits.idle_silence:
            return f"said and did nothing for {self._idle_looks * limits.look:g} seconds"
        return f"said nothing for {silence:g} seconds" if silence >= limits.silence else ""


class _CouldNotLoad(Exception):
    """The worker said so itself."""

    def __init__(self, message: LoadFailed) -> None:
        super().__init__(message.reason)
        self.error = START_ERRORS.get(message.code, StartError)(message.reason, message.hint)


class _Hung(Exception):
    """The worker must be killed."""


def _death(worker: WorkerProcess, *, quote: bool) -> StartError:
    """`quote` what it printed only before it had requests: afterwards that may hold what peers said."""
    killed = worker.ending.endswith("SIGKILL")
    hint = (
        "Systems do that when memory runs out; a smaller model may fit."
        if killed
        else "Run again with --debug to see all that it printed."
    )
    said = "".join(f"\n  {line}" for line in worker.last_lines[-SHOWN_LINES:])
    return StartError(
        f"The model's process {worker.ending}." + (f" It last said:{said}" if said and quote else ""), hint
    )
