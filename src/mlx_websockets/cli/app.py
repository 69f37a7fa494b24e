"""`mlx`: which commands there are, how their help looks, and how a failure is told.

A command is a module of this package, imported when it is chosen: what takes long to import
(rich, uvicorn, and whatever is behind them) is never paid for by `mlx --help`. argparse does
the parsing, since it costs a fraction of what the friendlier libraries cost to import.
"""

import argparse
import difflib
import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol, cast

from mlx_websockets.cli.console import Console
from mlx_websockets.errors import StartError, UsageError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

DESCRIPTION = "Stream text, pictures and video frames to a vision-language model on this machine."

EXAMPLES = """\
mlx serve --model demo                 a small model that needs no hub
mlx serve --host localhost             for this machine only
mlx serve --port 8080 --auto-port      the next free port if 8080 is taken"""


class CommandModule(Protocol):
    """What the module of a command offers."""

    def add_flags(self, flags: "argparse._ArgumentGroup") -> None:
        """Add the command's own to `flags`."""
        ...

    def run(self, arguments: argparse.Namespace) -> None:
        """Do it; return when it is done.

        Raises:
            StartError: it can't be done; its `exit_code` becomes the exit status.
        """
        ...


@dataclass(frozen=True, slots=True)
class Action:
    """What a module that does several commands offers for each. Meets `CommandModule`."""

    add_flags: "Callable[[argparse._ArgumentGroup], None]"
    run: Callable[[argparse.Namespace], None]


@dataclass(frozen=True, slots=True)
class Command:
    """A command's line in the help, and the module that does it, or `module:member` if it does several."""

    summary: str
    module_name: str

    def module(self) -> CommandModule:
        name, _, member = self.module_name.partition(":")
        found = importlib.import_module(name)
        return cast("CommandModule", getattr(found, member) if member else found)


COMMANDS = {
    "serve": Command("Load a model and serve it, in this terminal.", "mlx_websockets.cli.serve"),
    "background serve": Command(
        "Start a server that goes on when this terminal is closed.", "mlx_websockets.cli.background:serve"
    ),
    "background stop": Command("Stop a background server.", "mlx_websockets.cli.background:stop"),
    "background status": Command("Say which servers run, and how they are.", "mlx_websockets.cli.status"),
    "background logs": Command("Print what a background server has logged.", "mlx_websockets.cli.log"),
    "background restart": Command(
        "Stop a background server and start it again, same flags, same port.", "mlx_websockets.cli.background:restart"
    ),
    "status": Command("Say which servers run, and how they are.", "mlx_websockets.cli.status"),
    "ps": Command("Say which servers run, a line for each.", "mlx_websockets.cli.status:ps"),
    "stop": Command("Stop a server, wherever it was started.", "mlx_websockets.cli.stop"),
    "cleanup": Command("Remove what servers that are gone have left behind.", "mlx_websockets.cli.cleanup"),
    "service install": Command(
        "Have the system start a server, now and at every login.", "mlx_websockets.cli.service:install"
    ),
    "service uninstall": Command("Stop it, and have it started no more.", "mlx_websockets.cli.service:uninstall"),
    "service status": Command("Say what the system says of it.", "mlx_websockets.cli.service:status"),
}

FAMILIES = {"background": "background", "bg": "background", "service": "service"}
"""First words of commands that have two, and what they are short for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mlx` with these arguments (default: those of the process) and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    wants_traceback = "--debug" in arguments
    try:
        return _told(lambda: _dispatch(arguments), wants_traceback)
    except BrokenPipeError:  # `mlx --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _told(action: Callable[[], None], wants_traceback: bool) -> int:
    """Do `action`; whatever goes wrong is told once, here, and becomes the exit status."""
    errors = Console(sys.stderr)
    try:
        action()
        sys.stdout.flush()
    except KeyboardInterrupt:
        errors.info("Stopped before it was ready.")
        return INTERRUPTED
    except StartError as error:
        if wants_traceback:
            errors.traceback()
        errors.problem(error.reason, error.hint)
        return error.exit_code
    except BrokenPipeError:
        raise
    except Exception as error:
        if wants_traceback:
            errors.traceback()
        errors.problem(
            f"This is a bug in mlx-websockets: {type(error).__name__}: {error}",
            "Run it again with --debug for details.",
        )
        return StartError.exit_code
    return 0


def _dispatch(arguments: list[str]) -> None:
    match _with_action(arguments):
        case [] | ["-h" | "--help", *_] | ["help"] | ["help", "-h" | "--help" | "help"]:
            print_help()
        case ["--version" | "-V", *_]:
            _print_version()
        case [name] | [name, "-h" | "--help"] | ["help", name] if name in FAMILIES:
            print_help(FAMILIES[name])
        case [name, *_] if name in FAMILIES:
            raise UsageError(f"mlx {name} has to know what to do.", f"mlx {name} --help")
        case ["help", name, *_]:
            parser_of(name).print_help()
        case [name, *_] if name.startswith("-"):
            raise UsageError(
                f"mlx has no flag {name} of its own.", _suggestion(name, ["--help", "--version"], "mlx --help")
            )
        case [name, *rest]:
            parser = parser_of(name)
            COMMANDS[name].module().run(parser.parse(rest))


def _with_action(words: list[str]) -> list[str]:
    """The words, with a command of two of them as one."""
    match words:
        case ["help", *rest]:
            return ["help", *_with_action(rest)]
        case [name, action, *rest] if name in FAMILIES and not action.startswith("-"):
            return [f"{FAMILIES[name]} {action}", *rest]
    return words


def print_help(family: str = "") -> None:
    """The overview: every command, or those of a family, and what it is for."""
    summaries = {name: command.summary for name, command in sorted(COMMANDS.items()) if name.startswith(family)}
    summaries["help"] = "Say what a command does and which flags it has."
    width = max(map(len, summaries))
    lines = [f"  {name:<{width}} {summary}" for name, summary in summaries.items()]
    examples = textwrap.indent(EXAMPLES, "  ")
    Console(sys.stdout).text(
        f"Usage: mlx COMMAND [FLAGS]\n\n{DESCRIPTION}\n\nCommands:\n" + "\n".join(lines) + f"\n\nExamples:\n{examples}"
        "\n\n`mlx help COMMAND` says more; `mlx --version` says which version this is."
    )


def parser_of(name: str) -> "Parser":
    """The parser of a command, with all of its flags.

    Raises:
        UsageError: there is no such command; the hint has the closest one.
    """
    if name not in COMMANDS:
        raise UsageError(f"There is no command {name!r}.", _suggestion(name, [*COMMANDS, "help"], "mlx help", "mlx "))
    command = COMMANDS[name]
    parser = Parser(
        prog=f"mlx {name}",
        usage=f"mlx {name} [FLAGS]",
        description=command.summary,
        allow_abbrev=False,
        add_help=False,
        formatter_class=_Formatter,
    )
    flags = parser.add_argument_group("Flags")
    command.module().add_flags(flags)
    flags.add_argument("--help", "-h", action="help", help="Print this and exit.")
    return parser


class Parser(argparse.ArgumentParser):
    """argparse, with a wrong flag told the way every other failure is."""

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """The flags' values.

        Raises:
            UsageError: something is unknown, missing or no value of its flag.
        """
        found, unknown = self.parse_known_args(arguments)
        if unknown:
            self._refuse(unknown[0])
        return found

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}.", f"{self.prog} --help")

    def _refuse(self, argument: str) -> NoReturn:
        if not argument.startswith("-"):
            raise UsageError(
                f"{self.prog} takes only flags, so {argument!r} makes no sense here.", f"{self.prog} --help"
            )
        flag = argument.partition("=")[0]
        flags = [flag for action in self._actions for flag in action.option_strings]
        raise UsageError(f"{self.prog} has no flag {flag}.", _suggestion(flag, flags, f"{self.prog} --help"))


class _Formatter(argparse.HelpFormatter):
    """A help that fills the terminal up to a width that can be read, and breaks no name in two."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns, 110) - 2)

    def add_usage(self, usage, actions, groups, prefix=None):  # type: ignore[no-untyped-def]
        super().add_usage(usage, actions, groups, prefix or "Usage: ")

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


def _suggestion(word: str, known: Iterable[str], otherwise: str, before: str = "") -> str:
    closest = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {before}{closest[0]}? `{otherwise}` lists what there is." if closest else otherwise


def _print_version() -> None:
    from mlx_websockets import __version__

    Console(sys.stdout).text(f"mlx-websockets {__version__}")
