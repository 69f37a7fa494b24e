"""`mlx serve` as a process of its own, and a peer that talks to it in plain JSON."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from PIL import Image, ImageDraw
from websockets.asyncio.client import ClientConnection, connect

START_SECONDS = 300.0
REPLY_SECONDS = 120.0
TERMINAL = ("response_complete", "error", "frame_dropped")


class Server:
    """A running server. `lines` is what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self._up = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            found = re.search(r"ws://localhost:\d+", line)
            if found and not self.url:
                self.url = found.group()
                self._up.set()
        self._up.set()

    def wait_until_up(self) -> None:
        if not self._up.wait(START_SECONDS) or not self.url:
            raise RuntimeError("The server did not start:\n" + "\n".join(self.lines))

    @property
    def worker(self) -> psutil.Process | None:
        """The model's process, if there is one now."""
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if "mlx_websockets.engine.worker" in child.cmdline():
                    return child
        return None

    def stop(self) -> int:
        """Ask it to end, as a service manager does; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextlib.contextmanager
def serve(model: str | Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """`mlx serve` on a port of the system's choosing, for this machine only."""
    command = [
        sys.executable,
        "-m",
        "mlx_websockets",
        "serve",
        "--model",
        str(model),
        "--port",
        "0",
        "--host",
        "localhost",
        *flags,
    ]
    with tempfile.TemporaryDirectory(prefix="mlx-ws-") as state:  # on no record of the user's
        environment = {**os.environ, "MLX_WS_STATE": state, **(env or {})}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        server = Server(process)
        try:
            server.wait_until_up()
            yield server
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Have a program that may still run end, in order or not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Reply:
    """What came back for one request, and when (seconds of a monotonic clock)."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    asked_at: float = 0.0

    @property
    def end(self) -> dict[str, Any]:
        return self.messages[-1]

    @property
    def tokens(self) -> list[str]:
        return [message["content"] for message in self.messages if message["type"] == "token"]

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.asked_at

    @property
    def first_token_seconds(self) -> float:
        return (
            next(at for at, each in zip(self.times, self.messages, strict=True) if each["type"] == "token")
            - self.asked_at
        )


class Peer:
    """One connection. Requests with an id may run side by side; those without, one at a time."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.strays: list[dict[str, Any]] = []
        self._replies: dict[str | None, Reply] = {}
        self._ended: dict[str | None, asyncio.Event] = {}
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for data in self.socket:
            message = json.loads(data)
            reply = self._replies.get(message.get("id"))
            if reply is None:
                self.strays.append(message)
                continue
            reply.messages.append(message)
            reply.times.append(time.monotonic())
            if message["type"] in TERMINAL:
                self._ended[message.get("id")].set()

    async def begin(self, **message: Any) -> Reply:
        """Send a request; its messages gather in the reply."""
        id = message.get("id")
        reply = self._replies[id] = Reply(asked_at=time.monotonic())
        self._ended[id] = asyncio.Event()
        await self.socket.send(json.dumps(message))
        return reply

    async def end_of(self, id: str | None = None) -> Reply:
        await asyncio.wait_for(self._ended[id].wait(), REPLY_SECONDS)
        return self._replies[id]

    async def ask(self, **message: Any) -> Reply:
        """Send a request and wait for its end."""
        await self.begin(**message)
        return await self.end_of(message.get("id"))

    async def close(self) -> None:
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader


@contextlib.asynccontextmanager
async def peer(url: str, **options: Any) -> AsyncIterator[Peer]:
    async with connect(url, max_size=None, compression=None, proxy=None, **options) as socket:
        one = Peer(socket)
        try:
            yield one
        finally:
            await one.close()


def drawn(shape: str, color: str, size: tuple[int, int] = (320, 320), format: str = "PNG") -> bytes:
    """A picture file of one shape ("circle" or "square") on white."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    box = (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4)
    if shape == "circle":
        draw.ellipse(box, fill=color)
    else:
        draw.rectangle(box, fill=color)
    file = io.BytesIO()
    picture.save(file, format)
    return file.getvalue()
