"""`mlx token`: the token that other machines need, for people and for scripts."""

import sys
from typing import Annotated

import typer

from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.flags import AsJson
from mlx_websockets.daemon.secret import keys_folder, own_token, renewed_token


def token(
    new: Annotated[
        bool, typer.Option("--new", metavar="", help="Make another one; the old one opens no more.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Raises StartError: it can't be read or written."""
    found = renewed_token() if new else own_token()
    if as_json:
        print_json({"token": found, "file": str(keys_folder() / "token"), "is_new": new})
        return
    Console(sys.stdout).text(found)
    if new:
        Console(sys.stderr).info("Servers that run go on with the old one; start them again.")
