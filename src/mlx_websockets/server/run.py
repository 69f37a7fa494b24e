"""Bind, load, serve, drain.

The order matters: the port is taken before the model is loaded, so that a taken one costs a
second and not a minute; and a shutdown tells every peer how its requests ended before it
lets go of the sockets. Prints nothing.
"""

import asyncio
import contextlib
import errno
import logging
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import uvicorn

from mlx_websockets.errors import PortInUse, StartError
from mlx_websockets.server.access import Access
from mlx_websockets.server.addresses import Addresses, addresses_of
from mlx_websockets.server.app import create_app
from mlx_websockets.server.binding import BACKLOG, bind
from mlx_websockets.server.desk import House
from mlx_websockets.server.farewell import RESTARTING, STOPPING
from mlx_websockets.server.floor import Engine
from mlx_websockets.server.lag import watch_lag
from mlx_websockets.server.limits import Limits
from mlx_websockets.server.listener import http_protocol, websocket_protocol
from mlx_websockets.server.mdns import announce as announce_by_mdns
from mlx_websockets.server.mdns import check_available
from mlx_websockets.server.rest import give_back_at_rest
from mlx_websockets.server.status import own_version
from mlx_websockets.settings import MAX_MESSAGE_BYTES, Settings

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TICK_SECONDS = 0.02
SETTLING_TURNS = 5
DESCRIPTORS = 10_240
KEPT_DESCRIPTORS = 32
"""For what is not a peer's: the worker, the log, the listeners, what a library opens for a moment."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
COMPLAINT_SECONDS = 10.0


class StartableEngine(Engine, Protocol):
    """An engine whose life the server decides."""

    async def start(self, on_progress: Callable[[Any], None] | None = None) -> None: ...
    async def stop(self) -> None: ...


class Stop:
    """A wish to stop; a second one is a wish not to be kept waiting.

    Attributes:
        farewell: what peers are told, by the first wish.
    """

    def __init__(self) -> None:
        self.is_wanted = asyncio.Event()
        self.is_urgent = False
        self.farewell = STOPPING

    def ask(self) -> None:
        self.is_urgent = self.is_wanted.is_set()
        self.is_wanted.set()

    def ask_for_heir(self) -> None:
        """Another server goes on with our listening sockets: leave, without haste."""
        if not self.is_wanted.is_set():
            self.farewell = RESTARTING
            self.is_wanted.set()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Ask for each SIGINT, SIGTERM and SIGHUP meanwhile.

        What is ignored stays ignored (`nohup` does that), and only a main thread gets any.
        """
        is_main = threading.current_thread() is threading.main_thread()
        heeded = [each for each in STOP_SIGNALS if is_main and signal.getsignal(each) is not signal.SIG_IGN]
        loop = asyncio.get_running_loop()
        for each in heeded:
            loop.add_signal_handler(each, self.ask)
        try:
            yield
        finally:
            for each in heeded:
                loop.remove_signal_handler(each)


async def serve(
    settings: Settings,
    engine: StartableEngine,
    announce: Callable[[Addresses], None],
    *,
    on_progress: Callable[[Any], None] | None = None,
    limits: Limits | None = None,
    stop: Stop | None = None,
    access: Access = Access(),
    inherited: Sequence[socket.socket] = (),
    around: "Callable[[list[socket.socket]], contextlib.AbstractAsyncContextManager[None]] | None" = None,
) -> bool:
    """Load the model and serve until a signal comes, or `stop` is asked for.

    Args:
        announce: called once connections are accepted, with the addresses.
        on_progress: told how far the model's loading is.
        limits: how patient the server is; if not given, as the settings say.
        access: what other machines have to show, and how connections are encrypted.
        inherited: sockets that listen already, those for encrypted connections last.
        around: entered with all listening sockets while connections are accepted.

    Returns:
        False if it was stopped before it was ready.

    Raises:
        StartError: of the kind that says why. Nothing is left running.
    """
    stop = stop or Stop()
    limits = limits or Limits.of(settings)
    if settings.mdns:
        check_available()
    sockets, secure = _split(inherited) if inherited else (bind(settings), [])
    if access.tls is not None and not secure:
        secure = _bind_secure(settings, sockets)
    with stop.on_signals():
        try:
            limits = _within_descriptors(limits)
            _complain_calmly(asyncio.get_running_loop())
            if not await _unless_stopped(stop, engine.start(on_progress)):
                return False
            app = create_app(settings, engine, limits, keys=access.keys)
            config = listener_config(app, limits, app.state.house.metrics.refused)
            addresses = _addresses(settings, sockets, secure)
            server = _Server(config, app.state.house, stop, lambda: announce(addresses), secure, access.tls)
            about = {"version": own_version(), "model": engine.model_id} if settings.mdns else None
            async with around([*sockets, *secure]) if around is not None else contextlib.nullcontext():
                await _serve_until_stopped(server, app.state.house, sockets, addresses, about)
            return True
        finally:
            for each in (*sockets, *secure):
                each.close()
            await _end_engine(engine, limits)


def _split(inherited: Sequence[socket.socket]) -> tuple[list[socket.socket], list[socket.socket]]:
    """Those for plain connections, which have one port, and those for encrypted ones, which have another."""
    port = inherited[0].getsockname()[1]
    plain = [each for each in inherited if each.getsockname()[1] == port]
    return plain, [each for each in inherited if each not in plain]


def _bind_secure(settings: Settings, beside: list[socket.socket]) -> list[socket.socket]:
    """The sockets for encrypted connections; `beside` are closed if there can be none."""
    try:
        return bind(replace(settings, port=settings.tls_port))
    except StartError as error:
        for each in beside:
            each.close()
        if isinstance(error, PortInUse):
            error.hint = "That is the port for encrypted connections: name another one with --tls-port."
        raise


def _addresses(settings: Settings, sockets: list[socket.socket], secure: list[socket.socket]) -> Addresses:
    plain = addresses_of(settings.host, sockets[0].getsockname()[1])
    if not secure:
        return plain
    return replace(plain, secure=addresses_of(settings.host, secure[0].getsockname()[1], "wss"))


async def _serve_until_stopped(
    server: "_Server", house: House, sockets: list[socket.socket], addresses: Addresses, about: dict[str, str] | None
) -> None:
    """Serve, with the server's own tasks around it; with `about` it is announced by mDNS."""
    floor = house.floor
    tasks = [
        asyncio.create_task(watch_lag(house.metrics.lagged), name="lag watch"),
        asyncio.create_task(give_back_at_rest(lambda: floor.running == floor.waiting == 0), name="rest"),
    ]
    if about is not None:
        tasks.append(asyncio.create_task(announce_by_mdns(addresses, about), name="mDNS"))
    try:
        await server.serve(sockets)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        house.openers.shutdown(wait=False, cancel_futures=True)


async def _unless_stopped(stop: Stop, loading: Any) -> bool:
    """Wait for `loading`; False if a stop was wanted first, which ends it."""
    task = asyncio.ensure_future(loading)
    wish = asyncio.ensure_future(stop.is_wanted.wait())
    try:
        await asyncio.wait({task, wish}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        wish.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    if task.cancelled():
        return False
    task.result()
    return True


async def _end_engine(engine: StartableEngine, limits: Limits) -> None:
    """Also when it is urgent: a worker that nobody reaps would keep the model's memory."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(3 * limits.shutdown_step_seconds):
            await engine.stop()


def listener_config(
    app: Any, limits: Limits, on_refused: Callable[[int], None] = lambda status: None
) -> uvicorn.Config:
    """How any ASGI application is listened for; the conformance suite runs an echo behind it."""
    return uvicorn.Config(
        app,
        http=http_protocol(limits, on_refused),
        ws=websocket_protocol(limits),
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        ws_per_message_deflate=False,  # deltas are small, pictures are compressed already
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=1,
    )


class _Server(uvicorn.Server):
    """Uvicorn, stopped our way, and with plain and encrypted listeners side by side."""

    def __init__(
        self,
        config: uvicorn.Config,
        house: House,
        stop: Stop,
        on_started: Callable[[], None],
        secure: Sequence[socket.socket] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(config)
        self._secure = secure
        self._tls = tls
        self._house = house
        self._stop = stop
        self._on_started = on_started

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()  # `Stop` has them

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in self._secure:
            self.servers.append(await self._listen_encrypted(each))
        self._on_started()

    async def _listen_encrypted(self, listening: socket.socket) -> asyncio.Server:
        config, limits = self.config, self._house.limits

        def create_protocol() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )

        return await asyncio.get_running_loop().create_server(
            create_protocol,
            sock=listening,
            ssl=self._tls,
            backlog=config.backlog,
            ssl_handshake_timeout=limits.handshake_seconds,
            ssl_shutdown_timeout=limits.close_seconds,
        )

    async def main_loop(self) -> None:
        await self.on_tick(0)  # sets the default headers
        await self._stop.is_wanted.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell everybody, let what runs finish for a while, then end all of it."""
        await self._stop_accepting()
        step, floor, farewell = self._house.limits.shutdown_step_seconds, self._house.floor, self._stop.farewell
        drain_seconds = self._house.limits.drain_seconds
        for guest in floor.guests:
            guest.drain(drain_seconds, farewell)
        await self._until(lambda: floor.running == 0, drain_seconds)
        for guest in floor.guests:
            guest.shut_down(farewell)
        await self._until(lambda: not self.server_state.tasks, step + self._house.limits.close_seconds)
        await self._until(lambda: not self.server_state.connections, self._house.limits.close_seconds)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
        else:  # uvicorn's own way waits a tenth of a second for peers, and there are none
            await self.lifespan.shutdown()

    async def _stop_accepting(self) -> None:
        """Close our listening sockets, and lose none of the connections that were taken from them just now."""
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for each in server.sockets:
                loop.remove_reader(each.fileno())
        for _ in range(SETTLING_TURNS):  # asyncio drops a connection whose server is closed before it is set up
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()

    async def _until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Wait until it holds, at most so long, and not at all if it is urgent."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not (holds() or self._stop.is_urgent or asyncio.get_running_loop().time() >= deadline):  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS)


def _within_descriptors(limits: Limits) -> Limits:
    """Each connection is a descriptor, and macOS gives a program 256: ask for more, promise no more than there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft == resource.RLIM_INFINITY:
        return limits
    return replace(limits, max_connections=max(1, min(limits.max_connections, soft - KEPT_DESCRIPTORS)))


def _complain_calmly(loop: asyncio.AbstractEventLoop) -> None:
    if loop.get_exception_handler() is None:  # else it is somebody's who knows better
        loop.set_exception_handler(_Complaints())


class _Complaints:
    """The event loop's exception handler. A loop out of descriptors complains for each peer that knocks; one
    line in a while says as much."""

    def __init__(self) -> None:
        self._silent_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in EXHAUSTED):
            loop.default_exception_handler(context)
        elif loop.time() >= self._silent_until:
            self._silent_until = loop.time() + COMPLAINT_SECONDS
            logger.warning("connections wait: %s", error.strerror)
