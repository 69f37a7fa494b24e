"""`mlx demo`: a server, and a page that shows something by itself."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_websockets.cli.announcement import local_page, page_of
from mlx_websockets.cli.demo import has_screen
from mlx_websockets.server.addresses import Addresses

ADDRESSES = Addresses(8765, "ws://localhost:8765", ("ws://10.0.0.2:8765",))


def demo(*flags: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mlx_websockets", "demo", "--host", "localhost", "--port", "0", *flags]
    inherited = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**inherited, **environment})


def said_until(server: "subprocess.Popen[str]", end: str) -> str:
    assert server.stdout is not None
    said = []
    for line in server.stdout:
        said.append(line)
        if end in line:
            break
    return "".join(said)


def page_in(said: str) -> str:
    found = re.search(r"^  Page: +(http://localhost:\d+/\?demo)$", said, re.MULTILINE)
    assert found is not None, said
    return found[1]


def test_the_page_is_opened_in_the_users_browser(tmp_path: Path, tiny_gemma3: Path):
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)

    with demo("--open", "--model", str(tiny_gemma3), BROWSER=str(browser)) as server:
        said = said_until(server, "Press Ctrl+C")
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)

    assert opened.read_text().strip() == page_in(said)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a screen")
def test_without_a_screen_the_address_is_told(tiny_gemma3: Path):
    with demo("--open", "--model", str(tiny_gemma3)) as server:
        said = said_until(server, "in a browser")
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)

    assert f"→ Open {page_in(said)} in a browser; none was found here." in said


def test_a_phone_gets_the_same_page_with_the_token():
    assert local_page(ADDRESSES, is_demo=True) == "http://localhost:8765/?demo"
    assert page_of(ADDRESSES, "abc", is_demo=True) == "http://10.0.0.2:8765/?token=abc&demo"
    assert page_of(ADDRESSES, None, is_demo=True) == "http://10.0.0.2:8765/?demo"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a screen")
def test_a_browser_that_the_user_named_needs_no_screen():
    assert has_screen({"BROWSER": "firefox"})
    assert has_screen({"WAYLAND_DISPLAY": "wayland-0"})
    assert not has_screen({})
