"""A browser and a server for the page's stories.

The browser is the system's Chromium, with a camera that is made up; the server is `mlx serve` in a process of its
own, with real models. Where one of them can't be had, what needs it is skipped.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 120.0
STORY_MS = 60_000
TOKEN = "a-token-for-the-stories-of-the-page"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW_TO_GET_IT = "`make page-test` installs what it takes, but for Chromium"

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--auto-select-desktop-capture-source=Entire screen",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's `Browser`; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason=f"playwright is not here; {HOW_TO_GET_IT}")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("Chromium is not here; CHROMIUM=… names one elsewhere")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Server:
    """`mlx serve` on this machine, encrypted too, which can be stopped and started again in its place."""

    def __init__(self, *models: str | Path) -> None:
        self._models = [str(model) for model in models]
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.NamedTemporaryFile("w+", prefix="mlx-page-", suffix=".log")  # noqa: SIM115 - lives as long
        self.port, self.tls_port = free_port(), free_port()

    @property
    def address(self) -> str:
        return f"http://localhost:{self.port}/"

    def start(self) -> None:
        """Wait until it serves. Fails the test with the server's own words if it does not."""
        models = [word for model in self._models for word in ("--model", model)]
        ports = ["--port", str(self.port), "--tls", "auto", "--tls-port", str(self.tls_port)]
        command = [sys.executable, "-m", "mlx_websockets", "serve", *models, *ports]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "MLX_WS_TOKEN": TOKEN},
        )
        too_late = threading.Timer(START_SECONDS, self._process.kill)
        too_late.start()
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "Press Ctrl+C" in line:
                break
        too_late.cancel()
        self._log.seek(0)
        assert said, self._log.read()
        assert "Press Ctrl+C" in said[-1], "".join(said) + self._log.read()

    def stop(self) -> None:
        """End it as Ctrl-C does, and wait for that."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._process = None


@contextmanager
def serving(*models: str | Path) -> Iterator[Server]:
    """A server that runs while the block does."""
    server = Server(*models)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Cable:
    """A network between the browser and a server that a test can break.

    Args:
        port: the server's.
        address: whom the server takes us for; one that isn't loopback makes us another machine.
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._far_port = port
        self._address = address
        self._ends: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._live(),))
        self.port = 0

    def __enter__(self) -> "Cable":
        self._thread.start()
        assert self._is_up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._is_done.set)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection that is open; new ones work."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _live(self) -> None:
        self._is_done = asyncio.Event()
        server = await asyncio.start_server(self._joined, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._is_up.set()
        await self._is_done.wait()
        server.close()
        self._cut()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_end = asyncio.open_connection("127.0.0.1", self._far_port, local_addr=(self._address, 0))
        far_reader, far_writer = await far_end
        ends = {writer, far_writer}
        self._ends |= ends
        await asyncio.gather(_copied(reader, far_writer), _copied(far_reader, writer))
        self._ends -= ends


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # it was cut
    finally:
        writer.close()


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def network_address() -> str:
    """Where another machine would find this one; skips if it is on no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # sends nothing: it only asks which way it would go
        except OSError:
            pytest.skip("this machine is on no network")
        address: str = probe.getsockname()[0]
        return address


def violations(page: Any) -> list[str]:
    """What axe has against the page as it stands, a line each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {' '.join(node['html'] for node in each['nodes'])}" for each in found]
