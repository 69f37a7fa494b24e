"""`mlx background`: a server without a terminal. Starts it, stops it, says how it is."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlx_websockets.cli import stop as stopping
from mlx_websockets.cli.access import pass_on
from mlx_websockets.cli.announcement import address_rows
from mlx_websockets.cli.app import INTERRUPTED
from mlx_websockets.cli.choice import Choice, choose
from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.flags import AsJson, Every, Given, Id, Port, takes_settings
from mlx_websockets.cli.sources import resolve
from mlx_websockets.daemon.process import LOOK_SECONDS, Launch, patience
from mlx_websockets.daemon.records import Record, Records
from mlx_websockets.server.addresses import addresses_of

# --- serve ----------------------------------------------------------------------------


@takes_settings
def serve(given: Given, as_json: AsJson = False) -> None:
    """Start a server and return when it takes requests.

    Raises:
        StartError: it could not start; of the kind that the server itself ended with.
    """
    resolved = resolve(given)
    if all(resolved.origins[name].kind == "default" for name in ("port", "auto_port")):
        resolved = resolve({**given, "auto_port": True})
    pass_on(resolved.settings)
    _start(_console(as_json), Records.of_this_user(), resolved.flags(), Path.cwd(), as_json=as_json)


def _start(
    console: Console,
    records: Records,
    flags: Sequence[str],
    folder: Path,
    *,
    as_json: bool,
    heir_of: Record | None = None,
) -> None:
    records.clean()
    launch = Launch(records, flags, folder=folder, heir_of=heir_of)
    try:
        record = launch.wait(_Told(console).pass_on)
    except KeyboardInterrupt:
        console.over_echo()
        console.info(f"It goes on in the background, with the id {launch.id}.\nmlx status says how far it is.")
        raise SystemExit(INTERRUPTED) from None
    if heir_of is not None:
        _see_off(console, records, heir_of)
    if as_json:
        import msgspec

        print_json(msgspec.to_builtins(record))
    else:
        _tell_started(console, record)


def _see_off(console: Console, records: Records, old: Record) -> None:
    """Wait a while for a server that leaves because its heir serves."""
    deadline = time.monotonic() + patience([old])
    while records.is_held(old.id):
        if time.monotonic() > deadline:
            console.info(f"The old server, process {old.pid}, still ends its replies")
            return
        time.sleep(LOOK_SECONDS)


class _Told:
    """Of what a server logs while it loads, what a person should see; its failure is told by `main`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._has_failed = False

    def pass_on(self, line: str) -> None:
        mark, _, text = line.partition(" ")
        self._has_failed = self._has_failed or mark == "✗"
        if mark == "→" and not self._has_failed:
            self._console.info(text)
        elif mark == "!":
            self._console.warning(text)


def _tell_started(console: Console, record: Record) -> None:
    console.success("Server running in the background")
    console.table(
        [*_places(record), ("PID", str(record.pid)), ("ID", record.id), ("Log", record.log or "none")],
    )
    console.text("mlx status shows how it is, mlx background logs -f what it does, mlx background stop ends it.")


def _places(record: Record) -> list[tuple[str, str]]:
    secure = addresses_of(record.host, record.tls_port, "wss") if record.tls_port is not None else None
    return address_rows(replace(addresses_of(record.host, record.port), secure=secure))


# --- restart --------------------------------------------------------------------------


def restart(id: Id = None, port: Port = None, as_json: AsJson = False) -> None:
    """Start a server with the same flags on the same port; the old one goes on until it is ready, then leaves.

    Raises:
        NotRunning: there is none.
        UsageError: several could be meant.
        StartError: the old one can't be stopped, or the new one can't start.
    """
    records, console = Records.of_this_user(), _console(as_json)
    (old,) = choose(records.found(), Choice(id, port), only_background=True)
    can_hand_over = old.state == "ready" and records.door_of(old.id).exists()
    if not can_hand_over:
        stopping.end_and_tell(console, records, [old])
    flags = [flag for flag in old.arguments if not flag.startswith("--port=")]
    heir_of = old if can_hand_over else None
    _start(console, records, [*flags, f"--port={old.port}"], Path(old.folder), as_json=as_json, heir_of=heir_of)


# --- stop -----------------------------------------------------------------------------


def stop(id: Id = None, port: Port = None, every: Every = False, as_json: AsJson = False) -> None:
    """As `mlx stop`, but those in terminals are left alone."""
    stopping.stop_chosen(Choice(id, port, every), as_json=as_json, only_background=True)


def _console(as_json: bool) -> Console:
    return Console(sys.stderr if as_json else sys.stdout)
