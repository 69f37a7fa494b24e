"""The JavaScript client in Node against a real server. Skipped where there is no Node with a WebSocket."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from tests.client.answering import answering_elsewhere

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CLIENT = ROOT / "src/mlx_websockets/server/playground/client.js"
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


def checked(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """What the TypeScript compiler has against it; skips where there is none."""
    tsc = shutil.which("tsc")
    if tsc is None:
        pytest.skip("tsc is not installed")
    options = "--noEmit --strict --target es2022 --module es2022 --moduleResolution bundler"
    return subprocess.run([tsc, *options.split(), *command], cwd=folder, capture_output=True, text=True)


def test_the_client_fits_its_types(tmp_path):
    told = checked(tmp_path, "--allowJs", "--checkJs", CLIENT)

    assert told.returncode == 0, told.stdout


# --- the package ----------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of somebody who has installed the package that `npm pack` makes of a checkout."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    for each in (ROOT / "clients/js", ROOT / "LICENSE", CLIENT):
        place = tmp_path / "checkout" / each.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if each.is_dir() else shutil.copy)(each, place)
    packed = subprocess.run(
        [npm, "pack", "--silent", "--offline"], cwd=tmp_path / "checkout/clients/js", capture_output=True, text=True
    )
    assert packed.returncode == 0, packed.stderr
    home = tmp_path / "node_modules"
    home.mkdir()
    with tarfile.open(tmp_path / "checkout/clients/js" / packed.stdout.strip()) as package:
        package.extractall(home, filter="data")
    (home / "package").rename(home / "mlx-websockets")
    return tmp_path


def test_the_package_holds_what_it_needs_and_nothing_else(installed: Path):
    package = installed / "node_modules/mlx-websockets"

    names = {each.name for each in package.iterdir()}
    assert names == {"index.d.ts", "index.js", "package.json", "README.md", "LICENSE"}
    assert "dependencies" not in json.loads((package / "package.json").read_text())
    assert (package / "index.js").read_bytes() == CLIENT.read_bytes()


def test_the_package_is_imported_by_its_name_and_asks(installed: Path):
    flags = node_flags()
    (installed / "ask.mjs").write_text(
        """import { connect } from "mlx-websockets";
        const mlx = await connect(process.argv[2]);
        console.log(await mlx.ask("Is it you?").text);
        mlx.close();"""
    )

    with answering_elsewhere() as url:
        told = subprocess.run(
            [str(NODE), *flags, "ask.mjs", url], cwd=installed, capture_output=True, text=True, timeout=60
        )

    assert told.stdout == "Is it you?\n", told.stderr


def test_what_the_types_export_is_what_the_package_exports(installed: Path):
    flags = node_flags()
    program = 'import * as all from "mlx-websockets"; console.log(Object.keys(all).join(" "))'

    told = subprocess.run(
        [str(NODE), *flags, "--input-type=module", "-e", program], cwd=installed, capture_output=True, text=True
    )

    types = (installed / "node_modules/mlx-websockets/index.d.ts").read_text()
    assert set(told.stdout.split()) == set(re.findall(r"^export (?:class|function) (\w+)", types, re.MULTILINE))


def test_a_program_in_typescript_passes_the_strictest_check(installed: Path):
    shutil.copy(HERE / "consumer.ts", installed)

    told = checked(installed, "consumer.ts")

    assert told.returncode == 0, told.stdout
