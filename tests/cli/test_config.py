"""`mlx config`, as a program of its own."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOKEN = "a-token-of-some-length"


class Mlx:
    """The program in a folder of its own, with a home of its own."""

    def __init__(self, root: Path) -> None:
        self.folder, self.home = root / "here", root / "home"
        self.folder.mkdir()
        self.environment = {**os.environ, "HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / ".config")}

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mlx_websockets", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
            env={**self.environment, **environment},
        )


@pytest.fixture
def mlx(tmp_path: Path) -> Mlx:
    return Mlx(tmp_path)


def test_config_says_each_value_and_where_it_comes_from(mlx):
    user_file = Path(json.loads(mlx("config", "path", "--json").stdout)[1]["path"])
    user_file.parent.mkdir(parents=True)
    user_file.write_text("rows = 5\nport = 1")
    (mlx.folder / "mlx-websockets.toml").write_text("port = 2")

    told = mlx("config", "show", "--origin", "--seed", "3", MLX_WS_HOST="localhost")

    said = {line.split(" = ")[0]: line for line in told.stdout.splitlines()}
    assert (told.returncode, told.stderr) == (0, "")
    assert said["port"].startswith("port = 2 ")
    assert said["port"].endswith(f"# folder: {mlx.folder / 'mlx-websockets.toml'}")
    assert said["rows"].endswith(f"# user: {user_file}")
    assert said["host"].endswith("# environment: MLX_WS_HOST")
    assert said["seed"].endswith("# flag: --seed")
    assert said["temperature"].endswith("# default")


def test_what_config_shows_is_a_file_that_says_the_same(mlx):
    shown = mlx("config", "show", "--port", "9000", "--model", "demo", "--no-auth").stdout

    values = tomllib.loads(shown)

    assert (values["port"], values["model"], values["no_auth"]) == (9000, ["demo"], True)
    assert "seed" not in values


def test_config_for_programs_has_kind_and_name_of_each_origin(mlx):
    told = json.loads(mlx("config", "show", "--json", MLX_WS_ROWS="4").stdout)

    assert told["rows"] == {"value": 4, "origin": "environment", "name": "MLX_WS_ROWS"}
    assert told["seed"] == {"value": None, "origin": "default", "name": None}


def test_a_secret_is_never_shown(mlx):
    for flags in ((), ("--json",), ("--origin",)):
        told = mlx("config", "show", *flags, MLX_WS_TOKEN=TOKEN)

        assert "(hidden)" in told.stdout
        assert TOKEN not in told.stdout + told.stderr


def test_a_servers_settings_come_from_the_folders_file_and_it_says_so(mlx):
    (mlx.folder / "mlx-websockets.toml").write_text('model = "/no/such/folder"\nport = 0')

    told = mlx("serve")

    assert told.returncode == 5
    assert told.stdout.startswith(f"→ Settings from {mlx.folder / 'mlx-websockets.toml'}; ")


def test_a_background_server_reads_the_same_files_and_has_what_the_environment_said(mlx):
    (mlx.folder / "mlx-websockets.toml").write_text('model = "/no/such/folder"')

    told = mlx("background", "serve", MLX_WS_PORT="0", MLX_WS_STATE=str(mlx.home / "state"))

    assert told.returncode == 5
    assert "There is no folder /no/such/folder" in told.stderr


@pytest.mark.parametrize("command", [("serve",), ("background", "serve"), ("config", "show"), ("service", "install")])
def test_a_folders_file_that_would_open_the_server_stops_every_command(mlx, command):
    (mlx.folder / "mlx-websockets.toml").write_text("no_auth = true")

    told = mlx(*command)

    assert (told.returncode, told.stdout) == (2, "")
    assert "no_auth can't be set in a folder's file" in told.stderr
    assert "Traceback" not in told.stderr
