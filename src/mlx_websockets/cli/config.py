"""`mlx config`: which settings are in force, and where each comes from."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.flags import AsJson, Given, takes_settings
from mlx_websockets.cli.sources import FIELDS, FILE_NAME, Resolved, file_of_user, resolve

HIDDEN = "(hidden)"


@takes_settings
def show(
    given: Given,
    origin: Annotated[bool, typer.Option("--origin", metavar="", help="Say of each where it comes from.")] = False,
    as_json: AsJson = False,
) -> None:
    """Raises UsageError: see `resolve`."""
    resolved = resolve(given)
    if as_json:
        print_json(_plain(resolved))
    else:
        Console(sys.stdout).text("\n".join(_lines(resolved, origin)))


def path(as_json: AsJson = False) -> None:
    """Say which files are read, and whether they are there."""
    files = [("This folder's", Path.cwd() / FILE_NAME), ("Yours", file_of_user())]
    if as_json:
        print_json([{"path": str(each), "exists": each.is_file()} for _, each in files])
        return
    rows = [(name, str(each) if each.is_file() else f"{each} (not there)") for name, each in files]
    Console(sys.stdout).table(rows)


def _plain(resolved: Resolved) -> dict[str, Any]:
    return {
        name: {"value": _shown(resolved, name), "origin": origin.kind, "name": origin.name or None}
        for name, origin in resolved.origins.items()
    }


def _lines(resolved: Resolved, with_origin: bool) -> list[str]:
    """As they would stand in a file, so that they can be copied into one."""
    lines = [_line(name, _shown(resolved, name)) for name in FIELDS]
    if not with_origin:
        return lines
    width = min(max(map(len, lines)), 48)
    origins = [str(origin) for origin in resolved.origins.values()]
    return [f"{line:<{width}}  # {origin}" for line, origin in zip(lines, origins, strict=True)]


def _line(name: str, value: Any) -> str:
    import json

    if value is None:
        return f"# {name} ="
    return f"{name} = {json.dumps(value, ensure_ascii=False)}"  # what JSON and TOML have in common


def _shown(resolved: Resolved, name: str) -> Any:
    value = getattr(resolved.settings, name)
    return HIDDEN if FIELDS[name].metadata["is_secret"] and value is not None else value
