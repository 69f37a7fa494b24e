"""Flags that several commands have. Those of a server are the fields of `Settings`."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any

import typer

from mlx_websockets.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print it as JSON.")]
Id = Annotated[str | None, typer.Argument(metavar="ID", help="The server with this id; its beginning is enough.")]
Port = Annotated[int | None, typer.Option(metavar="INT", help="The server on this port.")]
Every = Annotated[bool, typer.Option("--all", metavar="", help="All of them.")]

METAVARS = {str: "TEXT", int: "INT", float: "FLOAT", bool: ""}

Given = dict[str, Any]
"""Settings that flags have said, by field."""


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Let typer see a flag for each setting, and hand `command` those that were given as its first argument."""

    @functools.wraps(command)
    def with_settings(**values: Any) -> None:
        given = {each.name: _said(each.name, values) for each in dataclasses.fields(Settings)}
        command({name: value for name, value in given.items() if value is not None}, **values)

    types = typing.get_type_hints(Settings)
    parameters = [each for field in dataclasses.fields(Settings) for each in _parameters(field, types[field.name])]
    _, *own = inspect.signature(command).parameters.values()
    own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    with_settings.__signature__ = inspect.Signature([*parameters, *own])  # type: ignore[attr-defined]
    return with_settings


def takes(kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let typer see a flag for each field of a dataclass, and hand the command such an object as its first argument."""
    types = typing.get_type_hints(kind, include_extras=True)
    shared = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=types[each.name])
        for each in dataclasses.fields(kind)
    ]

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_kind(**values: Any) -> None:
            command(kind(**{each.name: values.pop(each.name) for each in shared}), **values)

        _, *own = inspect.signature(command).parameters.values()
        own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        with_kind.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        return with_kind

    return decorated


def flag_of(name: str) -> str:
    """`--auto-port` for `auto_port`."""
    return "--" + name.replace("_", "-")


def opposite_of(name: str) -> str:
    """The field-like name of a switch's opposite: `no_debug` for `debug`, `auth` for `no_auth`."""
    return name.removeprefix("no_") if name.startswith("no_") else f"no_{name}"


def plain_type(annotation: Any) -> type:
    """`int` of `int | None`."""
    found: type = next((each for each in typing.get_args(annotation) if each is not NoneType), annotation)
    return found


def is_repeatable(annotation: Any) -> bool:
    """Whether a flag may be given several times."""
    return typing.get_origin(annotation) is tuple


def _said(name: str, values: dict[str, Any]) -> Any:
    """What the flags say of a setting; a switch's opposite is there for what an environment or a file says."""
    said, is_off = values.pop(name), values.pop(opposite_of(name), None)
    if isinstance(said, list):
        return tuple(said) or None
    return False if is_off else said


def _parameters(field: "dataclasses.Field[Any]", annotation: Any) -> list[inspect.Parameter]:
    kind = plain_type(annotation)
    option = typer.Option(flag_of(field.name), help=_help(field), metavar=METAVARS[kind], show_default=False)
    if is_repeatable(annotation):
        return [_parameter(field.name, list[str], option)]
    found = [_parameter(field.name, kind, option)]
    if kind is bool:
        opposite = opposite_of(field.name)
        found.append(_parameter(opposite, kind, typer.Option(flag_of(opposite), hidden=True)))
    return found


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def default_text(field: "dataclasses.Field[Any]") -> str:
    """A setting's default, for people; empty where there is none worth saying."""
    if isinstance(field.default, tuple):
        return ", ".join(field.default)
    return "" if field.default in (None, False) else str(field.default)


def _help(field: "dataclasses.Field[Any]") -> str:
    help: str = field.metadata["help"]
    return f"{help} Default: {default_text(field)}." if default_text(field) else help
