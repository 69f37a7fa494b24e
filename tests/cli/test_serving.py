"""The whole of it: the real `mlx serve`, a real model, the example as its client."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/ask_about_a_picture.py"


def start(*flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mlx_websockets", "serve", *flags]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def lines_until(server: "subprocess.Popen[str]", end: str) -> list[str]:
    assert server.stdout is not None
    lines = []
    for line in server.stdout:
        lines.append(line.rstrip("\n"))
        if end in line:
            return lines
    raise AssertionError(f"{end!r} was never said; but: {lines}")


@pytest.fixture(scope="module")
def served(tiny_gemma3: Path) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """A running server and what it said until it was ready."""
    with start("--model", str(tiny_gemma3), "--port", "0", "--host", "localhost", "--max-tokens", "8") as server:
        try:
            yield server, lines_until(server, "Press Ctrl+C")
        finally:
            server.kill()


def test_the_start_says_model_memory_backend_and_where_to_connect(served, tiny_gemma3):
    _, said = served

    told = "\n".join(said)

    assert f"→ Loading {tiny_gemma3}" == said[0]
    assert re.search(rf"^  Model: +{re.escape(str(tiny_gemma3))} \(text, and ", told, re.MULTILINE)
    assert re.search(r"^  Memory: +[\d.]+ [kMG]B in use$", told, re.MULTILINE)
    assert re.search(r"^  Backend: +(cpu|metal|cuda)", told, re.MULTILINE)
    assert re.search(r"^  Local: +ws://localhost:\d+$", told, re.MULTILINE)
    assert "On Your Network" not in told
    assert said[-1] == "Press Ctrl+C to stop the server."


def test_the_example_gets_an_answer_about_its_picture(served):
    _, said = served
    url = next(word for line in said for word in line.split() if word.startswith("ws://"))

    asked = subprocess.run([sys.executable, EXAMPLE, "--url", url], capture_output=True, text=True, timeout=60)

    assert (asked.returncode, asked.stderr) == (0, "")
    assert re.search(r"\(\d+\.\d\d s\)\n$", asked.stdout)


def test_ctrl_c_stops_a_server_in_order_with_status_0(tiny_gemma3):
    with start("--model", str(tiny_gemma3), "--port", "0", "--host", "localhost") as server:
        lines_until(server, "Press Ctrl+C")

        server.send_signal(signal.SIGINT)
        rest, errors = server.communicate(timeout=30)

    assert (server.returncode, errors) == (0, "")
    assert rest.splitlines() == ["→ Shutting down; Ctrl+C once more does not wait", "✓ Server stopped"]


def test_ctrl_c_while_loading_ends_with_130(tiny_gemma3):
    with start("--model", str(tiny_gemma3), "--port", "0") as server:
        lines_until(server, "Starting the libraries")

        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=30)

    assert (server.returncode, errors) == (130, "→ Stopped before it was done.\n")


def test_a_taken_port_ends_with_4_before_the_model_is_touched():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with start("--model", "/no/such/folder", "--port", str(port), "--host", "localhost") as server:
            _, errors = server.communicate(timeout=30)

    assert server.returncode == 4
    assert re.match(rf"✗ Port {port} .* in use.*\n→ .*--auto-port.*\n$", errors)


def test_a_folder_that_is_not_there_ends_with_5():
    with start("--model", "/no/such/folder", "--port", "0") as server:
        _, errors = server.communicate(timeout=60)

    assert server.returncode == 5
    assert re.match(r"✗ .*/no/such/folder.*\n→ .+\n$", errors)


def test_a_folder_without_weights_ends_with_8(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}')

    with start("--model", str(tmp_path), "--port", "0") as server:
        _, errors = server.communicate(timeout=60)

    assert server.returncode == 8
    assert errors.startswith("✗ ")
    assert "\n→ " in errors
