"""The JavaScript client in Node against a real server. Skipped where there is no Node with a WebSocket."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.client.answering import answering_elsewhere

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NODE = shutil.which("node")


def node_flags() -> list[str]:
    """What this Node needs to have a WebSocket; skips if it has none."""
    if NODE is None:
        pytest.skip("node is not installed")
    major = int(
        subprocess.run([NODE, "-p", "process.versions.node"], capture_output=True, text=True).stdout.split(".")[0]
    )
    if major < 20:
        pytest.skip(f"node {major} has no WebSocket")
    return ["--experimental-websocket"] if major < 22 else []


def test_the_javascript_client_keeps_its_promises():
    flags = node_flags()
    assert NODE is not None

    with answering_elsewhere() as url:
        told = subprocess.run(
            [NODE, *flags, "--test", str(HERE / "client_stories.mjs")],
            env={**os.environ, "MLX_WS_URL": url},
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert told.returncode == 0, told.stdout + told.stderr


def test_the_types_of_the_wire_are_those_of_the_schema():
    told = subprocess.run(
        [sys.executable, str(ROOT / "scripts/update_js_types.py"), "--check"], capture_output=True, text=True
    )

    assert told.returncode == 0, told.stdout


def test_the_client_fits_its_types(tmp_path):
    tsc = shutil.which("tsc")
    if tsc is None:
        pytest.skip("tsc is not installed")
    options = "--noEmit --allowJs --checkJs --strict --target es2022 --module es2022 --moduleResolution bundler"
    client = ROOT / "src/mlx_websockets/server/playground/client.js"

    told = subprocess.run([tsc, *options.split(), str(client)], cwd=tmp_path, capture_output=True, text=True)

    assert told.returncode == 0, told.stdout
