"""Several models, each in a worker of its own; together they answer like one engine.

Whatever becomes of one model's worker, the others' replies go on. A model that is not in
memory is loaded when somebody waits for it. Where all of them together don't fit into the
budget, the one that was used longest ago makes room, once nothing runs on it: while somebody
waits for its place, it takes nothing new. Models are loaded one after the other, by one task.
Nothing here knows who may ask for what.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

from mlx_websockets.engine.client import Engine, Listener, not_served
from mlx_websockets.engine.messages import Loading, ModelInfo, ModelSpec, as_plain
from mlx_websockets.errors import OutOfMemory, Refused, StartError
from mlx_websockets.generation import Failed, Finished, GenerationRequest, Update

logger = logging.getLogger(__name__)

BUDGET_SHARE = 0.8
"""Of the device's memory, where nobody says how much models may take."""

FAILURE_SECONDS = 5.0
"""A model that could not be loaded is not tried again for this long; who asks for it is told why."""

ModelState = Literal["unloaded", "loading", "ready", "restarting", "failed"]
Progress = Callable[[Loading], None]


class PooledModel:
    """One model of a pool; meets the server's `Engine` as long as the pool lives.

    Attributes:
        spec: what is loaded.
        is_making_room: another model waits for its memory, so it takes nothing new.
        last_used: on the loop's clock, in seconds.
    """

    def __init__(self, spec: ModelSpec, new_engine: Callable[[ModelSpec], Engine], pool: "EnginePool") -> None:
        self.spec = spec
        self.is_making_room = False
        self.last_used = 0.0
        self._new_engine = new_engine
        self._pool = pool
        self._engine = new_engine(spec)
        self._is_loaded = False
        self._is_loading = False
        self._info: ModelInfo | None = None
        self._failure: StartError | None = None
        self._unloading: asyncio.Task[None] | None = None
        self._progress: list[Progress] = []
        self._running: set[int] = set()
        self._held: dict[int, tuple[GenerationRequest, Listener]] = {}
        self._tokens_of_lost_engines = 0
        self._restarts_of_lost_engines = 0

    # --- what it is -------------------------------------------------------------------

    @property
    def model_id(self) -> str:
        return self.spec.model

    @property
    def sees(self) -> bool:
        return self._info is not None and self._info.sees

    @property
    def max_images(self) -> int:
        return self._info.max_images if self._info is not None else 0

    @property
    def info(self) -> ModelInfo | None:
        """What was loaded; None before the first time."""
        return self._info

    @property
    def rows(self) -> int:
        return self.spec.rows

    @property
    def is_ready(self) -> bool:
        """It takes requests; one that could not be loaded takes them, to say so."""
        if self._failure is not None:
            return True
        return self._is_loaded and self._engine.is_ready and not self.is_making_room

    @property
    def is_loaded(self) -> bool:
        return self._is_loaded

    @property
    def failure(self) -> StartError | None:
        """Why it could not be loaded a moment ago."""
        return self._failure

    @property
    def is_busy(self) -> bool:
        """Something runs on it."""
        return bool(self._running)

    @property
    def state(self) -> ModelState:
        if self._failure is not None:
            return "failed"
        if self._is_loaded:
            state: ModelState = self._engine.status()["state"]
            return state
        return "loading" if self._is_loading else "unloaded"

    @property
    def memory_bytes(self) -> int:
        """What it takes now."""
        if not self._is_loaded or self._info is None:
            return 0
        return max(self._info.weights_bytes, int(self._engine.status()["memory"]["active"]))

    def status(self) -> dict[str, Any]:
        status = self._engine.status()
        return status | {
            "state": self.state,
            "model": self.model_id,
            "model_info": as_plain(self._info),
            "tokens": status["tokens"] + self._tokens_of_lost_engines,
            "restarts": status["restarts"] + self._restarts_of_lost_engines,
        }

    def summary(self) -> dict[str, Any]:
        """Its line among the models of a server."""
        return {
            "id": self.model_id,
            "state": self.state,
            "vision": self.sees if self._info is not None else None,
            "memory_bytes": self.memory_bytes,
            "running": len(self._running),
        }

    def engine_of(self, model: str | None) -> "PooledModel | None":
        return self._pool.engine_of(model)

    def models(self) -> list[dict[str, Any]]:
        return self._pool.models()

    async def unload(self, model: str) -> None:
        await self._pool.unload(model)

    async def load(self, model: str, on_progress: Progress | None = None) -> None:
        await self._pool.load(model, on_progress)

    def on_state_change(self, listener: Callable[[], None]) -> None:
        self._pool.on_state_change(listener)

    # --- requests ---------------------------------------------------------------------

    def wake(self) -> None:
        """Somebody waits for it: load it, if it is not loaded."""
        if not self._is_loaded and self._failure is None:
            self._pool.want(self)

    def submit(self, request: GenerationRequest, listener: Listener) -> None:
        """As `Engine.submit`; a request that comes while it is being exchanged is held until it is back."""
        self.last_used = asyncio.get_running_loop().time()
        self._running.add(request.id)

        def hear(update: Update) -> None:
            if isinstance(update, Finished | Failed):
                self._forget(update.id)
            listener(update)

        if self._is_loaded:
            self._engine.submit(request, hear)
            return
        self._held[request.id] = (request, hear)
        if self._failure is not None:
            asyncio.get_running_loop().call_soon(self._settle_held)
        else:
            self._pool.want(self)

    def cancel(self, request_id: int) -> None:
        self._held.pop(request_id, None)
        self._engine.cancel(request_id)
        self._forget(request_id)

    def _forget(self, request_id: int) -> None:
        if request_id in self._running:
            self._running.remove(request_id)
            self.last_used = asyncio.get_running_loop().time()
            self._pool.look_again()

    def _settle_held(self) -> None:
        """Hand over what was held, or say why that can't be."""
        held, self._held = self._held, {}
        for request, hear in held.values():
            if self._is_loaded:
                self._engine.submit(request, hear)
            elif self._failure is not None:
                hear(Failed(request.id, self._failure.code, _sentence(self._failure)))
            else:
                self._held[request.id] = (request, hear)

    # --- its life; called by the pool -------------------------------------------------

    async def bring_in(self, make_room: Callable[[], Any] | None = None) -> None:
        """Load it, after `make_room`.

        Raises:
            StartError: it can't be; it is "failed" for a while.
        """
        self._is_loading = True
        self._pool.tell()
        try:
            if self._unloading is not None:
                await self._unloading
            if make_room is not None:
                await make_room()
            await self._start_engine()
        except StartError as error:
            self._fail(error)
            raise
        finally:
            self._is_loading = False
            self._pool.tell()

    async def _start_engine(self) -> None:
        self._engine = self._new_engine(self.spec)
        self._engine.on_state_change(self._pool.tell)
        await self._engine.start(self._report)
        self._info = self._engine.info
        self._is_loaded = True
        self.is_making_room = False
        self.last_used = asyncio.get_running_loop().time()
        self._settle_held()

    async def take_out(self) -> None:
        """Take it out of memory. Only while it is loaded and not busy."""
        if self._is_loaded:
            logger.info("a model is unloaded", extra={"model": self.model_id})
            self._is_loaded = self.is_making_room = False
            self._unloading = asyncio.create_task(self._end_engine(), name="unload")
        if self._unloading is not None:
            await asyncio.shield(self._unloading)

    async def stop(self) -> None:
        """End it for good."""
        self._is_loaded = False
        await self._engine.stop()

    async def _end_engine(self) -> None:
        await self._engine.stop()
        status = self._engine.status()
        self._tokens_of_lost_engines += status["tokens"]
        self._restarts_of_lost_engines += status["restarts"]
        self._engine = self._new_engine(self.spec)
        self._unloading = None
        self._pool.tell()

    def _fail(self, error: StartError) -> None:
        self._failure = error
        asyncio.get_running_loop().call_later(FAILURE_SECONDS, self._forgive)
        self._settle_held()

    def _forgive(self) -> None:
        self._failure = None
        self._pool.tell()

    # --- progress ---------------------------------------------------------------------

    def _report(self, loading: Loading) -> None:
        for listener in list(self._progress):
            listener(loading)

    @contextlib.contextmanager
    def progress_told(self, listener: Progress | None) -> Any:
        """Tell `listener` meanwhile how far loading is."""
        if listener is not None:
            self._progress.append(listener)
        try:
            yield
        finally:
            if listener is not None:
                self._progress.remove(listener)


class EnginePool:
    """The models of one server. Itself it is the first of them, and the way to the others.

    Args:
        specs: the models; the first is the default.
        new_engine: makes an engine, not yet started.
        budget_bytes: what all of them may take; None: four fifths of the device's memory.
        estimate: what a model may take before it was loaded, in bytes; 0 = not known. Called in a thread.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        *,
        new_engine: Callable[[ModelSpec], Engine] = Engine,
        budget_bytes: int | None = None,
        estimate: Callable[[ModelSpec], int] = lambda spec: 0,
    ) -> None:
        self._models = {spec.model: PooledModel(spec, new_engine, self) for spec in specs}
        self._default = next(iter(self._models.values()))
        self._budget_bytes = budget_bytes
        self._estimate = estimate
        self._estimates: dict[str, int] = {}
        self._listeners: list[Callable[[], None]] = []
        self._wanted: list[PooledModel] = []
        self._loader: asyncio.Task[None] | None = None
        self._has_changed = asyncio.Event()
        self._is_stopped = False

    # --- as an engine: the default model ----------------------------------------------

    @property
    def is_ready(self) -> bool:
        """The default model takes requests, if need be after it was loaded again."""
        return not self._is_stopped and (self._default.is_ready or self._default.state == "unloaded")

    @property
    def model_id(self) -> str:
        return self._default.model_id

    @property
    def sees(self) -> bool:
        return self._default.sees

    @property
    def max_images(self) -> int:
        return self._default.max_images

    @property
    def rows(self) -> int:
        """Of all models together."""
        return sum(model.rows for model in self._models.values())

    def wake(self) -> None:
        self._default.wake()

    def submit(self, request: GenerationRequest, listener: Listener) -> None:
        self._default.submit(request, listener)

    def cancel(self, request_id: int) -> None:
        for model in self._models.values():
            model.cancel(request_id)

    def status(self) -> dict[str, Any]:
        """That of the default model, with the sums of all and a line for each."""
        each = [model.status() for model in self._models.values()]
        sums = {name: sum(status[name] for status in each) for name in SUMMED}
        memory = {name: sum(status["memory"][name] for status in each) for name in each[0]["memory"]}
        return each[0] | sums | {"memory": memory, "memory_budget": self.budget_bytes, "models": self.models()}

    def on_state_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    # --- the models -------------------------------------------------------------------

    def engine_of(self, model: str | None) -> PooledModel | None:
        """Who answers for `model`; for None the default. None: nobody does."""
        return self._default if model is None else self._models.get(model)

    def models(self) -> list[dict[str, Any]]:
        """What can be asked for, the default first."""
        return [model.summary() for model in self._models.values()]

    @property
    def budget_bytes(self) -> int | None:
        """What all of them may take; None while that is not known."""
        if self._budget_bytes is not None:
            return self._budget_bytes
        device = max((model.info.device_bytes for model in self._models.values() if model.info is not None), default=0)
        return int(BUDGET_SHARE * device) or None

    async def load(self, model: str, on_progress: Progress | None = None) -> None:
        """Have a model loaded, if it is not; returns when it is.

        Raises:
            Refused: there is no such model.
            StartError: it can't be loaded.
        """
        found = self._found(model)
        with found.progress_told(on_progress):
            while not found.is_loaded:
                if found.failure is not None:
                    raise found.failure
                found.wake()
                await self._change()

    async def unload(self, model: str) -> None:
        """Take a model out of memory; it comes back when somebody asks for it.

        Raises:
            Refused: there is no such model, or something runs on it.
        """
        found = self._found(model)
        if found.is_busy or found in self._wanted:
            raise Refused("model_busy", f"{model} is in use.", retryable=True, retry_after_ms=1000)
        await found.take_out()

    def _found(self, model: str) -> PooledModel:
        found = self.engine_of(model)
        if found is None:
            raise Refused("model_not_found", not_served(model, self._models))
        return found

    # --- its life ---------------------------------------------------------------------

    async def start(self, on_progress: Progress | None = None) -> None:
        """Load the default model, and those of the others that fit beside it.

        Raises:
            StartError: one of them can't be loaded. Nothing is left running.
        """
        try:
            for model in self._models.values():
                self._estimates[model.model_id] = await asyncio.to_thread(self._estimate, model.spec)
                if model is self._default or self._fits(model):
                    with model.progress_told(on_progress):
                        await model.bring_in()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End everything; may be called again."""
        self._is_stopped = True
        if self._loader is not None:
            self._loader.cancel()
            await asyncio.wait({self._loader})
            self._loader = None
        await asyncio.gather(*(model.stop() for model in self._models.values()))

    def tell(self) -> None:
        """The state of a model has changed."""
        self.look_again()
        for listener in self._listeners:
            listener()

    def look_again(self) -> None:
        """Something may go on that had to wait."""
        self._has_changed.set()

    async def _change(self) -> None:
        event = self._has_changed
        if event.is_set():
            event = self._has_changed = asyncio.Event()
        await event.wait()

    # --- loading on demand ------------------------------------------------------------

    def want(self, model: PooledModel) -> None:
        """Have `model` loaded when its time comes."""
        if self._is_stopped or model in self._wanted:
            return
        self._wanted.append(model)
        if self._loader is None or self._loader.done():
            self._loader = asyncio.create_task(self._load_wanted(), name="loader")

    async def _load_wanted(self) -> None:
        while self._wanted:
            model = self._wanted[0]
            try:
                if not model.is_loaded:
                    await model.bring_in(lambda model=model: self._make_room(model))  # type: ignore[misc]
            except StartError as error:  # those who wait for it are told
                logger.error("a model can't be loaded: %s", error.reason)
            except Exception:
                logger.exception("loading a model failed")
            finally:
                self._wanted.remove(model)
            await self._shrink(keep=model)

    async def _make_room(self, model: PooledModel) -> None:
        needed = self._needs(model)
        if self.budget_bytes is not None and needed > self.budget_bytes:
            raise OutOfMemory(
                f"{model.model_id} needs {needed / 1e9:.2f} GB, and the memory budget is "
                f"{self.budget_bytes / 1e9:.2f} GB.",
                "Start the server with a larger --memory-budget.",
            )
        try:
            while not self._fits(model) and (others := self._loaded_but(model)):
                idle = [each for each in others if not each.is_busy]
                if idle:
                    await min(idle, key=_last_used).take_out()
                    continue
                min(others, key=_last_used).is_making_room = True
                await self._change()
        finally:
            for each in self._models.values():
                each.is_making_room = False

    async def _shrink(self, keep: PooledModel) -> None:
        """Models that turn out larger than was thought make the idle ones leave."""
        budget = self.budget_bytes
        while budget is not None and sum(each.memory_bytes for each in self._models.values()) > budget:
            idle = [each for each in self._loaded_but(keep) if not each.is_busy]
            if not idle:
                return
            await min(idle, key=_last_used).take_out()

    def _fits(self, model: PooledModel) -> bool:
        budget = self.budget_bytes
        taken = sum(each.memory_bytes for each in self._models.values() if each is not model)
        return budget is None or taken + self._needs(model) <= budget

    def _needs(self, model: PooledModel) -> int:
        return model.info.weights_bytes if model.info is not None else self._estimates.get(model.model_id, 0)

    def _loaded_but(self, model: PooledModel) -> list[PooledModel]:
        return [each for each in self._models.values() if each.is_loaded and each is not model]


SUMMED = ("running", "waiting", "tokens", "tokens_per_second", "restarts")
"""What the status of a server has as the sum over its models."""


def _last_used(model: PooledModel) -> float:
    return model.last_used


def _sentence(error: StartError) -> str:
    return f"{error.reason} {error.hint}".strip()
