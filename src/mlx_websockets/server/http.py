"""What the server says over plain HTTP, and to whom it says nothing."""

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from mlx_websockets.metrics import CONTENT_TYPE
from mlx_websockets.protocols.native_schema import SUBPROTOCOL
from mlx_websockets.server import page
from mlx_websockets.server.addresses import url
from mlx_websockets.server.gate import Gate, Refusal


async def greeting(request: Request) -> Response:
    """The page for a browser, a few words for everybody else."""
    if page.is_wanted(request.scope):
        return page.answer(request, "index.html")
    is_secure = request.url.scheme == "https"
    port = request.url.port or (443 if is_secure else 80)
    address = url(request.url.hostname or "localhost", port, "wss" if is_secure else "ws")
    return PlainTextResponse(
        "This is mlx-websockets, a WebSocket server for vision-language models.\n\n"
        f"Connect to {address} and send one JSON object per message, such as\n\n"
        '    {"type": "text_input", "content": "Hello!"}\n\n'
        "How it is: /v1/status, /metrics   Whether it lives: /healthz   Whether its model is ready: /readyz\n"
    )


async def healthz(request: Request) -> Response:
    """200 while the server's loop runs."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """200 while the model takes requests, else 503."""
    if request.app.state.house.engine.is_ready:
        return PlainTextResponse("ready\n")
    return PlainTextResponse("The model is not ready.\n", 503, {"retry-after": "5"})


async def models(request: Request) -> Response:
    """The models that can be asked for, the default first; the list has the form that OpenAI's has."""
    found = [
        {"object": "model", "owned_by": "mlx-websockets", **each} for each in request.app.state.house.engine.models()
    ]
    return JSONResponse({"object": "list", "data": found})


async def status(request: Request) -> Response:
    return JSONResponse(request.app.state.house.status.overview())


async def metrics(request: Request) -> Response:
    """All that is counted, as Prometheus reads it."""
    return Response(request.app.state.house.metrics.exposition(), media_type=CONTENT_TYPE)


class Gatekeeper:
    """Lets in what `gate` lets in, at every path. Middleware.

    A page in a browser sees no HTTP status of a failed handshake, so for a browser the socket
    is opened and closed with the reason; everybody else is refused before.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._gate.refusal(scope, time.monotonic())
        if refused is None:
            await self._app(self._gate.passed(dict(scope)), receive, send)
            return
        scope["app"].state.house.metrics.refused(refused.status)
        if scope["type"] == "http":
            await _answer(refused)(scope, receive, send)
        else:
            await self._turn_away(WebSocket(scope, receive, send), refused)

    async def _turn_away(self, socket: WebSocket, refused: Refusal) -> None:
        if refused.is_for_browser:
            # One that offers subprotocols hears no reason unless one of them is taken.
            await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)
            await socket.close(1008, refused.reason)
        else:
            await socket.send_denial_response(_answer(refused))


def _answer(refused: Refusal) -> Response:
    return PlainTextResponse(f"{refused.reason}\n", refused.status, refused.headers)
