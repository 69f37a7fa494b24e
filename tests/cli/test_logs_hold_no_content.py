"""A full session with marked words and pictures, the log at its chattiest: none of it is there."""

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from websockets.asyncio.client import connect

from mlx_websockets.protocols.native_schema import SUBPROTOCOL, encode_binary_media

MARK = "CANARY7e1f"
PATIENCE = 60.0


def _noise() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 48), 90).save(file, "PNG")
    return file.getvalue()


PICTURE = _noise()


async def a_full_session(url: str) -> list[str]:
    """Everything a peer can say, all of it marked; returns the replies' texts."""
    image, replies = PICTURE, []
    encoded = base64.b64encode(image).decode()
    requests = [
        {"type": "text_input", "content": f"{MARK} prompt", "context": f"{MARK} context", "history": True},
        {"type": "text_input", "content": f"{MARK} again", "system": f"{MARK} system", "stop": [f"{MARK} stop"]},
        {"type": "image_input", "image": encoded, "prompt": f"{MARK} look", "source": f"{MARK} source"},
        {"type": "video_frame", "frame": encoded, "frame_id": f"{MARK} frame", "source": f"{MARK} camera"},
        {"type": "image_input", "image": f"{MARK}", "prompt": f"{MARK} no picture"},
    ]
    nonsense = [MARK, f'{{"type": "{MARK}"}}', f'{{"type": "text_input", "content": {{"{MARK}": 1}}}}', MARK.encode()]
    async with connect(url, subprotocols=[SUBPROTOCOL]) as socket, asyncio.timeout(PATIENCE):
        for number, request in enumerate(requests):
            await socket.send(json.dumps(request | {"id": f"{MARK} {number}"}))
        await socket.send(encode_binary_media({"type": "image_input", "mime": "image/png", "id": f"{MARK} b"}, image))
        for each in nonsense:
            await socket.send(each)
        open_ids = {f"{MARK} {number}" for number in range(len(requests))} | {f"{MARK} b"}
        while open_ids:
            message = json.loads(await socket.recv())
            if message["type"] in ("response_complete", "error", "frame_dropped"):
                open_ids.discard(message.get("id"))
                replies.append(message.get("full_text", ""))
    return [reply for reply in replies if len(reply) > 8]


@pytest.mark.parametrize("format", ["text", "json"])
def test_no_word_and_no_picture_of_a_session_reaches_a_log(tiny_gemma3: Path, tmp_path: Path, format: str):
    log = tmp_path / "log"
    command = [sys.executable, "-m", "mlx_websockets", "serve", "--model", str(tiny_gemma3), "--port", "0"]
    flags = ["--host", "localhost", "--debug", "--log-format", format, "--show-warnings", "--max-tokens", "24"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [*command, *flags],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        ) as server,
    ):
        try:
            assert server.stdout is not None
            said = []
            for line in server.stdout:
                said.append(line)
                if "Press Ctrl+C" in line:
                    break
            url = next(word for line in said for word in line.split() if word.startswith("ws://"))
            replies = asyncio.run(a_full_session(url))
        finally:
            server.terminate()
        rest = server.stdout.read()
        server.wait(PATIENCE)

    written = log.read_text("utf-8") + "".join(said) + rest
    assert len(replies) >= 4
    assert MARK not in written
    assert base64.b64encode(PICTURE).decode()[600:624] not in written and repr(PICTURE[600:612])[2:-1] not in written
    assert [reply for reply in replies if reply in written or json.dumps(reply)[1:-1] in written] == []
    if format == "json":
        lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        about = [line for line in lines if line["message"] == "reply finished"]
        assert len(about) >= 4 and all({"session", "turn"} <= line.keys() for line in about)
    else:
        assert "reply finished" in written and "turn=" in written and "session=" in written
