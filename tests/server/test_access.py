"""Who gets into a real server: from elsewhere (told by a proxy's header), with and without TLS."""

import asyncio
import base64
import http.client
import ssl
from pathlib import Path
from typing import Any, get_args

import pytest
from serving import PATIENCE, hear, running, say
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from mlx_websockets.daemon.certificate import Certificate, own_certificate
from mlx_websockets.errors import PortInUse, UsageError
from mlx_websockets.protocols.native_schema import SUBPROTOCOL, PeerMessage
from mlx_websockets.server.access import Access, tls_of
from mlx_websockets.server.tokens import key_item

TOKEN = "CANARY-canary-CANARY"
GUARDED = Access(token=TOKEN)
FROM_ELSEWHERE = {"X-Forwarded-For": "192.0.2.7"}


def from_elsewhere(address: str = "192.0.2.7", **headers: str) -> dict[str, Any]:
    return {"additional_headers": {"X-Forwarded-For": address, **headers}}


async def status_of(port: int, path: str, **headers: str) -> int:
    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status

    return await asyncio.to_thread(ask)


# --- the token --------------------------------------------------------------------------


def test_from_this_machine_nothing_is_wanted():
    async def story():
        async with running(access=GUARDED) as server:
            await say(await server.peer(), type="ping")

            assert await status_of(server.port, "/v1/status") == 200

    asyncio.run(story())


@pytest.mark.parametrize("path", ["/", "/ws", "/elsewhere"])
def test_from_elsewhere_a_handshake_without_the_token_is_refused_before_the_upgrade(path, caplog):
    async def story():
        async with running(access=GUARDED) as server:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                with pytest.raises(InvalidStatus) as caught:
                    await server.peer(path, **from_elsewhere(**headers))

                assert caught.value.response.status_code == 401
                assert caught.value.response.headers["www-authenticate"].startswith("Bearer")
                assert TOKEN.encode() not in caught.value.response.body

    asyncio.run(story())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]  # who is refused can't fill a log


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/", from_elsewhere(Authorization=f"Bearer {TOKEN}")),
        ("/", {**from_elsewhere(), "subprotocols": [SUBPROTOCOL, key_item(TOKEN)]}),
        ("/", {**from_elsewhere(), "subprotocols": [key_item(TOKEN), SUBPROTOCOL]}),
        (f"/?token={TOKEN}", from_elsewhere()),
        (f"/ws?token={TOKEN}", {**from_elsewhere(), "subprotocols": [SUBPROTOCOL]}),
    ],
)
def test_with_the_token_it_talks_and_never_says_it_back(path, options):
    async def story():
        async with running(access=GUARDED) as server:
            peer = await server.peer(path, **options)
            await say(peer, type="ping")

            assert (await hear(peer))["type"] in ("pong", "hello")
            assert peer.subprotocol in (None, SUBPROTOCOL)
            assert TOKEN not in repr(peer.response.headers)
            assert base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=") not in repr(peer.response.headers)

    asyncio.run(story())


@pytest.mark.parametrize("path", ["/", "/readyz", "/v1/status", "/metrics", "/no/such/page"])
def test_every_page_but_healthz_wants_it_too(path):
    async def story():
        async with running(access=GUARDED) as server:
            assert await status_of(server.port, path, **FROM_ELSEWHERE) == 401
            assert await status_of(server.port, path, **FROM_ELSEWHERE, Authorization="Bearer no") == 401
            assert await status_of(server.port, "/healthz", **FROM_ELSEWHERE) == 200
            assert await status_of(server.port, f"{path}?token={TOKEN}", **FROM_ELSEWHERE) not in (401, 403, 429, 500)

    asyncio.run(story())


def test_what_is_no_ascii_is_refused_and_no_mistake():
    request = (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.7\r\nAuthorization: Bearer \xe9\xff\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )

    async def story():
        async with running(access=GUARDED) as server, asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request)

            assert (await reader.readline()).startswith(b"HTTP/1.1 401")
            writer.close()

    asyncio.run(story())


def test_a_page_is_told_by_a_close_frame():
    async def story():
        async with running(access=GUARDED) as server:
            options = {"origin": f"http://127.0.0.1:{server.port}", "subprotocols": [SUBPROTOCOL]}
            peer = await server.peer(**from_elsewhere(), **options)

            with pytest.raises(ConnectionClosedError):
                await asyncio.wait_for(peer.recv(), PATIENCE)

            assert peer.close_code == 1008
            assert "token" in peer.close_reason

    asyncio.run(story())


def test_who_guesses_waits_and_nobody_else_does():
    async def story():
        async with running(access=GUARDED) as server:
            wrong, right = ({**FROM_ELSEWHERE, "Authorization": f"Bearer {each}"} for each in ("no", TOKEN))
            guesses = [await status_of(server.port, "/v1/status", **wrong) for _ in range(12)]

            assert guesses == [401] * 10 + [429] * 2
            assert await status_of(server.port, "/v1/status", **right) == 429
            assert await status_of(server.port, "/v1/status", **{**right, "X-Forwarded-For": "192.0.2.8"}) == 200
            assert await status_of(server.port, "/v1/status") == 200

    asyncio.run(story())


def test_an_open_server_lets_everybody_in():
    async def story():
        async with running(no_auth=True) as server:
            await say(await server.peer(**from_elsewhere()), type="ping")

    asyncio.run(story())


def test_an_allowed_page_and_an_allowed_name_come_in():
    async def story():
        async with running(allow_origin=("https://app.example",), allowed_host=("gpu.example",)) as server:
            address = f"ws://gpu.example:{server.port}"
            async with connect(address, host="127.0.0.1", origin="https://app.example") as peer:
                await say(peer, type="ping")

                assert (await hear(peer))["type"] == "pong"

    asyncio.run(story())


# --- TLS --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return own_certificate(tmp_path_factory.mktemp("keys"), ["localhost", "127.0.0.1", "::1"])


def secured(certificate: Certificate) -> Access:
    return Access(TOKEN, tls_of(certificate.path, certificate.key_path))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_client_that_trusts_the_certificate_talks_in_secret(certificate, host):
    async def story():
        async with running(access=secured(certificate), tls_port=0) as server:
            assert server.addresses.secure is not None
            trusting = ssl.create_default_context(cafile=certificate.path)
            async with connect(f"wss://{host}:{server.addresses.secure.port}", ssl=trusting) as peer:
                await say(peer, type="ping")

                assert (await hear(peer))["type"] == "pong"
                assert peer.transport.get_extra_info("ssl_object").version() == "TLSv1.3"

    asyncio.run(story())


def test_one_that_does_not_trust_it_does_not_talk(certificate):
    async def story():
        async with running(access=secured(certificate), tls_port=0) as server:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(f"wss://localhost:{server.addresses.secure.port}")

    asyncio.run(story())


def test_plain_and_encrypted_connections_are_taken_side_by_side_under_one_rule(certificate):
    async def story():
        async with running(access=secured(certificate), tls_port=0) as server:
            trusting = ssl.create_default_context(cafile=certificate.path)
            address = f"wss://localhost:{server.addresses.secure.port}"
            plain = await server.peer()
            async with connect(address, ssl=trusting) as encrypted:
                for peer in (plain, encrypted):
                    await say(peer, type="ping")
                    assert (await hear(peer))["type"] == "pong"
            with pytest.raises(InvalidStatus) as caught:
                await connect(address, ssl=trusting, **from_elsewhere())

            assert caught.value.response.status_code == 401

    asyncio.run(story())


def test_a_shutdown_says_goodbye_to_encrypted_peers_too(certificate):
    async def story():
        async with running(access=secured(certificate), tls_port=0) as server:
            trusting = ssl.create_default_context(cafile=certificate.path)
            async with connect(f"wss://localhost:{server.addresses.secure.port}", ssl=trusting) as peer:
                server.stop.ask()
                await asyncio.wait_for(peer.wait_closed(), PATIENCE)

                assert peer.close_code == 1001

    asyncio.run(story())


def test_nobody_is_let_in_with_an_old_tls(certificate):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(certificate.path)
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1

    async def story():
        async with running(access=secured(certificate), tls_port=0) as server:
            with pytest.raises(ssl.SSLError):
                await connect(f"wss://localhost:{server.addresses.secure.port}", ssl=old)

    asyncio.run(story())


def test_a_taken_port_for_tls_is_named_and_frees_the_other_one(certificate):
    async def story():
        async with running() as other:
            with pytest.raises(PortInUse) as caught:
                async with running(access=secured(certificate), tls_port=other.port):
                    pass

            assert "--tls-port" in caught.value.hint

    asyncio.run(story())


@pytest.mark.parametrize("content", ["", "no PEM at all", None])
def test_what_is_no_certificate_is_told(certificate, tmp_path: Path, content: str | None):
    path = tmp_path / "cert.pem"
    if content is not None:
        path.write_text(content)

    with pytest.raises(UsageError, match=r"cert\.pem"):
        tls_of(path, certificate.key_path)


def test_a_certificate_and_another_s_key_are_told_apart(certificate, tmp_path: Path):
    other = own_certificate(tmp_path / "keys", ["localhost"])

    with pytest.raises(UsageError, match="not a certificate and its key"):
        tls_of(certificate.path, other.key_path)


# --- why this machine needs no token ----------------------------------------------------


def test_nothing_that_can_be_asked_touches_files_or_runs_anything():
    """An agent on this machine that reads a bad page may ask; so there must be nothing worth asking."""
    asked = {each.__struct_config__.tag for each in get_args(PeerMessage)}

    assert asked == {
        "text_input", "image_input", "video_frame", "screen_frame", "config", "get_status", "cancel", "ping",
        "list_models", "load_model", "unload_model", "resume",
    }  # fmt: skip
