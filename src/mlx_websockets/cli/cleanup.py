"""`mlx cleanup`: removes what servers that are gone have left; never touches a running one."""

import sys
from typing import Annotated

import typer

from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.flags import AsJson
from mlx_websockets.daemon.records import Records


def cleanup(
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Also the logs of this week, and failed starts.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove it, and say what that was."""
    removed = Records.of_this_user().clean(everything=force)
    if as_json:
        print_json([str(path) for path in removed])
        return
    console = Console(sys.stdout)
    for path in removed:
        console.success(f"Removed {path}")
    if not removed:
        console.info("There was nothing to remove.")
