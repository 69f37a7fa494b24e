"""`mlx service`: a server that the system starts at login and keeps alive."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.flags import AsJson, Given, takes_settings
from mlx_websockets.cli.sources import resolve
from mlx_websockets.daemon.service import Plan, manager, plan
from mlx_websockets.errors import UsageError


@takes_settings
def install(
    given: Given,
    only_print: Annotated[
        bool, typer.Option("--print", metavar="", help="Print the service's file and install nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Raises StartError: the system's tool is not here, or refused; or a token was given, and not as a file."""
    found = resolve(given)
    if found.origins["token"].kind in ("flag", "environment"):
        raise UsageError(
            "A service has no place for a token that only this command is told.",
            "Put it into a file, and name that with --token-file. Left out, it is the one that `mlx token` shows.",
        )
    wanted: Plan = plan(found.flags(), Path.cwd())
    keeper, console = manager(), Console(sys.stdout)
    if only_print:
        console.text(keeper.text(wanted).rstrip("\n"))
        return
    keeper.install(wanted)
    if as_json:
        print_json({"file": str(keeper.path)})
        return
    console.success(f"Installed {keeper.path}")
    console.info("It starts now and at every login. `mlx status` says how it is, `mlx service uninstall` ends that.")


def uninstall(as_json: AsJson = False) -> None:
    """Raises NotRunning: it is not installed. StartError: the system's tool is not here, or refused."""
    keeper = manager()
    keeper.uninstall()
    if as_json:
        print_json({"file": str(keeper.path)})
        return
    Console(sys.stdout).success(f"Stopped, and removed {keeper.path}")


def status(as_json: AsJson = False) -> None:
    """Raises NotRunning: it is not installed. StartError: the system's tool is not here."""
    keeper = manager()
    state = keeper.status()
    if as_json:
        print_json({"state": state, "file": str(keeper.path)})
    else:
        Console(sys.stdout).table([("Service", state), ("File", str(keeper.path))])
