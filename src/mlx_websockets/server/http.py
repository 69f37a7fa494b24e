"""What the server says over plain HTTP, and to whom it says nothing."""

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from mlx_websockets.protocols.native_schema import SUBPROTOCOL
from mlx_websockets.server.addresses import url
from mlx_websockets.server.gate import host_refusal, refusal


async def greeting(request: Request) -> Response:
    """For a person who opened the address in a browser."""
    address = url(request.url.hostname or "localhost", request.url.port or 80)
    return PlainTextResponse(
        "This is mlx-websockets, a WebSocket server for vision-language models.\n\n"
        f"Connect to {address} and send one JSON object per message, such as\n\n"
        '    {"type": "text_input", "content": "Hello!"}\n\n'
        "How it is: /v1/status   Whether it lives: /healthz   Whether its model is ready: /readyz\n"
    )


async def healthz(request: Request) -> Response:
    """200 while the server's loop runs."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """200 while the model takes requests, else 503."""
    if request.app.state.house.engine.is_ready:
        return PlainTextResponse("ready\n")
    return PlainTextResponse("The model is not ready.\n", 503, {"retry-after": "5"})


async def status(request: Request) -> Response:
    return JSONResponse(request.app.state.house.status.stats())


class Gatekeeper:
    """Lets in what `gate` lets in. Middleware.

    A page in a browser sees no HTTP status of a failed handshake, so for a browser the socket
    is opened and closed with the reason; everybody else is refused before.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http" and (reason := host_refusal(scope["headers"], self._names)):
            await PlainTextResponse(f"{reason}\n", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = refusal(scope["headers"], self._names)
        if refused is None:
            await self._app(scope, receive, send)
            return
        socket = WebSocket(scope, receive, send)
        if refused.is_for_browser:
            # One that offers subprotocols hears no reason unless one of them is taken.
            await socket.accept(SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None)
            await socket.close(1008, refused.reason)
        else:
            await socket.send_denial_response(PlainTextResponse(f"{refused.reason}\n", 403))
