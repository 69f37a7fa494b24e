#!/usr/bin/env python
"""Writes what the documentation says about the command line, from the code that defines it.

scripts/update_cli_docs.py           write docs/reference/cli.md and the table in README.md
scripts/update_cli_docs.py --check   only say whether they are as they should be
"""

import dataclasses
import sys
import typing
from pathlib import Path
from typing import Any

from mlx_websockets import errors
from mlx_websockets.cli.app import COMMANDS, INTERRUPTED, LazyCommand
from mlx_websockets.cli.flags import default_text, flag_of, is_repeatable, plain_type
from mlx_websockets.cli.sources import FILE_NAME, RANK, variable_of
from mlx_websockets.settings import Settings

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- {name}: written by `make docs` -->", "<!-- end of {name} -->"


def main() -> int:
    wanted = {
        ROOT / "README.md": with_part(ROOT / "README.md", "flags", flags_table()),
        ROOT / "docs/reference/errors.md": with_part(ROOT / "docs/reference/errors.md", "exit codes", exit_codes()),
        ROOT / "docs/reference/cli.md": command_line_page(),
        ROOT / "docs/reference/settings.md": settings_page(),
    }
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"✗ {path.relative_to(ROOT)} is not what the code says\n→ make docs")
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path], "utf-8")
        print(f"✓ {path.relative_to(ROOT)}")
    return 0


def command_line_page() -> str:
    named = {name: command for name, command in COMMANDS.items() if name != "help"}
    overview = "\n".join(f"| `mlx {name}` | {command.summary} |" for name, command in named.items())
    commands = "\n".join(command_section(name) for name in named)
    return f"""# The command line

*This page is written by `make docs` from the code; change that.*

`mlx`, `mlx-websockets` and `python -m mlx_websockets` are the same program.

| Command | What it does |
|---|---|
{overview}
| `mlx help [COMMAND]` | Say what there is, or what a command does and which flags it has. |
| `mlx --version` | Say which version this is. |
| `mlx --install-completion` | Have the shell complete commands and flags: bash, zsh, fish. |
| `mlx --show-completion` | Print what that would install. |

`mlx bg` is `mlx background`. Every command has `--help`. A flag without a value, such as `--debug`, has an
opposite, here `--no-debug`.

{commands}
## Exit statuses

{exit_codes()}"""


def command_section(name: str) -> str:
    """A command with its flags; those of the server are settings, which say more."""
    options = [
        option for option in LazyCommand(name, COMMANDS[name]).load().params if not getattr(option, "hidden", False)
    ]
    text = f"## `mlx {name}`\n\n{COMMANDS[name].summary}\n"
    if {each.name for each in dataclasses.fields(Settings)} <= {option.name for option in options}:
        text += f"\n{flags_table()}" if name == "serve" else "\nThe flags of [`mlx serve`](#mlx-serve).\n"
        options = [option for option in options if option.name not in Settings.__slots__]
    if options:
        text += "\n| Flag | Meaning |\n|---|---|\n" + "".join(map(flag_line, options))
    return text


def flag_line(option: Any) -> str:
    if option.param_type_name == "argument":
        return f"| `{option.metavar}` | {option.help} |\n"
    takes = f" {option.metavar}" if option.metavar else ""
    default = f" Default: {option.default}." if option.default else ""
    return f"| {', '.join(f'`{name}`' for name in option.opts)}{takes} | {option.help}{default} |\n"


def flags_table() -> str:
    lines = ["| Flag | Type | Default | Meaning |", "|---|---|---|---|"]
    types = typing.get_type_hints(Settings)
    for each in dataclasses.fields(Settings):
        kind = type_name(types[each.name])
        default = f"`{default_text(each)}`" if default_text(each) else ""
        lines.append(f"| `{flag_of(each.name)}` | {kind} | {default} | {each.metadata['help']} |")
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    rows = "".join(setting_row(each) for each in dataclasses.fields(Settings))
    return f"""# Settings

*This page is written by `make docs` from the code; change that.*

Each setting can be said in four places. The first of them that says it counts:

1. a flag: `mlx serve --port 8080`
2. the environment: `MLX_WS_PORT=8080`. A switch takes `1` or `0` (also `true`, `yes`, `on` and their opposites); what
   may be repeated is separated by commas. Set to nothing is not set.
3. `{FILE_NAME}` in the current folder: `port = 8080`
4. your own `{FILE_NAME}`: `mlx config path` says where it is, on Linux `~/.config/mlx-websockets/`

`mlx config show --origin` prints what is in force and where it comes from ({", ".join(f"`{each}`" for each in RANK)});
`--json` prints it for programs. Without `--origin` it prints a file to start from. It takes the flags of `mlx serve`,
so it also says what they would do.

A file in the current folder may come from anybody, so what guards your machine can't be set there: those settings say
*not in a folder's file*, and a server refuses to start where one stands. A key that is no setting is refused, too.
Relative paths start in the current folder.

A server in the background is started with what flags and environment said; files it reads itself, also when it is
restarted. A secret travels through the environment alone, and no output ever has it.

| Key | Flag | Environment | Type | Default | From, to | Meaning |
|---|---|---|---|---|---|---|
{rows}"""


def setting_row(field: "dataclasses.Field[Any]") -> str:
    kind = type_name(typing.get_type_hints(Settings)[field.name])
    least, most = field.metadata["least"], field.metadata["most"]
    default = f"`{default_text(field)}`" if default_text(field) else ""
    bounds = "" if least is None else f"{least}, {most}"
    note = "" if field.metadata["in_folder"] else " *Not in a folder's file.*"
    names = f"`{field.name}` | `{flag_of(field.name)}` | `{variable_of(field.name)}`"
    return f"| {names} | {kind} | {default} | {bounds} | {field.metadata['help']}{note} |\n"


def type_name(annotation: Any) -> str:
    name = {str: "string", bool: "flag"}.get(plain_type(annotation), plain_type(annotation).__name__)
    return f"{name}, repeated" if is_repeatable(annotation) else name


def exit_codes() -> str:
    lines = ["| Status | When |", "|---|---|", "| 0 | It did what it was asked to; also a server ended by Ctrl-C. |"]
    lines.append(f"| {errors.StartError.exit_code} | Anything that has no status of its own, a bug included. |")
    kinds = sorted(set(errors.START_ERRORS.values()) - {errors.StartError}, key=lambda kind: kind.exit_code)
    lines += [f"| {kind.exit_code} | {' '.join((kind.__doc__ or '').split())} |" for kind in kinds]
    lines.append(f"| {INTERRUPTED} | Ctrl-C before it was done. |")
    return "\n".join(lines) + "\n"


def with_part(path: Path, name: str, text: str) -> str:
    """The file with what stands between the two marks of `name` replaced."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, found, rest = path.read_text("utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        sys.exit(f"✗ {path} has no place for the {name}\n→ put these lines in: {begin} and {end}")
    return f"{before}{begin}\n{text}{end}{after}"


if __name__ == "__main__":
    sys.exit(main())
