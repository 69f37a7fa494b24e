"""Messages that are meant to break, mislead or inform: each is one typed error, and nothing else happens."""

import asyncio
import base64
import json
import re
import socket

import pytest
from tests.hostile.crafting import as_json, errors_of, somebody_innocent
from tests.server.serving import hear, holds, running, say

from mlx_websockets.protocols.native_schema import PEER_MESSAGE_TYPES

GIF = "R0lGODdhAQABAIAAAP///////ywAAAAAAQABAAACAkQBADs="


def codes(*messages: str | bytes) -> list[object]:
    """The codes of the errors that these get. The connection and a bystander must outlive them."""

    async def story():
        async with running() as server, somebody_innocent(server):
            errors = await errors_of(server, *messages)
            assert not server.engine.requests
            return [error["code"] for error in errors]

    return asyncio.run(story())


@pytest.mark.parametrize(
    "message",
    [
        '{"type": "text_input", "content": ' + "[" * 100_000,
        '{"type": "text_input", "content": ' + "[" * 200 + "]" * 200 + "}",
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        '{"type": "ping", "t": 1e999999}',
        '{"type": "config", "temperature": ' + "9" * 5000 + "}",
        '{"type": "text_input", "content": "x", "id": ' + "9" * 5000 + "}",
        '{"type": "config", "temperature": NaN}',
        '{"type": "config", "topP": -Infinity}',
        '{"type": "text_input", "content": "\\ud800"}',
        '{"type": "text_input", "content": "x", "id": "\\udfff"}',
        b'{"type": "text_input", "content": "\xed\xa0\x80"}',
        '{"type": "text_input", "content": "x"}'.encode("utf-16"),
        "\ufeff" + '{"type": "text_input"}',
    ],
    ids=lambda message: str(message)[:36],
)
def test_json_that_is_made_to_break_parsers_is_one_error(message):
    assert len(codes(message)) == 1


@pytest.mark.parametrize("field", ["temperature", "topP", "topK", "maxOutputTokens", "presencePenalty", "seed"])
@pytest.mark.parametrize("value", ["true", '"5"', "[1]", '{"a": 1}', "1e400", "NaN", "1" + "0" * 400, "-1e300"])
def test_a_setting_of_another_kind_or_size_is_refused_by_its_name(field, value):
    async def story():
        async with running() as server:
            return await errors_of(server, f'{{"type": "config", "{field}": {value}}}')

    errors = asyncio.run(story())

    assert len(errors) == 1
    assert errors[0]["code"] in ("invalid_config", "invalid_json", "invalid_message")
    if errors[0]["code"] == "invalid_config":
        assert field in str(errors[0]["error"])


@pytest.mark.parametrize(
    "image",
    [
        "not base64 at all!",
        GIF + "=",
        GIF[:8] + "\n" + GIF[8:-5],
        "data:image/gif;base64," * 8 + GIF,
        "data:text/html;base64," + base64.b64encode(b"<script>").decode(),
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg onload='x'/>").decode(),
        base64.b64encode(b"%!PS-Adobe-3.0\nshowpage").decode(),
        base64.b64encode(b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(60)).decode(),
        "/etc/passwd",
        "file:///etc/passwd",
        "../../../../etc/passwd",
    ],
)
def test_what_is_no_picture_is_refused_as_one(image):
    async def story():
        async with running() as server, somebody_innocent(server):
            peer = await server.peer()
            await say(peer, type="image_input", image=image, id="p")
            error = await hear(peer)
            assert not server.engine.requests
            return error

    error = asyncio.run(story())

    assert (error["type"], error["id"]) == ("error", "p")
    assert error["code"] in ("invalid_image", "unsupported_image", "invalid_message")


def test_an_address_in_place_of_a_picture_is_never_called():
    async def story():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            address = f"http://127.0.0.1:{listening.getsockname()[1]}/picture.png"
            async with running() as server:
                peer = await server.peer()
                for field in ("image", "frame"):
                    await say(peer, type="image_input", id=field, **{field: address})
                    assert (await hear(peer))["type"] == "error"
                await say(peer, type="image_input", id="several", images=[address] * 2)
                assert (await hear(peer))["type"] == "error"
            with pytest.raises(BlockingIOError):
                listening.accept()

    asyncio.run(story())


def test_one_peer_s_settings_are_not_another_s():
    async def story():
        async with running() as server:
            one, other = await server.peer(), await server.peer()
            await say(one, type="config", temperature=1.9, maxOutputTokens=3)
            await hear(one)
            await say(other, type="text_input", content="hello")
            await holds(lambda: server.engine.requests)

            [request] = server.engine.requests.values()

            assert (request.choice.temperature, request.choice.max_tokens) != (1.9, 3)

    asyncio.run(story())


def test_no_message_asks_for_a_file_a_shell_or_a_tool():
    words = re.compile("file|path|shell|exec|eval|tool|code|url|fetch|import", re.IGNORECASE)

    assert not [name for name in PEER_MESSAGE_TYPES if words.search(name)]


TELLING = re.compile(
    r"0x[0-9a-f]{6,}|/(?:usr|home|root|tmp|etc|opt|var|Users)/|site-packages|Traceback|\.py\b|<class|object at"
)


def test_no_error_tells_an_address_a_path_or_a_class():
    spoiled = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()
    messages = [
        "{", "[]", "null", '"x"', "\x00", b"\x4d\x01\xff\xff", b"\x4d\x01\x00\x05ab", b"\x4d\x09",
        as_json(type="nope"), as_json(type=5), as_json(type="text_input"), as_json(type="text_input", content=5),
        as_json(type="text_input", content="x", stop=5), as_json(type="text_input", content="x", config=[]),
        as_json(type="config", temperature=9), as_json(type="config", temperature="hot"),
        as_json(type="config", seed={}),
        as_json(type="image_input"), as_json(type="image_input", image=5), as_json(type="cancel", id="nobody"),
        as_json(type="video_frame", frame="AAAA", ts="x"), as_json(type="resume", token="t"),
        "[" * 5000,
    ]  # fmt: skip

    async def story():
        async with running() as server:
            errors = await errors_of(server, *messages)
            peer = await server.peer()
            for image in (spoiled, "AAAA", "/etc/passwd", base64.b64encode(bytes(60)).decode()):
                await say(peer, type="image_input", image=image, id="p")
                errors.append(await hear(peer))
            return errors

    errors = asyncio.run(story())

    assert len(errors) >= len(messages)
    for error in errors:
        assert not TELLING.search(json.dumps(error)), error
