"""`mlx background logs`: what a background server has to say."""

import argparse
import sys
import time
from pathlib import Path

from mlx_websockets.cli.choice import add_choice, choose
from mlx_websockets.cli.console import Console
from mlx_websockets.daemon.log import Follower, last_lines
from mlx_websockets.daemon.records import Record, Records
from mlx_websockets.errors import NotRunning

LOOK_SECONDS = 0.2


def add_flags(flags: "argparse._ArgumentGroup") -> None:
    add_choice(flags, several=False)
    flags.add_argument("-n", type=int, default=50, metavar="INT", dest="lines", help="This many lines. Default: 50.")
    flags.add_argument("-f", "--follow", action="store_true", help="Go on as lines are added, until Ctrl-C.")


def run(arguments: argparse.Namespace) -> None:
    """Print its last lines; with nothing running, those of the one that ran last.

    Raises:
        NotRunning: there is no such server, and no log either.
        UsageError: several could be meant.
    """
    records = Records.of_this_user()
    record, log = _chosen(records, arguments)
    follower = Follower(log, from_end=True)
    console = Console(sys.stdout)
    for line in last_lines(log, max(0, arguments.lines)):
        console.text(line)
    if record is not None and arguments.follow:
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


def _chosen(records: Records, arguments: argparse.Namespace) -> tuple[Record | None, Path]:
    try:
        (record,) = choose(records.found(), arguments, only_background=True)
    except NotRunning:
        log = records.newest_log(arguments.id or "") if arguments.port is None else None
        if log is None:
            raise
        return None, log
    assert record.log is not None
    return record, Path(record.log)
