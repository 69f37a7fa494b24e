"""A server that the system starts at login and keeps alive: launchd on macOS, systemd on Linux.

The system's own tool does the work; here are the file it wants and the calls it takes. Where
it can't be reached, the error says what to run by hand.
"""

import os
import plistlib
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlx_websockets.daemon.log import LOG_VARIABLE
from mlx_websockets.daemon.process import SERVE_COMMAND
from mlx_websockets.daemon.records import Records
from mlx_websockets.errors import NotRunning, StartError

LABEL = "com.lujstn.mlx-websockets"
UNIT = "mlx-websockets.service"
TOOL_SECONDS = 60.0
KEPT_VARIABLES = ("MLX_WS_STATE", "MLX_WS_BLAS", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE")
"""Of the environment at installation these go into the service's: folders and switches, no secrets."""


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Tell systemd how the server is ("READY=1"), if it asked to be told; failing that changes nothing."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
            teller.settimeout(1.0)
            teller.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
    except OSError:
        return


@dataclass(frozen=True, slots=True)
class Plan:
    """What the service is to run."""

    arguments: Sequence[str]
    folder: Path
    variables: Mapping[str, str]

    @property
    def command(self) -> list[str]:
        return [*SERVE_COMMAND, *self.arguments]


def plan(arguments: Sequence[str], folder: Path, environment: Mapping[str, str] = os.environ) -> Plan:
    """A plan with these flags of `mlx serve`, and what of the environment decides how it runs."""
    kept = {name: environment[name] for name in KEPT_VARIABLES if environment.get(name)}
    return Plan(arguments, folder, kept)


class Manager(Protocol):
    """The system's way of keeping services."""

    path: Path
    """The file that it wants."""

    def text(self, plan: Plan) -> str:
        """What is to stand in that file."""
        ...

    def install(self, plan: Plan) -> None:
        """Write the file, and have the service started now and at every login.

        Raises:
            StartError: the file can't be written, or the system's tool can't be reached or refused.
        """
        ...

    def uninstall(self) -> None:
        """Stop the service and remove its file.

        Raises:
            NotRunning: it is not installed.
            StartError: the system's tool can't be reached or refused.
        """
        ...

    def status(self) -> str:
        """What the system's tool says of it, in a word or two.

        Raises:
            NotRunning: it is not installed.
            StartError: the system's tool can't be reached.
        """
        ...


def manager(platform: str = sys.platform, home: Path | None = None) -> Manager:
    """That of this system."""
    home = Path.home() if home is None else home
    return Launchd(home) if platform == "darwin" else Systemd(home)


class Systemd:
    """A unit of the user's own systemd."""

    def __init__(self, home: Path) -> None:
        self.path = home / ".config" / "systemd" / "user" / UNIT

    def text(self, plan: Plan) -> str:
        variables = "".join(f"Environment={_unit_word(f'{name}={value}')}\n" for name, value in plan.variables.items())
        return f"""[Unit]
Description=mlx-websockets: a vision-language model over WebSocket
Documentation=https://github.com/lujstn/mlx-websockets

[Service]
Type=notify
NotifyAccess=main
ExecStart={" ".join(_unit_word(word, is_command=True) for word in plan.command)}
WorkingDirectory={str(plan.folder).replace("%", "%%")}
{variables}Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2 4 5 6 7 8
TimeoutStartSec=infinity
TimeoutStopSec=30
NoNewPrivileges=true

[Install]
WantedBy=default.target
"""

    def install(self, plan: Plan) -> None:
        _write(self.path, self.text(plan))
        by_hand = f"systemctl --user daemon-reload && systemctl --user enable {UNIT} && systemctl --user restart {UNIT}"
        _call(["systemctl", "--user", "daemon-reload"], by_hand)
        _call(["systemctl", "--user", "enable", UNIT], by_hand)
        _call(["systemctl", "--user", "--no-block", "restart", UNIT], by_hand)

    def uninstall(self) -> None:
        _require(self.path)
        _call(
            ["systemctl", "--user", "disable", "--now", UNIT], f"systemctl --user disable --now {UNIT}; rm {self.path}"
        )
        self.path.unlink(missing_ok=True)
        _call(["systemctl", "--user", "daemon-reload"], "systemctl --user daemon-reload")

    def status(self) -> str:
        _require(self.path)
        return _call(["systemctl", "--user", "is-active", UNIT], f"systemctl --user status {UNIT}", may_fail=True)


class Launchd:
    """An agent of the user's own launchd."""

    def __init__(self, home: Path) -> None:
        self.path = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"

    def text(self, plan: Plan) -> str:
        log = str(Records.of_this_user(plan.variables).logs / "service.log")
        agent = {
            "Label": LABEL,
            "ProgramArguments": plan.command,
            "WorkingDirectory": str(plan.folder),
            "EnvironmentVariables": {**plan.variables, LOG_VARIABLE: log},
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 10,
            "ExitTimeOut": 30,
            "ProcessType": "Interactive",  # otherwise macOS slows it down in the background
        }
        return plistlib.dumps(agent, sort_keys=False).decode()

    def install(self, plan: Plan) -> None:
        _write(self.path, self.text(plan))
        by_hand = f"launchctl bootstrap {self._domain} {self.path}"
        _call(["launchctl", "bootout", f"{self._domain}/{LABEL}"], by_hand, may_fail=True)  # an older one
        _call(["launchctl", "bootstrap", self._domain, str(self.path)], by_hand)

    def uninstall(self) -> None:
        _require(self.path)
        by_hand = f"launchctl bootout {self._domain}/{LABEL}; rm {self.path}"
        _call(["launchctl", "bootout", f"{self._domain}/{LABEL}"], by_hand, may_fail=True)  # not loaded is fine
        self.path.unlink(missing_ok=True)

    def status(self) -> str:
        _require(self.path)
        by_hand = f"launchctl print {self._domain}/{LABEL}"
        said = _call(["launchctl", "print", f"{self._domain}/{LABEL}"], by_hand, may_fail=True)
        state = re.search(r"^\s*state = (.+)$", said, re.MULTILINE)
        return state.group(1) if state else "not loaded"

    @property
    def _domain(self) -> str:
        return f"gui/{os.getuid()}"


def _unit_word(word: str, *, is_command: bool = False) -> str:
    """A word as systemd reads it back unchanged: quoted, with what it would expand doubled."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return f'"{escaped.replace("$", "$$") if is_command else escaped}"'


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise StartError(
            f"The service's file can't be written: {error}.", "`mlx service install --print` shows it."
        ) from None


def _require(path: Path) -> None:
    if not path.is_file():
        raise NotRunning(f"No service is installed: there is no {path}.", "mlx service install")


def _call(command: Sequence[str], by_hand: str, *, may_fail: bool = False) -> str:
    """What the system's tool says.

    Raises:
        StartError: there is no such tool here, it does not answer, or it failed and may not.
    """
    tool = shutil.which(command[0])
    if tool is None:
        raise StartError(f"There is no {command[0]} here to do this with.", f"Where there is, run: {by_hand}")
    try:
        done = subprocess.run(  # noqa: S603 - the system's own tool, our own words
            [tool, *command[1:]], capture_output=True, text=True, timeout=TOOL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"{command[0]} does not answer: {error}.", f"Run: {by_hand}") from None
    if done.returncode != 0 and not may_fail:
        said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise StartError(f"{command[0]} refused: {said}", f"Run: {by_hand}")
    return (done.stdout or done.stderr).strip()
