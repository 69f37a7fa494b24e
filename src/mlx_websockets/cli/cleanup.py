"""`mlx cleanup`: removes what servers that are gone have left; never touches a running one."""

import argparse
import sys

from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.daemon.records import Records


def add_flags(flags: "argparse._ArgumentGroup") -> None:
    flags.add_argument("--force", action="store_true", help="Also the logs of this week, and failed starts.")
    flags.add_argument("--json", action="store_true", help="Print what was removed as JSON.")


def run(arguments: argparse.Namespace) -> None:
    """Remove it, and say what that was."""
    removed = Records.of_this_user().clean(everything=arguments.force)
    if arguments.json:
        print_json([str(path) for path in removed])
        return
    console = Console(sys.stdout)
    for path in removed:
        console.success(f"Removed {path}")
    if not removed:
        console.info("There was nothing to remove.")
