"""A camera that stands still costs the model nothing; what changes is seen, however slowly."""

import asyncio
import io

from PIL import Image as Pillow
from serving import StartableScriptedEngine, hear, hear_until, running, say

from mlx_websockets.generation import GenerationRequest, Update
from mlx_websockets.protocols.native_schema import encode_binary_media
from mlx_websockets.testing import whole_reply


def shade(value: int) -> bytes:
    """A picture of one shade of grey, as a PNG file."""
    file = io.BytesIO()
    Pillow.new("RGB", (64, 48), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def describe(request: GenerationRequest) -> list[Update]:
    return whole_reply(request.id, "Grey.")


async def fate(socket, value: int) -> str:
    """What becomes of a frame of this shade."""
    await socket.send(encode_binary_media({"type": "video_frame", "source": "door", "mime": "image/png"}, shade(value)))
    while (message := await hear(socket))["type"] not in ("response_complete", "frame_dropped"):
        pass
    return message.get("reason", "described")


def test_a_still_camera_costs_the_model_one_frame():
    async def story():
        async with running(StartableScriptedEngine(describe), unchanged_threshold=0.03) as server:
            socket = await server.peer()

            fates = [await fate(socket, 100) for _ in range(20)]

            assert fates == ["described"] + ["unchanged"] * 19
            assert len(server.engine.requests) == 1

    asyncio.run(story())


def test_a_slow_change_is_seen_once_it_adds_up():
    async def story():
        async with running(StartableScriptedEngine(describe), unchanged_threshold=0.03) as server:
            socket = await server.peer()

            fates = [await fate(socket, 100 + step) for step in range(17)]

            assert [step for step, each in enumerate(fates) if each == "described"] == [0, 8, 16]

    asyncio.run(story())


def test_a_connection_may_set_its_own_threshold_and_switch_it_off():
    async def story():
        async with running(StartableScriptedEngine(describe), unchanged_threshold=0.03) as server:
            socket = await server.peer()
            await say(socket, type="config", unchangedThreshold=0)
            await hear_until(socket, "config_updated")

            assert [await fate(socket, 100) for _ in range(3)] == ["described"] * 3

    asyncio.run(story())
