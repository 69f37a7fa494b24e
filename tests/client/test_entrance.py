"""How a client shows a token and whom it trusts; the server is of `websockets`, so that what arrives can be seen."""

import asyncio
import http
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.server import Request, Response, ServerConnection
from websockets.asyncio.server import serve as serve_sockets

from mlx_websockets.client import CannotConnect, connect
from mlx_websockets.client.sync import connect_sync
from mlx_websockets.daemon.certificate import Certificate, own_certificate

TOKEN = "CANARY/canary+CANARY"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return own_certificate(tmp_path_factory.mktemp("keys"), ["localhost", "127.0.0.1"])


def at_the_door(
    story: Callable[[int, list[Request]], Awaitable[None]], status: int | None = None, **options: Any
) -> None:
    """Tell a story to a server that notes how it was asked, and refuses with `status`."""
    asked: list[Request] = []

    def look(connection: ServerConnection, request: Request) -> Response | None:
        asked.append(request)
        return None if status is None else connection.respond(http.HTTPStatus(status), "")

    async def serve() -> None:
        async def talk(socket: ServerConnection) -> None:
            await socket.wait_closed()

        async with serve_sockets(talk, "127.0.0.1", 0, process_request=look, **options) as server:
            await story(server.sockets[0].getsockname()[1], asked)

    asyncio.run(serve())


@pytest.mark.parametrize(
    ("query", "token"),
    [("", TOKEN), ("/?token=CANARY%2Fcanary%2BCANARY", None), ("/ws?a=1&token=CANARY%2Fcanary%2BCANARY", None)],
)
def test_a_token_is_shown_in_a_header_and_in_no_address(query, token):
    async def story(port: int, asked: list[Request]) -> None:
        async with connect(f"ws://127.0.0.1:{port}{query}", token=token):
            pass

        [request] = asked
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        assert "CANARY" not in request.path

    at_the_door(story)


@pytest.mark.parametrize(("status", "advice"), [(401, "token="), (429, "in a minute"), (403, "HTTP 403")])
def test_a_refusal_says_what_to_do_and_not_the_token(status, advice):
    async def story(port: int, asked: list[Request]) -> None:
        with pytest.raises(CannotConnect, match=advice) as caught:
            async with connect(f"ws://127.0.0.1:{port}/?token=CANARY%2Fcanary%2BCANARY"):
                pass

        assert caught.value.status == status
        assert "CANARY" not in str(caught.value)

    at_the_door(story, status)


def test_nobody_there_is_told_without_the_token():
    async def story() -> None:
        with pytest.raises(CannotConnect) as caught:
            async with connect("ws://127.0.0.1:1/?token=CANARY-canary"):
                pass
        assert "CANARY" not in str(caught.value)

    asyncio.run(story())


def test_a_certificate_is_trusted_on_demand(certificate: Certificate):
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate.path, certificate.key_path)

    async def story(port: int, asked: list[Request]) -> None:
        with pytest.raises(CannotConnect, match="CERTIFICATE_VERIFY_FAILED"):
            async with connect(f"wss://localhost:{port}"):
                pass
        trusting = ssl.create_default_context(cafile=certificate.path)
        async with connect(f"wss://localhost:{port}", ssl=trusting, token=TOKEN):
            pass

        assert [request.headers.get("Authorization") for request in asked] == [f"Bearer {TOKEN}"]

    at_the_door(story, ssl=own)


def test_the_client_without_await_passes_both_on(certificate: Certificate):
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate.path, certificate.key_path)

    def talk(port: int) -> None:
        trusting = ssl.create_default_context(cafile=certificate.path)
        with connect_sync(f"wss://localhost:{port}", token=TOKEN, ssl=trusting):
            pass

    async def story(port: int, asked: list[Request]) -> None:
        await asyncio.to_thread(talk, port)

        assert [request.headers["Authorization"] for request in asked] == [f"Bearer {TOKEN}"]

    at_the_door(story, ssl=own)
