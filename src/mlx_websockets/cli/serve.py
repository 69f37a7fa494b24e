"""`mlx serve`: settings from flags, an engine, the server around it, and what a person sees of it.

Every flag is a field of `Settings`; its meaning, default and bounds stand there alone.
"""

import argparse
import dataclasses
import sys
import typing
from collections.abc import Callable
from types import NoneType
from typing import TYPE_CHECKING, Any

from mlx_websockets.cli.console import Console, LoadingDisplay, size
from mlx_websockets.settings import EVERY_ADDRESS, Settings

if TYPE_CHECKING:
    from mlx_websockets.engine.client import Engine


# --- flags ----------------------------------------------------------------------------


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each field of `Settings`, in their order."""
    types = typing.get_type_hints(Settings)
    for each in dataclasses.fields(Settings):
        value_type = plain_type(types[each.name])
        flag = "--" + each.name.replace("_", "-")
        help = each.metadata["help"].replace("%", "%%") + _default_note(each.default)
        if value_type is bool:
            parser.add_argument(flag, action="store_true", help=help)
        else:
            parser.add_argument(
                flag, type=_reader(value_type), metavar=METAVARS[value_type], default=each.default, help=help
            )


METAVARS = {str: "TEXT", int: "INT", float: "FLOAT"}


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings that the flags say.

    Raises:
        UsageError: a value is out of its bounds.
    """
    return Settings(**{each.name: getattr(arguments, each.name) for each in dataclasses.fields(Settings)})


def type_name(annotation: Any) -> str:
    """What the documentation calls a flag's type."""
    return "flag" if annotation is bool else plain_type(annotation).__name__.replace("str", "string")


def plain_type(annotation: Any) -> type:
    """`int` of `int | None`."""
    found: type = next((each for each in typing.get_args(annotation) if each is not NoneType), annotation)
    return found


def _reader(value_type: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return value_type(text)
        except ValueError:
            wanted = {int: "a whole number", float: "a number"}[value_type]
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None

    return read


def _default_note(default: object) -> str:
    return "" if default is None or default is False else f" Default: {default}."


# --- serving --------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        StartError: the server can't start; nothing is left running.
    """
    settings = settings_of(arguments)
    import asyncio

    from mlx_websockets import logs

    logs.set_up(settings.debug)
    asyncio.run(serve(settings, Console(sys.stdout)))
