"""`mlx`: which commands there are, and how a failure is told.

A command is a function in a module of this package, imported when it is chosen: what takes
long to import is never paid for by `mlx --help`. typer reads its flags from its parameters.
"""

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from mlx_websockets.cli.console import Console
from mlx_websockets.errors import StartError
from mlx_websockets.logs import leave

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

COLUMNS_FOR_BOXES = 100

DESCRIPTION = "Stream text, pictures and video frames to a vision-language model on this machine."

EXAMPLES = """\b
Examples:
  mlx demo --open                        a small model that needs no hub, and a page to see it work
  mlx serve --host localhost             for this machine only
  mlx serve --port 8080 --auto-port      the next free port if 8080 is taken

`mlx help COMMAND` says more of a command."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command's line in the help, and the function that does it, as `module:name`."""

    summary: str
    target: str


COMMANDS = {
    "ask": Command("Ask a server something, with or without pictures.", "ask:ask"),
    "chat": Command("Talk with a model, in turns.", "chat:chat"),
    "watch": Command("Have a camera, the screen, a video or drawn scenes described, line by line.", "watch:watch"),
    "bench": Command("Measure how fast a server answers one peer, and many at once.", "bench:bench"),
    "serve": Command("Load a model and serve it, in this terminal.", "serve:serve"),
    "demo": Command("Serve the small demo model, with a page on which it describes moving scenes.", "demo:demo"),
    "background serve": Command("Start a server that goes on when this terminal is closed.", "background:serve"),
    "background stop": Command("Stop a background server.", "background:stop"),
    "background status": Command("Say which servers run, and how they are.", "status:status"),
    "background logs": Command("Print what a background server has logged.", "log:logs"),
    "background restart": Command("Stop a background server, and start it again in its place.", "background:restart"),
    "status": Command("Say which servers run, and how they are.", "status:status"),
    "ps": Command("Say which servers run, a line for each.", "status:ps"),
    "top": Command("Show how a server is, live.", "top:top"),
    "stop": Command("Stop a server, wherever it was started.", "stop:stop"),
    "cleanup": Command("Remove what servers that are gone have left behind.", "cleanup:cleanup"),
    "pull": Command("Fetch a model, so that serving it needs no network.", "models:pull_"),
    "list": Command("Say which models are on this machine.", "models:list_"),
    "rm": Command("Remove a model from this machine.", "models:rm"),
    "doctor": Command("Check what a server needs here, and say what to do about what is missing.", "doctor:doctor"),
    "token": Command("Print the token that other machines need to connect.", "token:token"),
    "cert": Command("Show the certificate of `--tls auto`, and how to trust it.", "cert:cert"),
    "config show": Command("Say which settings are in force here, and where each comes from.", "config:show"),
    "config path": Command("Say which files settings are read from.", "config:path"),
    "service install": Command("Have the system start a server, now and at every login.", "service:install"),
    "service uninstall": Command("Stop it, and have it started no more.", "service:uninstall"),
    "service status": Command("Say what the system says of it.", "service:status"),
    "help": Command("Say what a command does and which flags it has.", "app:help"),
}
"""By name, in the order of the help. Targets are in this package."""

FAMILIES = {
    "config": "Settings from flags, the environment and files: which are in force.",
    "background": "A server without a terminal: start it, stop it, see how it is.",
    "service": "A server that the system starts at login and keeps alive.",
}
"""First words of commands that have two, and what they have in common."""

ALIASES = {"bg": "background"}


# --- running --------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mlx` with these arguments (default: those of the process) and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None and any(word.partition("=")[0] == "--token" for word in arguments):
        from mlx_websockets.cli.access import hide_token

        hide_token()
    try:
        status = _told(lambda: _run(arguments), wants_traceback="--debug" in arguments)
    except BrokenPipeError:  # `mlx --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    if argv is None:
        leave(status)
    return status


def _run(arguments: Sequence[str]) -> int:
    """The exit status; it is only other than 0 after Ctrl-C."""
    status = mlx().main(arguments, prog_name="mlx", standalone_mode=False)
    sys.stdout.flush()
    return status or 0


def _told(action: Callable[[], int], *, wants_traceback: bool) -> int:
    """Do `action`; whatever goes wrong is told once, here, and becomes the exit status."""
    errors = Console(sys.stderr)
    try:
        status = action()
    except BrokenPipeError:
        raise
    except Exception as error:
        if wants_traceback:
            errors.traceback()
        reason, hint, status = _explained(error)
        errors.problem(reason, hint)
        return status
    if status == INTERRUPTED:
        errors.info("Stopped before it was done.")
    return status


def _explained(error: Exception) -> tuple[str, str, int]:
    """What went wrong, what to do next, and the exit status."""
    match error:
        case StartError():
            return error.reason, error.hint, error.exit_code
        case TyperException():
            context = getattr(error, "ctx", None)
            return error.format_message(), f"{context.command_path if context else 'mlx'} --help", error.exit_code
    reason = f"This is a bug in mlx-websockets: {type(error).__name__}: {error}"
    return reason, "Run it again with --debug for details.", StartError.exit_code


# --- the commands ---------------------------------------------------------------------


def mlx() -> TyperGroup:
    """The program: every command, its flags unread until it is chosen."""
    app = typer.Typer(
        cls=LazyGroup,
        help=DESCRIPTION,
        epilog=EXAMPLES,
        context_settings={"help_option_names": ["--help", "-h"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=_markup_mode(),
    )
    app.callback()(_flags)
    program = get_command(app)
    assert isinstance(program, LazyGroup)
    program.commands = _lazy_commands()
    return program


class LazyCommand(TyperCommand):
    """What the help says of a command that nobody has chosen yet."""

    def __init__(self, name: str, command: Command, **given: Any) -> None:
        super().__init__(name, help=command.summary, **given)
        self._target = command.target

    def load(self) -> TyperCommand:
        """The command with its flags."""
        module, _, function = self._target.partition(":")
        app = typer.Typer(add_completion=False, rich_markup_mode=_markup_mode(), pretty_exceptions_enable=False)
        app.command(self.name, help=self.help)(getattr(importlib.import_module(f"{__package__}.{module}"), function))
        command = get_command(app)
        assert isinstance(command, TyperCommand)
        return command


class LazyGroup(TyperGroup):
    """Commands of which one is loaded: the one that was chosen. Alone, it says what there is."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest


def _lazy_commands() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, command in COMMANDS.items():
        *family, name = path.split()
        members = found.setdefault(family[0], _family(family[0])).commands if family else found
        members[name] = LazyCommand(name, command)
    for alias, name in ALIASES.items():
        found[alias] = _family(name, found[name].commands, hidden=True)
    return found


def _family(name: str, commands: Mapping[str, Any] | None = None, *, hidden: bool = False) -> LazyGroup:
    return LazyGroup(
        name=name, help=FAMILIES[name], commands=dict(commands or {}), hidden=hidden, rich_markup_mode=_markup_mode()
    )


def _markup_mode() -> Any:
    """Boxes and colours on a terminal where they leave room for the words; plain text elsewhere."""
    return "rich" if sys.stdout.isatty() and shutil.get_terminal_size().columns >= COLUMNS_FOR_BOXES else None


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from mlx_websockets import __version__

        Console(sys.stdout).text(f"mlx-websockets {__version__}")
        raise typer.Exit


Version = typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Say which version this is.")


def _flags(version: Annotated[bool, Version] = False) -> None:
    """The program's own."""


def help(
    command: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", help="A command's name.")] = None,
) -> None:
    mlx().main([*(command or []), "--help"], prog_name="mlx", standalone_mode=False)
