import os
import plistlib
import socket
import sys
from pathlib import Path

import pytest

from mlx_websockets.daemon.service import Launchd, Plan, Systemd, manager, notify, plan
from mlx_websockets.errors import NotRunning, StartError

PLAN = Plan(["--model=demo", "--port=9000"], Path("/home/me/100% mine"), {"HF_HOME": '/data/"hub"'})


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for systemctl and launchctl: writes down how it was called, fails if told to."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"
    for name in ("systemctl", "launchctl"):
        script = folder / name
        script.write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\necho "$TOOL_SAYS"\nexit ${{TOOL_STATUS:-0}}\n')
        script.chmod(0o755)
    calls.touch()
    monkeypatch.setenv("PATH", str(folder))
    return calls


# --- systemd --------------------------------------------------------------------------


def test_a_unit_says_what_to_run_and_that_it_will_tell_when_it_is_ready(tmp_path):
    unit = Systemd(tmp_path).text(PLAN)

    assert f'ExecStart="{sys.executable}" "-P" "-m" "mlx_websockets" "serve" "--model=demo" "--port=9000"\n' in unit
    assert "Type=notify\n" in unit
    assert "WorkingDirectory=/home/me/100%% mine\n" in unit
    assert 'Environment="HF_HOME=/data/\\"hub\\""\n' in unit


def test_nothing_in_a_flag_means_anything_to_systemd(tmp_path):
    unit = Systemd(tmp_path).text(Plan(['--chat-template={% $x "a b" \\ %}\n[Install]'], Path("/"), {}))

    assert '"--chat-template={%% $$x \\"a b\\" \\\\ %%}\\n[Install]"\n' in unit


def test_installing_writes_the_unit_and_starts_it(tmp_path, tool):
    keeper = Systemd(tmp_path)

    keeper.install(PLAN)

    assert keeper.path == tmp_path / ".config/systemd/user/mlx-websockets.service"
    assert keeper.text(PLAN) == keeper.path.read_text()
    assert tool.read_text().splitlines() == [
        "systemctl --user daemon-reload",
        "systemctl --user enable mlx-websockets.service",
        "systemctl --user --no-block restart mlx-websockets.service",
    ]


def test_uninstalling_stops_it_and_removes_the_unit(tmp_path, tool):
    keeper = Systemd(tmp_path)
    keeper.install(PLAN)

    keeper.uninstall()

    assert not keeper.path.exists()
    assert "systemctl --user disable --now mlx-websockets.service" in tool.read_text()


@pytest.mark.parametrize("kind", [Systemd, Launchd])
def test_what_is_not_installed_is_told_with_what_installs_it(tmp_path, tool, kind):
    keeper = kind(tmp_path)

    for action in (keeper.uninstall, keeper.status):
        with pytest.raises(NotRunning, match="No service is installed") as failure:
            action()
        assert "mlx service install" in failure.value.hint


@pytest.mark.parametrize(("kind", "name"), [(Systemd, "systemctl --user"), (Launchd, "launchctl bootstrap")])
def test_without_the_systems_tool_it_says_what_to_run(tmp_path, monkeypatch, kind, name):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(StartError, match="There is no") as failure:
        kind(tmp_path).install(PLAN)

    assert name in failure.value.hint


def test_a_refusal_is_told_in_the_tools_own_words(tmp_path, tool, monkeypatch):
    monkeypatch.setenv("TOOL_STATUS", "1")
    monkeypatch.setenv("TOOL_SAYS", "Failed to connect to bus")

    with pytest.raises(StartError, match="systemctl refused: Failed to connect to bus"):
        Systemd(tmp_path).install(PLAN)


def test_the_status_is_what_systemd_says_even_if_that_is_a_failure(tmp_path, tool, monkeypatch):
    keeper = Systemd(tmp_path)
    keeper.install(PLAN)
    monkeypatch.setenv("TOOL_STATUS", "3")
    monkeypatch.setenv("TOOL_SAYS", "inactive")

    assert keeper.status() == "inactive"


# --- launchd --------------------------------------------------------------------------


def test_an_agent_is_a_property_list_with_a_log_that_turns(tmp_path):
    agent = plistlib.loads(Launchd(tmp_path).text(PLAN).encode())

    assert [sys.executable, "-P", "-m", "mlx_websockets", "serve", *PLAN.arguments] == agent["ProgramArguments"]
    assert agent["EnvironmentVariables"]["HF_HOME"] == '/data/"hub"'
    assert agent["EnvironmentVariables"]["MLX_WS_LOG"].endswith("logs/service.log")
    assert agent["KeepAlive"] == {"SuccessfulExit": False}


def test_an_agent_is_installed_asked_for_and_removed(tmp_path, tool, monkeypatch):
    keeper = Launchd(tmp_path)
    monkeypatch.setenv("TOOL_SAYS", "com.lujstn.mlx-websockets = {\n\tstate = running\n}")

    keeper.install(PLAN)
    state = keeper.status()
    keeper.uninstall()

    assert state == "running"
    assert not keeper.path.exists()
    domain = f"gui/{os.getuid()}"
    assert f"launchctl bootstrap {domain} {keeper.path}" in tool.read_text().splitlines()
    assert tool.read_text().splitlines()[-1] == f"launchctl bootout {domain}/com.lujstn.mlx-websockets"


# --- both -----------------------------------------------------------------------------


def test_each_system_has_its_manager(tmp_path):
    assert isinstance(manager("darwin", tmp_path), Launchd)
    assert isinstance(manager("linux", tmp_path), Systemd)


def test_of_the_environment_only_folders_and_switches_are_kept():
    kept = plan([], Path("/"), {"HF_HOME": "/data", "HF_TOKEN": "secret", "HF_ENDPOINT": ""}).variables

    assert kept == {"HF_HOME": "/data"}


@pytest.mark.parametrize(
    "name",
    [
        "socket",
        pytest.param("@", marks=pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux'")),
    ],
)
def test_systemd_hears_when_the_server_is_ready(tmp_path, name):
    address = str(tmp_path / name) if name == "socket" else f"@{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0", 1) if name == "@" else address)
        systemd.settimeout(5)

        notify("READY=1", {"NOTIFY_SOCKET": address})

        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nobody/listens/here"])
def test_with_nobody_to_tell_nothing_happens(address):
    notify("READY=1", {"NOTIFY_SOCKET": address})
