"""The examples do what they say, with a real server."""

import asyncio
import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
from PIL import Image
from tests.client.answering import answering_elsewhere
from websockets.sync.client import ClientConnection, connect

from mlx_websockets.generation import Delta, Finished, GenerationRequest, Started, Update

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 60.0
MAX_LINES = 60


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize("path", [path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".mjs", ".html")])
def test_an_example_is_short(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


# --- Python ---------------------------------------------------------------------------


class Camera:
    """A camera with three pictures."""

    def __init__(self) -> None:
        self._left = 3

    def read(self) -> tuple[bool, numpy.ndarray]:
        self._left -= 1
        return self._left >= 0, numpy.zeros((48, 64, 3), numpy.uint8)


def test_the_camera_is_described_up_to_its_last_picture(capsys):
    pytest.importorskip("cv2")
    with answering_elsewhere() as url:
        asyncio.run(example("python_camera.py").main(url, Camera()))

    assert capsys.readouterr().out.splitlines()[-1] == "2: What do you see?"


def test_the_screen_is_described(capsys):
    class Dark(Exception):
        pass

    screens = iter([Image.new("RGB", (1920, 1080))] * 3)

    def grab() -> Image.Image:
        if (image := next(screens, None)) is None:
            raise Dark
        return image

    with answering_elsewhere() as url, pytest.raises(Dark):
        asyncio.run(example("python_screen.py").main(url, grab, 0.01))

    assert set(capsys.readouterr().out.splitlines()) == {"Which program is this?"}


def test_a_question_about_a_picture_is_answered_and_timed():
    with answering_elsewhere() as url:
        told = run(sys.executable, EXAMPLES / "ask_about_a_picture.py", "--url", url)

    assert (told.returncode, told.stderr) == (0, "")
    assert re.fullmatch(r"What does the picture show\?\n\(\d+\.\d\d s\)\n", told.stdout)


def test_without_a_server_it_says_what_to_start():
    told = run(sys.executable, EXAMPLES / "ask_about_a_picture.py", "--url", "ws://localhost:9")

    assert (told.returncode, told.stdout) == (1, "")
    assert "make demo" in told.stderr


@pytest.mark.parametrize(
    ("reply", "reason", "status", "shown"),
    [
        ('{"shape": "circle", "colour": "red"}', "stop", 0, "shape: circle\ncolour: red\n"),
        ('{"shape": "cir', "length", 1, ""),
    ],
)
def test_an_answer_comes_in_fields_or_not_at_all(reply, reason, status, shown):
    asked: list[GenerationRequest] = []

    def script(request: GenerationRequest) -> list[Update]:
        asked.append(request)
        return [Started(request.id), Delta(request.id, reply), Finished(request.id, reason)]

    with answering_elsewhere(script) as url:
        told = run(sys.executable, EXAMPLES / "fields.py", "--url", url)

    assert (told.returncode, told.stdout) == (status, shown)
    [request] = asked
    assert request.choice.json_schema is not None and len(request.messages[-1].images) == 1


# --- JavaScript -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def node() -> list[str]:
    """Node with a WebSocket; one of version 20 has it behind a flag."""
    found = shutil.which("node")
    version = int(run(found, "--version").stdout[1:].partition(".")[0]) if found else 0
    if found is None or version < 20:
        pytest.skip("node is not here, or has no WebSocket")
    return [found] if version >= 22 else [found, "--experimental-websocket"]


def test_node_asks_about_a_picture(node):
    with answering_elsewhere() as url:
        told = run(*node, EXAMPLES / "node.mjs", url)

    assert (told.returncode, told.stdout) == (0, "What does the picture show?\n")


def test_node_says_that_there_is_no_server(node):
    told = run(*node, EXAMPLES / "node.mjs", "ws://localhost:9")

    assert told.returncode == 1
    assert "No server answers" in told.stderr


# --- the page -------------------------------------------------------------------------


@contextmanager
def files_served() -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(EXAMPLES)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def browser_at(url: str, profile: Path) -> Iterator[ClientConnection]:
    """The debugger of a page in a browser without a window."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not here")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    browser = subprocess.Popen([program, *flags, url], stderr=subprocess.PIPE, text=True, env={**os.environ})
    assert browser.stderr is not None
    try:
        address = next(found[1] for line in browser.stderr if (found := re.search(r"ws://(\S+?)/", line)))
        with urllib.request.urlopen(f"http://{address}/json", timeout=PATIENCE) as answer:
            page = next(each for each in json.load(answer) if each["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], proxy=None) as debugger:
            yield debugger
    finally:
        browser.terminate()
        browser.wait(PATIENCE)
        browser.stderr.close()


def value(debugger: ClientConnection, expression: str) -> Any:
    debugger.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": {"expression": expression}}))
    return json.loads(debugger.recv(PATIENCE))["result"]["result"].get("value")


def wait_for(debugger: ClientConnection, expression: str, wanted: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while (found := value(debugger, expression)) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_the_page_asks_and_shows_the_answer(tmp_path):
    with (
        answering_elsewhere() as url,
        files_served() as site,
        browser_at(f"{site}/one_file.html?{url}", tmp_path) as debugger,
    ):
        wait_for(debugger, "document.querySelector('button')?.disabled", False)
        value(debugger, "document.querySelector('[name=question]').value = 'Is it you?'")
        value(debugger, "document.querySelector('button').click()")

        wait_for(debugger, "document.querySelector('#reply').textContent", "Is it you?")
