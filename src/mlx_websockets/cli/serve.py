"""`mlx serve`: settings from flags, an engine, the server around it, and what a person sees of it.

Every flag is a field of `Settings`; its meaning, default and bounds stand there alone.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlx_websockets.cli.announcement import announce
from mlx_websockets.cli.console import Console, LoadingDisplay, size
from mlx_websockets.cli.flags import Given, takes_settings
from mlx_websockets.cli.sources import Resolved, resolve
from mlx_websockets.settings import Settings

if TYPE_CHECKING:
    import asyncio

    from mlx_websockets.cli.access import WayIn
    from mlx_websockets.cli.presence import Presence
    from mlx_websockets.engine.messages import Loading, ModelSpec
    from mlx_websockets.engine.pool import EnginePool
    from mlx_websockets.server.addresses import Addresses

    WhenServing = Callable[[Addresses], None]


@takes_settings
def serve(given: Given) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        StartError: the server can't start; nothing is left running.
        KeyboardInterrupt: it was stopped before it was ready.
    """
    run(resolve(given))


def run(resolved: Resolved, *, is_demo: bool = False, when_serving: "WhenServing | None" = None) -> None:
    """Serve with these settings, and do one thing more once connections are accepted. Raises what `serve` does."""
    settings = resolved.settings
    import asyncio

    from mlx_websockets import logs
    from mlx_websockets.cli.access import way_in
    from mlx_websockets.cli.presence import present

    with present(settings, resolved.flags()) as presence:
        if file := resolved.folder_file:
            Console(sys.stdout, is_optional=True).info(f"Settings from {file}; `mlx config show --origin` says which")
        entrance = way_in(settings)
        logs.set_up(settings.debug, settings.log_format)
        console = Console(sys.stdout, is_busy=settings.debug, is_optional=True)
        if not asyncio.run(_serve(settings, console, presence, entrance, is_demo, when_serving)):
            raise KeyboardInterrupt


async def _serve(
    settings: Settings,
    console: Console,
    presence: "Presence",
    entrance: "WayIn",
    is_demo: bool,
    when_serving: "WhenServing | None",
) -> bool:
    """Whether it was ready before it was stopped."""
    import asyncio

    from mlx_websockets.daemon.handover import inherited, offering
    from mlx_websockets.server.run import Stop, serve

    stop = Stop()
    inheritance = inherited()
    engine = _pool(settings)
    view = ServerView(console, settings, engine.status, entrance, is_demo=is_demo)
    farewell = asyncio.create_task(_say_farewell(stop.is_wanted, view, presence), name="farewell")

    def serving(addresses: "Addresses") -> None:
        view.serving(addresses)
        presence.serving(addresses)
        if when_serving is not None:
            when_serving(addresses)
        if inheritance is not None:
            inheritance.say_ready()

    try:
        return await serve(
            settings,
            engine,
            serving,
            on_progress=view.loading,
            stop=stop,
            access=entrance.access,
            inherited=inheritance.sockets if inheritance is not None else (),
            around=lambda sockets: offering(presence.door, sockets, stop.ask_for_heir),
        )
    finally:
        farewell.cancel()
        view.ended()


async def _say_farewell(is_wanted: "asyncio.Event", view: "ServerView", presence: "Presence") -> None:
    await is_wanted.wait()
    view.stopping()
    presence.stopping()


def _pool(settings: Settings) -> "EnginePool":
    from mlx_websockets.engine.client import Engine
    from mlx_websockets.engine.models.inventory import stored_weights_bytes
    from mlx_websockets.engine.pool import EnginePool

    return EnginePool(
        [_model_spec(model, settings) for model in settings.model],
        new_engine=lambda spec: Engine(spec, run_seed=settings.seed),
        budget_bytes=None if settings.memory_budget is None else int(settings.memory_budget * 1e9),
        estimate=lambda spec: stored_weights_bytes(spec.model),
    )


def _model_spec(model: str, settings: Settings) -> "ModelSpec":
    from mlx_websockets.engine.messages import ModelSpec

    return ModelSpec(
        model=model,
        trust_remote_code=settings.trust_remote_code,
        tokenizer_config=settings.tokenizer_config,
        chat_template=settings.chat_template,
        adapter=settings.adapter,
        kv_bits=settings.kv_bits,
        kv_group_size=settings.kv_group_size,
        kv_scheme=settings.kv_scheme,
        draft_model=settings.draft_model,
        rows=settings.rows,
        show_warnings=settings.show_warnings,
    )


class ServerView:
    """What a person sees of a server's life."""

    def __init__(
        self,
        console: Console,
        settings: Settings,
        engine_status: Callable[[], dict[str, Any]],
        entrance: "WayIn | None" = None,
        *,
        is_demo: bool = False,
    ) -> None:
        self._console = console
        self._settings = settings
        self._engine_status = engine_status
        self._entrance = entrance
        self._is_demo = is_demo
        self._display = LoadingDisplay(console)
        self._is_serving = False
        console.info(f"Loading {', '.join(settings.model)}")

    def loading(self, progress: "Loading") -> None:
        """The model is being loaded; called often."""
        self._display.show(progress.stage, progress.done, progress.total, progress.unit)

    def serving(self, addresses: "Addresses") -> None:
        """Connections are accepted from now on."""
        self._display.close()
        self._is_serving = True
        status = self._engine_status()
        self._console.success("Models loaded" if len(status.get("models", ())) > 1 else "Model loaded")
        self._console.table([*model_rows(status), *other_rows(status)])
        if status["model_info"]["backend"] == "cpu" and status["blas"] is None and sys.platform == "linux":
            self._console.warning("MLX's own matrix library is slow on a CPU. On Debian or Ubuntu this helps:")
            self._console.text("  apt install libopenblas0-pthread")
        if self._settings.port not in (0, addresses.port):
            self._console.warning(f"Port {self._settings.port} was taken, so it is {addresses.port}.")
        self._console.success("Server running at:")
        announce(self._console, addresses, self._entrance, is_open=self._settings.no_auth, is_demo=self._is_demo)
        self._console.text("Press Ctrl+C to stop the server.")

    def stopping(self) -> None:
        """A stop was asked for."""
        self._display.close()
        self._console.over_echo()
        self._console.info("Shutting down; Ctrl+C once more does not wait" if self._is_serving else "Stopping")

    def ended(self) -> None:
        """Nothing runs any more."""
        self._display.close()
        if self._is_serving:
            self._console.success("Server stopped")


def model_rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    """What to say of a loaded model."""
    info = status["model_info"]
    takes = f"text, and up to {info['max_images']} pictures at once" if info["sees"] else "text only"
    if info["sees"] and info["max_images"] == 1:
        takes = "text, and a picture"
    backend = info["backend"] + (f", {status['blas']}" if status["blas"] else "")
    drafter = [("Drafter", f"of the kind {info['drafts']}")] if info.get("drafts") else []
    return [
        ("Model", f"{info['id']} ({takes})"),
        *drafter,
        ("Memory", f"{size(status['memory']['active'])} in use"),
        ("Backend", backend),
    ]


def other_rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    """What to say of the models beside the default one."""
    loaded = {"ready": "", "unloaded": " (loaded when somebody asks for it)"}
    return [
        ("Also", each["id"] + loaded.get(each["state"], f" ({each['state']})")) for each in status.get("models", ())[1:]
    ]
