"""`mlx stop`: ends a running server, wherever it was started."""

import sys
from collections.abc import Sequence

from mlx_websockets.cli.choice import Choice, choose, named
from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.flags import AsJson, Every, Id, Port
from mlx_websockets.daemon.process import end, patience
from mlx_websockets.daemon.records import Record, Records

TELL_EVERY_SECONDS = 2


def stop(id: Id = None, port: Port = None, every: Every = False, as_json: AsJson = False) -> None:
    """Ask the server to leave, wait, and kill it only if it does not.

    Raises:
        NotRunning: there is none.
        UsageError: several could be meant.
        StartError: it can't be stopped from here.
    """
    stop_chosen(Choice(id, port, every), as_json=as_json, only_background=False)


def stop_chosen(choice: Choice, *, as_json: bool, only_background: bool) -> None:
    """As `stop`; with `only_background` those in terminals are left alone."""
    records = Records.of_this_user()
    chosen = choose(records.found(), choice, only_background=only_background)
    console = Console(sys.stderr if as_json else sys.stdout)
    killed = end_and_tell(console, records, chosen)
    if as_json:
        ids = {record.id for record in killed}
        print_json([{"id": each.id, "port": each.port, "pid": each.pid, "killed": each.id in ids} for each in chosen])


def end_and_tell(console: Console, records: Records, chosen: Sequence[Record]) -> list[Record]:
    """End these servers, saying how that goes. Returns those that had to be killed."""

    def still_waiting(seconds: float) -> None:
        if int(seconds) % TELL_EVERY_SECONDS == 0:
            console.info(f"It is ending its work: {int(seconds)} of {patience(chosen):.0f} s")

    for record in chosen:
        console.info(f"Stopping {named(record)}")
    killed = end(records, chosen, on_wait=still_waiting)
    for record in killed:
        console.warning(f"The server on port {record.port} did not leave within {patience(chosen):.0f} s: killed")
    console.success("Stopped" if len(chosen) == 1 else f"Stopped {len(chosen)} servers")
    return killed
