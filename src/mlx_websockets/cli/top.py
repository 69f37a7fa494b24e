"""`mlx top`: one server, live."""

import os
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mlx_websockets.cli.choice import Choice, choose
from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.flags import AsJson, Id, Port
from mlx_websockets.cli.status import duration, memory_by_kind
from mlx_websockets.daemon.readings import Address, Reading, quantile, read
from mlx_websockets.daemon.records import Records
from mlx_websockets.daemon.vitals import where_to_ask
from mlx_websockets.errors import NotRunning, UsageError

Row = tuple[str, str]


def top(
    id: Id = None,
    port: Port = None,
    url: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A server by its address, such as ws://gpu.lan:8765.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", metavar="", help="Print it once, and do not stay.")] = False,
    as_json: AsJson = False,
    every: Annotated[float, typer.Option(metavar="FLOAT", help="Seconds between two looks.", show_default=True)] = 1.0,
) -> None:
    """Show how a server is, until Ctrl-C.

    Raises:
        NotRunning: there is no such server, or it has ended meanwhile.
        UsageError: several could be meant.
    """
    if not 0.1 <= every <= 3600:
        raise UsageError(f"--every must be between 0.1 and 3600, got {every:g}.", "Leave --every out.")
    address = _address(id, port, url)
    if as_json:
        print_json(plain(read(address)))
    elif once or not sys.stdout.isatty():
        show_once(address, Console(sys.stdout))
    else:
        _watch(address, every)


def show_once(address: Address, console: Console) -> None:
    """One reading, in plain lines."""
    now = read(address)
    console.info(str(address))
    console.table(rows(now))


def rows(now: Reading, before: Reading | None = None) -> list[Row]:
    """What to say of a reading; waits are of the time since `before`, or since the server's start."""
    waits = [
        ("First token", _waits(now, before, lambda each: each.first_token)),
        ("Between deltas", _waits(now, before, lambda each: each.gaps)),
        ("Event loop late", _waits(now, before, lambda each: each.lags)),
    ]
    restarts = f", its process restarted {now.restarts} times" if now.restarts else ""
    return [
        ("Model", f"{now.model} ({'ready' if now.is_ready else 'not ready'}{restarts})"),
        ("Up", f"{duration(now.uptime_seconds)}, version {now.version}"),
        ("Connections", str(now.connections)),
        ("Rows in use", f"{now.rows_in_use} of {now.rows}"),
        ("Waiting", str(now.waiting)),
        ("Tokens/s now", f"{now.tokens_per_second:.1f}"),
        *waits,
        ("Frames dropped", _drops(now.drops)),
        ("Memory", memory_by_kind(now.memory)),
    ]


def plain(now: Reading) -> dict[str, Any]:
    """A reading for a program; times in milliseconds, since the server's start."""
    return {
        "model": now.model,
        "ready": now.is_ready,
        "version": now.version,
        "uptime_seconds": now.uptime_seconds,
        "connections": now.connections,
        "running": now.running,
        "rows": now.rows,
        "rows_in_use": now.rows_in_use,
        "waiting": now.waiting,
        "tokens_per_second": now.tokens_per_second,
        "ttft_ms": {"p50": _ms(quantile(0.5, now.first_token)), "p95": _ms(quantile(0.95, now.first_token))},
        "gap_ms": {"p50": _ms(quantile(0.5, now.gaps)), "p95": _ms(quantile(0.95, now.gaps))},
        "loop_lag_ms": {"p50": _ms(quantile(0.5, now.lags)), "p95": _ms(quantile(0.95, now.lags))},
        "frames_dropped": now.drops,
        "memory_bytes": now.memory,
        "restarts": now.restarts,
    }


def _address(id: str | None, port: int | None, url: str | None) -> Address:
    if url is not None:
        if id is not None or port is not None:
            raise UsageError("--url names a server, and so does an id or --port.", "Leave one of them out.")
        return Address.of(url, os.environ.get("MLX_WS_TOKEN"))
    [record] = choose(Records.of_this_user().found(), Choice(id, port), only_background=False)
    if record.state != "ready":
        raise NotRunning(f"{record.model} is still being loaded.", "Try again in a moment; `mlx ps` says when.")
    return Address("http", where_to_ask(record.host), record.port)


def _watch(address: Address, every: float) -> None:
    from rich.console import Console as RichConsole
    from rich.live import Live

    past = [read(address)]  # of the last ten looks: waits of a second alone would jump about
    with Live(_panel(address, rows(past[0])), console=RichConsole(), screen=False, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                past = [*past[-10:], read(address)]
                live.update(_panel(address, rows(past[-1], past[0])), refresh=True)
        except KeyboardInterrupt:
            pass


def _panel(address: Address, said: list[Row]) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in said:
        table.add_row(Text(name, style="dim"), Text(value))
    return Panel(
        table, title=Text(f"mlx top  {address}"), subtitle=Text("Ctrl+C ends this, not the server"), expand=False
    )


def _waits(now: Reading, before: Reading | None, of: Callable[[Reading], dict[float, float]]) -> str:
    since = of(before) if before is not None else None
    half, most = quantile(0.5, of(now), since), quantile(0.95, of(now), since)
    if half is None and since is not None:  # nothing of late: then what there was before
        half, most = quantile(0.5, of(now)), quantile(0.95, of(now))
    if half is None or most is None:
        return "-"
    return f"{_ms(half):g} ms, 95 % within {_ms(most):g} ms"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _drops(drops: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items()) if count) or "none"
