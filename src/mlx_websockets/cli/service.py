"""`mlx service`: a server that the system starts at login and keeps alive."""

import argparse
import sys
from pathlib import Path

from mlx_websockets.cli import serve
from mlx_websockets.cli.app import Action
from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.presence import flags_of
from mlx_websockets.daemon.service import Plan, manager, plan


def _add_install_flags(flags: "argparse._ArgumentGroup") -> None:
    serve.add_flags(flags)
    flags.add_argument("--print", action="store_true", help="Print the service's file and install nothing.")


def _install(arguments: argparse.Namespace) -> None:
    """Raises StartError: the system's tool is not here, or refused."""
    wanted: Plan = plan(flags_of(serve.settings_of(arguments)), Path.cwd())
    keeper, console = manager(), Console(sys.stdout)
    if arguments.print:
        console.text(keeper.text(wanted).rstrip("\n"))
        return
    keeper.install(wanted)
    console.success(f"Installed {keeper.path}")
    console.info("It starts now and at every login. `mlx status` says how it is, `mlx service uninstall` ends that.")


def _add_no_flags(flags: "argparse._ArgumentGroup") -> None:
    pass


def _uninstall(arguments: argparse.Namespace) -> None:
    """Raises NotRunning: it is not installed. StartError: the system's tool is not here, or refused."""
    keeper = manager()
    keeper.uninstall()
    Console(sys.stdout).success(f"Stopped, and removed {keeper.path}")


def _add_status_flags(flags: "argparse._ArgumentGroup") -> None:
    flags.add_argument("--json", action="store_true", help="Print it as JSON.")


def _status(arguments: argparse.Namespace) -> None:
    """Raises NotRunning: it is not installed. StartError: the system's tool is not here."""
    keeper = manager()
    state = keeper.status()
    if arguments.json:
        print_json({"state": state, "file": str(keeper.path)})
    else:
        Console(sys.stdout).table([("Service", state), ("File", str(keeper.path))])


install = Action(_add_install_flags, _install)
uninstall = Action(_add_no_flags, _uninstall)
status = Action(_add_status_flags, _status)
