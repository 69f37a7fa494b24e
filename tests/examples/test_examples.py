"""The examples do what they say, with a real server."""

import asyncio
import contextlib
import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import typing
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy
import pytest
from PIL import Image
from tests.client.answering import answering_elsewhere
from websockets.sync.client import ClientConnection, connect

from mlx_websockets.generation import Delta, Finished, GenerationRequest, Started, Update
from mlx_websockets.protocols import native_schema as wire

DOCS = Path(__file__).parents[2] / "docs"
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


# --- lines in the documentation ---------------------------------------------------------


def lines_about(program: str) -> list[str]:
    """The shell blocks of the page about other programs that use one."""
    page = (DOCS / "howto/other-programs.md").read_text("utf-8")
    blocks = [textwrap.dedent(block) for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)]
    return [block for block in blocks if program in block]


def said_in_a_shell(line: str, folder: Path, url: str, end: str) -> str:
    """What a line prints up to `end`; it is ended then."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": places, "MLX_WS_URL": url}
    shell = subprocess.Popen(
        ["bash", "-c", line], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, process_group=0
    )
    too_late = threading.Timer(PATIENCE, os.killpg, (shell.pid, signal.SIGKILL))
    too_late.start()
    assert shell.stdout is not None
    said = ""
    while end not in said and (more := shell.stdout.read(1)):
        said += more
    too_late.cancel()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    shell.stdout.close()
    return said


@pytest.mark.parametrize(
    ("line", "end"),
    list(zip(lines_about("websocat -n"), ['"full_text":"Why is the sky blue?"', "Why is the sky blue?"], strict=True)),
    ids=["every message", "only the words"],
)
def test_websocat_asks(line, end, tmp_path):
    needed = ["websocat", *(["jq"] if "jq" in line else [])]
    for program in needed:
        if not (shutil.which(program) or Path(sys.executable).with_name(program).exists()):
            pytest.skip(f"{program} is not here")

    with answering_elsewhere() as url:
        said = said_in_a_shell(line.replace("ws://localhost:8765", url), tmp_path, url, end)

    assert end in said


def test_a_description_is_kept_in_a_file_that_obs_reads(tmp_path):
    if shutil.which("jq") is None:
        pytest.skip("jq is not here")
    [line] = lines_about("seen.txt")

    with answering_elsewhere() as url:
        said_in_a_shell(line.replace("--camera 0", "--demo --count 1 --prompt Hello"), tmp_path, url, "never said")

    assert (tmp_path / "seen.txt").read_text() == "Hello\n"


def test_the_swift_listing_says_and_reads_what_is_on_the_wire():
    listing = (DOCS / "howto/swift.md").read_text("utf-8")
    fields = {
        name: set(re.findall(r"let (\w+)", body))
        for name, body in re.findall(r"struct (\w+).*?\{(.*?)\}", listing, re.DOTALL)
    }
    heard = {field for kind in typing.get_args(wire.ServerMessage) for field in names_of(kind)}

    assert fields["Question"] <= names_of(wire.ImageInput) | {"type"}
    assert 'type = "image_input"' in listing
    assert fields["Answer"] <= heard | {"type"}
    assert set(re.findall(r'case "(\w+)"', listing)) <= {
        msgspec.inspect.type_info(kind).tag for kind in typing.get_args(wire.ServerMessage)
    }


def names_of(kind: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


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
