"""`mlx status` and `mlx ps`: which servers run, and how they are."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from mlx_websockets.cli.console import Console, print_json, size
from mlx_websockets.cli.flags import AsJson
from mlx_websockets.daemon.records import Record, Records
from mlx_websockets.daemon.vitals import Vitals, vitals_of

COLUMNS: tuple[tuple[str, Callable[[Vitals], str]], ...] = (
    ("ID", lambda each: each.record.id),
    ("PORT", lambda each: str(each.record.port)),
    ("PID", lambda each: str(each.record.pid)),
    ("STATE", lambda each: each.record.state),
    ("UP", lambda each: duration(each.uptime_seconds)),
    ("MEMORY", lambda each: _said(each.memory_bytes, size)),
    ("PEERS", lambda each: _said(each.connections, str)),
    ("TOKENS/S", lambda each: _said(each.tokens_per_second, "{:.1f}".format)),
    ("MODEL", lambda each: each.record.model),
)


def status(as_json: AsJson = False) -> None:
    """Print every server on record."""
    _show(as_json=as_json, is_short=False)


def ps(as_json: AsJson = False) -> None:
    """Print a line for each."""
    _show(as_json=as_json, is_short=True)


def _show(*, as_json: bool, is_short: bool) -> None:
    records = Records.of_this_user()
    found = records.found()
    running = vitals_of(records, [record for record in found if record.state != "failed"])
    failed = [record for record in found if record.state == "failed"]
    if as_json:
        print_json([_plain(each) for each in running] + [_plain(Vitals(each, 0.0)) for each in failed])
        return
    console = Console(sys.stdout)
    if not running:
        console.info("No MLX servers are running")
    elif is_short:
        _show_columns(console, running)
    else:
        for each in running:
            _show_details(console, each)
    for record in failed:
        _show_failure(console, record)


def duration(seconds: float) -> str:
    """For a person: `12 s`, `3 min`, `2 h 5 min`, `4 d 7 h`."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def memory_by_kind(memory: dict[str, int]) -> str:
    """What a model's process does with its memory, for a person."""
    said = [f"{size(memory[kind])} {kind}" for kind in ("active", "kept", "cached", "resident") if kind in memory]
    return ", ".join(said) or "-"


def _show_details(console: Console, vitals: Vitals) -> None:
    record = vitals.record
    is_ready = record.state == "ready"
    (console.success if is_ready else console.info)(record.url if is_ready else f"Loading, for port {record.port}")
    rows = [
        ("Model", record.model),
        ("Port", str(record.port)),
        *([("Encrypted", f"port {record.tls_port}")] if record.tls_port is not None else []),
        ("PID", str(record.pid)),
        ("Memory", _said(vitals.memory_bytes, size)),
        ("Of the model", _said(vitals.model_memory, memory_by_kind)),
        ("Running for", duration(vitals.uptime_seconds)),
        ("Connections", _said(vitals.connections, str)),
        ("Tokens/s now", _said(vitals.tokens_per_second, "{:.1f}".format)),
        ("Runs", "in the background" if record.is_background else "in a terminal, or as a service"),
        ("ID", record.id),
    ]
    console.table([*rows, ("Log", record.log)] if record.log else rows)


def _show_columns(console: Console, vitals: Sequence[Vitals]) -> None:
    lines = [[title for title, _ in COLUMNS], *([value(each) for _, value in COLUMNS] for each in vitals)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    for line in lines:
        console.text("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _show_failure(console: Console, record: Record) -> None:
    console.failure(f"A start of {record.model} in the background failed: {record.reason}")
    console.info(f"Its log: {record.log}   `mlx cleanup --force` forgets it.")


def _said(value: Any, form: Callable[[Any], str]) -> str:
    return "-" if value is None else form(value)


def _plain(vitals: Vitals) -> dict[str, Any]:
    import msgspec

    return {
        **msgspec.to_builtins(vitals.record),
        "uptime_seconds": round(vitals.uptime_seconds, 3),
        "memory_bytes": vitals.memory_bytes,
        "model_memory_bytes": vitals.model_memory,
        "connections": vitals.connections,
        "tokens_per_second": vitals.tokens_per_second,
    }
