"""The engine, as the server uses it: requests go in, updates come out, crashes are survived.

Every request that was submitted and not cancelled ends in exactly one `Finished` or
`Failed`, whatever becomes of the worker. Nothing here knows sessions or sockets.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from mlx_websockets.engine.blas import Blas, find_blas
from mlx_websockets.engine.channel import Unsendable
from mlx_websockets.engine.launch import WORKER_COMMAND
from mlx_websockets.engine.messages import (
    Cancel,
    FromWorker,
    Heartbeat,
    Loading,
    Memory,
    ModelInfo,
    ModelSpec,
    Ready,
    Submit,
    Updates,
    as_plain,
)
from mlx_websockets.engine.supervisor import Deadlines, State, Supervisor
from mlx_websockets.errors import Refused
from mlx_websockets.generation import Failed, Finished, GenerationRequest, Update

logger = logging.getLogger(__name__)

Listener = Callable[[Update], None]


class Engine:
    """A model in a process of its own. All on one event loop; only `start` and `stop` wait."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        run_seed: int | None = None,
        command: Sequence[str] = WORKER_COMMAND,
        deadlines: Deadlines | None = None,
        blas_finder: Callable[[], Blas | None] = find_blas,
    ) -> None:
        """Nothing is started yet.

        Args:
            spec: the model, and how to load it.
            run_seed: makes a run repeatable: a request without a seed gets one made from
                this and its place among the requests. None: it gets none.
            command: the worker's program, see `launch.py`.
            deadlines: how long the supervisor waits for what.
            blas_finder: called in a thread; finds what to preload.
        """
        self._spec = spec
        self._run_seed = run_seed
        self._find_blas = blas_finder
        self._blas: Blas | None = None
        self._supervisor = Supervisor(
            spec, on_message=self._receive, on_state=self._follow, command=command, deadlines=deadlines
        )
        self._listeners: dict[int, Listener] = {}
        self._state_listeners: list[Callable[[], None]] = []
        self._on_progress: Callable[[Loading], None] | None = None
        self._submitted = 0
        self._info: ModelInfo | None = None
        self._heartbeat = NO_HEARTBEAT
        self._heartbeat_at = 0.0
        self._tokens_per_second = 0.0
        self._tokens_of_lost_workers = 0

    # --- what it is -----------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        return self._supervisor.state == "ready"

    @property
    def info(self) -> ModelInfo | None:
        """What was loaded; None before the first time."""
        return self._info

    @property
    def blas(self) -> Blas | None:
        """What was preloaded into the worker."""
        return self._blas

    @property
    def model_id(self) -> str:
        return self._info.id if self._info is not None else self._spec.model

    @property
    def sees(self) -> bool:
        return self._info is not None and self._info.sees

    @property
    def max_images(self) -> int:
        return self._info.max_images if self._info is not None else 0

    @property
    def rows(self) -> int:
        """How many replies are computed together."""
        return self._spec.rows

    def engine_of(self, model: str | None) -> "Engine | None":
        """Who answers for `model`: itself, for None or its own name; None: nobody does."""
        return self if model in (None, self._spec.model) else None

    def models(self) -> list[dict[str, Any]]:
        """What can be asked for: itself."""
        state, memory = self._supervisor.state, self._heartbeat.memory.active
        is_known = self._info is not None
        return [
            {
                "id": self.model_id,
                "state": "loading" if state == "starting" else state,
                "vision": self.sees if is_known else None,
                "memory_bytes": memory,
                "running": len(self._listeners),
            }
        ]

    def wake(self) -> None:
        """Somebody waits for it. It is kept alive anyway."""

    async def load(self, model: str, on_progress: Callable[[Loading], None] | None = None) -> None:
        """It is loaded, if `model` is its own.

        Raises:
            Refused: it is not.
        """
        if self.engine_of(model) is None:
            raise Refused("model_not_found", not_served(model, [self._spec.model]))

    async def unload(self, model: str) -> None:
        """Raises `Refused`: the only model stays."""
        await self.load(model)
        raise Refused("model_busy", f"{model} is the only model of this server, so it stays.")

    def status(self) -> dict[str, Any]:
        """How it is, as plain values.

        `state` is one of `supervisor.State`; `model_info` is None before the first load;
        `memory` is in bytes; `tokens` counts those of every worker so far, `tokens_per_second`
        is how fast they came between the last two heartbeats.
        """
        return {
            "state": self._supervisor.state,
            "model": self.model_id,
            "model_info": as_plain(self._info),
            "memory": as_plain(self._heartbeat.memory),
            "running": self._heartbeat.running,
            "waiting": self._heartbeat.waiting,
            "tokens": self._tokens_of_lost_workers + self._heartbeat.tokens,
            "tokens_per_second": round(self._tokens_per_second, 1),
            "restarts": self._supervisor.restarts,
            "pid": self._supervisor.pid,
            "blas": self._blas.name if self._blas is not None else None,
        }

    def on_state_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change of `status()["state"]`."""
        self._state_listeners.append(listener)

    # --- its life -------------------------------------------------------------------------

    async def start(self, on_progress: Callable[[Loading], None] | None = None) -> None:
        """Load the model; returns when it is ready.

        Args:
            on_progress: told how far loading is, this first time only.

        Raises:
            StartError: of the kind that says why. Nothing is left running.
        """
        self._blas = await asyncio.to_thread(self._find_blas)
        self._on_progress = on_progress
        try:
            await self._supervisor.start(self._blas)
        finally:
            self._on_progress = None

    async def stop(self) -> None:
        """End everything: requests fail at once, the worker is reaped. May be called again."""
        await self._supervisor.stop()

    # --- requests -------------------------------------------------------------------------

    def submit(self, request: GenerationRequest, listener: Listener) -> None:
        """Have a reply generated; `listener` gets its updates, never before this returns."""
        request = self._seeded(request)
        self._listeners[request.id] = listener
        if not self.is_ready:
            self._fail_soon(request.id, "engine_not_ready", "The model is not ready yet. Ask again.", retryable=True)
            return
        try:
            self._supervisor.send(Submit(request))
        except Unsendable as error:
            self._fail_soon(request.id, "request_unsendable", f"The request can't be taken: {error}", retryable=False)

    def cancel(self, request_id: int) -> None:
        """Give a request up; no update of it arrives any more. Unknown ids are fine."""
        if self._listeners.pop(request_id, None) is not None:
            self._supervisor.send(Cancel(request_id))

    def _seeded(self, request: GenerationRequest) -> GenerationRequest:
        ordinal = self._submitted
        self._submitted += 1
        if self._run_seed is None or request.choice.seed is not None:
            return request
        choice = msgspec.structs.replace(request.choice, seed=derived_seed(self._run_seed, ordinal))
        return msgspec.structs.replace(request, choice=choice)

    def _fail_soon(self, request_id: int, code: str, message: str, *, retryable: bool) -> None:
        failure = Failed(request_id, code, message, retryable)
        asyncio.get_running_loop().call_soon(self._deliver, failure)

    def _deliver(self, update: Update) -> None:
        listener = self._listeners.get(update.id)
        if listener is None:
            return  # cancelled while this was on its way
        if isinstance(update, Finished | Failed):
            del self._listeners[update.id]
        _call(lambda: listener(update))

    # --- what the supervisor tells --------------------------------------------------------

    def _receive(self, message: FromWorker) -> None:
        match message:
            case Updates():
                for update in message.updates:
                    self._deliver(update)
            case Heartbeat():
                self._hear(message)
            case Ready():
                self._info = message.info
                self._hear(msgspec.structs.replace(NO_HEARTBEAT, memory=message.memory))
            case Loading() if self._on_progress is not None:
                self._on_progress(message)

    def _hear(self, heartbeat: Heartbeat) -> None:
        now = asyncio.get_running_loop().time()
        passed, tokens = now - self._heartbeat_at, heartbeat.tokens - self._heartbeat.tokens
        self._tokens_per_second = tokens / passed if passed > 0 else 0.0
        self._heartbeat, self._heartbeat_at = heartbeat, now
        if heartbeat.wants_renewal and not self._listeners:
            self._supervisor.renew()

    def _follow(self, state: State) -> None:
        if state != "ready":
            self._tokens_of_lost_workers += self._heartbeat.tokens
            self._heartbeat = NO_HEARTBEAT
            self._tokens_per_second = 0.0
            self._fail_all(state)
        for listener in self._state_listeners:
            _call(listener)

    def _fail_all(self, state: State) -> None:
        for request_id in list(self._listeners):
            if state == "stopped":
                self._deliver(Failed(request_id, "engine_stopped", "The server is stopping.", True))
            else:
                self._deliver(Failed(request_id, "engine_restarted", RESTARTED, True))


def not_served(model: str, served: Iterable[str]) -> str:
    """The sentence for a request that names a model which is not there."""
    return f"This server has no model {model[:100]!r}; it has {', '.join(served)}."


def _call(listener: Callable[[], None]) -> None:
    try:
        listener()
    except Exception:  # one listener's mistake must not take the engine from the others
        logger.exception("a listener of the engine failed")


RESTARTED = "The model's process was lost; it is being restarted. Ask again."

NO_HEARTBEAT = Heartbeat(running=0, waiting=0, memory=Memory(), tokens=0)


def derived_seed(run_seed: int, ordinal: int) -> int:
    """The seed (63 bits) of the request that is `ordinal`-th in a run; any two differ, every run is the same."""
    digest = hashlib.sha256(f"{run_seed}/{ordinal}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
