"""The application: every route on one screen."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from mlx_websockets.metrics import Metrics
from mlx_websockets.server import http, page
from mlx_websockets.server.connection import Connection
from mlx_websockets.server.desk import House
from mlx_websockets.server.floor import Engine, Floor
from mlx_websockets.server.gate import Gate, own_names
from mlx_websockets.server.limits import Limits
from mlx_websockets.server.parking import Parking
from mlx_websockets.server.parties import Key
from mlx_websockets.server.pictures import OpenedPictures
from mlx_websockets.server.rates import RequestRates
from mlx_websockets.server.status import Status
from mlx_websockets.settings import Settings

OPENERS = min(2, max(1, (os.cpu_count() or 2) // 2))
"""Pictures opened at once. Each may take 200 MB for a moment, and the event loop needs a core when it needs one."""


def create_app(settings: Settings, engine: Engine, limits: Limits = Limits(), *, keys: Iterable[Key] = ()) -> Starlette:
    """The server as an ASGI application; `app.state.house` is what its connections share.

    Args:
        settings: what a new connection starts with.
        engine: answers; loading it is the caller's.
        limits: how patient the server is.
        keys: what other machines have to show one of; without any none gets in, unless the settings say `no_auth`.
    """
    gate = Gate(
        own_names(settings.host, allowed=settings.allowed_host),
        keys=keys,
        is_open=settings.no_auth,
        origins=settings.allow_origin,
    )
    floor = Floor(engine, settings.local_weight)
    status = Status(engine, floor, limits, settings.sampling.limit)
    house = House(
        settings=settings,
        engine=engine,
        floor=floor,
        status=status,
        parking=Parking(max_parked=limits.max_parked, park_seconds=limits.park_seconds),
        openers=ThreadPoolExecutor(OPENERS, "pictures"),
        pictures=OpenedPictures(),
        limits=limits,
        metrics=Metrics(status.levels),
        rates=RequestRates(limits.requests_per_minute),
    )

    async def talk(socket: WebSocket) -> None:
        await Connection(socket, house).serve()

    app = Starlette(
        routes=[
            WebSocketRoute("/", talk),
            WebSocketRoute("/ws", talk),
            Route("/", http.greeting),
            *(Route(path, page.page_file) for path in sorted(page.PATHS)),
            Route("/healthz", http.healthz),
            Route("/readyz", http.readyz),
            Route("/metrics", http.metrics),
            Route("/v1/status", http.status),
            Route("/v1/models", http.models),
        ],
        middleware=[Middleware(http.Gatekeeper, gate=gate)],
    )
    app.state.house = house
    return app
