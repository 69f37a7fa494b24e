"""`mlx background logs`: what a background server has to say."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from mlx_websockets.cli.choice import Choice, choose
from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.flags import AsJson, Id, Port
from mlx_websockets.daemon.log import Follower, last_lines
from mlx_websockets.daemon.records import Record, Records
from mlx_websockets.errors import NotRunning, UsageError

LOOK_SECONDS = 0.2


def logs(
    id: Id = None,
    port: Port = None,
    lines: Annotated[int, typer.Option("-n", min=0, metavar="INT", help="This many lines.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", metavar="", help="Go on as lines are added, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print its last lines; with nothing running, those of the one that ran last.

    Raises:
        NotRunning: there is no such server, and no log either.
        UsageError: several could be meant, or `--json` is to go on.
    """
    if as_json and follow:
        raise UsageError("--json can't go on with --follow.", "A server with --log-format json logs an object a line.")
    records = Records.of_this_user()
    record, log = _chosen(records, Choice(id, port))
    if as_json:
        print_json({"file": str(log), "lines": last_lines(log, lines)})
        return
    follower = Follower(log, from_end=True)
    console = Console(sys.stdout)
    for line in last_lines(log, lines):
        console.text(line)
    if record is not None and follow:
        _follow(console, follower, records, record)
    follower.close()


def _follow(console: Console, follower: Follower, records: Records, record: Record) -> None:
    try:
        is_alive = True
        while is_alive:
            is_alive = records.is_held(record.id)
            for line in follower.new_lines():
                console.text(line)
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        return
    console.info("The server has ended.")


def _chosen(records: Records, choice: Choice) -> tuple[Record | None, Path]:
    try:
        (record,) = choose(records.found(), choice, only_background=True)
    except NotRunning:
        log = records.newest_log(choice.id or "") if choice.port is None else None
        if log is None:
            raise
        return None, log
    assert record.log is not None
    return record, Path(record.log)
