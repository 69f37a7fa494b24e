"""Which of the running servers a command means."""

import argparse
from collections.abc import Sequence

from mlx_websockets.daemon.records import Record
from mlx_websockets.errors import NotRunning, UsageError


def add_choice(flags: "argparse._ArgumentGroup", *, several: bool) -> None:
    """The ways to say which server; with `several`, also all of them."""
    flags.add_argument("id", nargs="?", metavar="ID", help="The server with this id; its beginning is enough.")
    flags.add_argument("--port", type=_port, metavar="INT", help="The server on this port.")
    if several:
        flags.add_argument("--all", action="store_true", help="All of them.")


def choose(found: Sequence[Record], arguments: argparse.Namespace, *, only_background: bool) -> list[Record]:
    """Those that are meant; never none.

    Raises:
        NotRunning: there is none like that.
        UsageError: several could be meant.
    """
    running = [record for record in found if record.state != "failed"]
    asked = [record for record in running if record.is_background or not only_background]
    if not asked:
        kind = "background server" if only_background else "MLX server"
        hint = "`mlx stop` ends one that runs in a terminal, too." if running else "mlx background serve"
        raise NotRunning(f"No {kind} is running.", hint)
    meant = [record for record in asked if _is_meant(record, arguments)]
    if not meant:
        raise NotRunning("No such server is running.", f"There {_listed(asked)}.")
    if len(meant) > 1 and not getattr(arguments, "all", False):
        everything = ", or --all" if hasattr(arguments, "all") else ""
        raise UsageError(
            f"There {_listed(meant)}.", f"Say which: --port {meant[0].port}, or {meant[0].id}{everything}."
        )
    return meant


def named(record: Record) -> str:
    """A server as a person would call it."""
    return f"{record.model} on port {record.port} (pid {record.pid}, id {record.id})"


def _is_meant(record: Record, arguments: argparse.Namespace) -> bool:
    has_id = arguments.id is None or record.id.startswith(arguments.id)
    return has_id and arguments.port in (None, record.port)


def _listed(records: Sequence[Record]) -> str:
    verb = "is" if len(records) == 1 else f"are {len(records)} servers:"
    return f"{verb} " + ", ".join(named(record) for record in records)


def _port(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
