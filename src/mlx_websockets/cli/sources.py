"""Where each setting comes from: flag > environment > this folder's file > the user's file > default.

The names follow from the fields of `Settings`: `max_tokens` is `--max-tokens`, `MLX_WS_MAX_TOKENS`
and the key `max_tokens` in a file. A file in the current folder is data that may come from
anybody, so what guards this machine can't be set there.
"""

import dataclasses
import difflib
import os
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from mlx_websockets.cli.flags import Given, flag_of, is_repeatable, opposite_of, plain_type
from mlx_websockets.errors import UsageError
from mlx_websockets.settings import Settings

FILE_NAME = "mlx-websockets.toml"
FIELDS = {each.name: each for each in dataclasses.fields(Settings)}
TYPES = typing.get_type_hints(Settings)

KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
RANK = ("flag", "environment", "folder", "user", "default")
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Origin:
    """`kind` is "flag", "environment", "folder", "user" or "default"; `name` is what the person wrote there."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}" if self.name else self.kind


@dataclass(frozen=True, slots=True)
class Said:
    """One value, before it is known which of several is in force."""

    value: Any
    origin: Origin


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and for each where it comes from."""

    settings: Settings
    origins: Mapping[str, Origin]

    @property
    def folder_file(self) -> str:
        """The current folder's file, if it said any of them; else nothing."""
        return next((origin.name for origin in self.origins.values() if origin.kind == "folder"), "")

    def flags(self) -> list[str]:
        """Flags of `mlx serve` that say what flags and the environment said here.

        Files are left out, for another process reads them itself; so are secrets, which
        travel through the environment alone.
        """
        found: list[str] = []
        for name, origin in self.origins.items():
            if origin.kind in ("flag", "environment") and not FIELDS[name].metadata["is_secret"]:
                found += _flags(name, getattr(self.settings, name))
        return found


def resolve(
    given: Given, environment: Mapping[str, str] = os.environ, folder: Path | None = None, user_file: Path | None = None
) -> Resolved:
    """The settings in force.

    Args:
        given: what flags said.
        folder: where a file may lie; the current folder if not given.
        user_file: the user's own file, if it is not in its usual place.

    Raises:
        UsageError: a value makes no sense, a file can't be read or has an unknown key, or
            the folder's file sets what it may not.
    """
    own, foreign = file_of_user() if user_file is None else user_file, (folder or Path.cwd()) / FILE_NAME
    said = {name: Said(field.default, Origin("default")) for name, field in FIELDS.items()}
    said |= _in_file(own, "user")
    said |= _in_file(foreign, "folder")
    said |= _in_environment(environment)
    said |= {name: Said(value, Origin("flag", _flag(name, value))) for name, value in given.items()}
    if RANK.index(said["token"].origin.kind) < RANK.index(said["token_file"].origin.kind):
        said["token_file"] = Said(None, Origin("default"))  # two ways to say the same
    origins = {name: each.origin for name, each in said.items()}
    if said["trust_remote_code"].value:
        _check_who_is_trusted(origins)
    try:
        return Resolved(Settings(**{name: each.value for name, each in said.items()}), origins)
    except UsageError as error:
        error.hint = "\n".join([error.hint, *_elsewhere(error.reason, origins)])
        raise


def file_of_user() -> Path:
    """The file for all of this user's servers; it need not be there."""
    return Path(platformdirs.user_config_dir("mlx-websockets")) / FILE_NAME


def variable_of(name: str) -> str:
    """`MLX_WS_MAX_TOKENS` for `max_tokens`."""
    return f"MLX_WS_{name.upper()}"


def _check_who_is_trusted(origins: Mapping[str, Origin]) -> None:
    """A user who trusts their models' code has not met the one that a folder's file names."""
    if (origins["trust_remote_code"].kind, origins["model"].kind) == ("user", "folder"):
        raise UsageError(
            f"{origins['model'].name} chooses the model, and {origins['trust_remote_code'].name} trusts its code.",
            "If you trust this one, say so: --trust-remote-code. If not: --no-trust-remote-code.",
        )


# --- files ----------------------------------------------------------------------------


def _in_file(path: Path, kind: str) -> dict[str, Said]:
    found: dict[str, Said] = {}
    for name, value in _read(path).items():
        if name not in FIELDS:
            close = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise UsageError(f"{path}: there is no setting {name}.", f"{hint}`mlx serve --help` names them all.")
        if kind == "folder" and not FIELDS[name].metadata["in_folder"]:
            raise UsageError(
                f"{path}: {name} can't be set in a folder's file, which may come from anybody.",
                f"Take it out there. If you want it: {flag_of(name)}, {variable_of(name)}, or {file_of_user()}.",
            )
        found[name] = Said(_checked(name, value, f"{path}: {name}"), Origin(kind, str(path)))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.", "Look at that file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.", "A line of it looks like this: port = 8080") from None


def _checked(name: str, value: Any, where: str) -> Any:
    kind, many = plain_type(TYPES[name]), is_repeatable(TYPES[name])
    values = value if many and isinstance(value, list) else [value]
    if not all(_is_a(each, kind) for each in values):
        takes = f"{KINDS[kind]}, or a list of it" if many else KINDS[kind]
        raise UsageError(f"{where} takes {takes}.", f"{flag_of(name)}: {FIELDS[name].metadata['help']}")
    return tuple(values) if many else value


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


# --- environment ----------------------------------------------------------------------


def _in_environment(environment: Mapping[str, str]) -> dict[str, Said]:
    found: dict[str, Said] = {}
    for name in FIELDS:
        variable = variable_of(name)
        if text := environment.get(variable):  # set to nothing is not set
            found[name] = Said(_checked(name, _parsed(name, text), variable), Origin("environment", variable))
    return found


def _parsed(name: str, text: str) -> Any:
    """What the text of a variable means; itself if it means nothing for this setting."""
    kind = plain_type(TYPES[name])
    if is_repeatable(TYPES[name]):
        return [each.strip() for each in text.split(",") if each.strip()]
    if kind is bool:
        return True if text.lower() in YES else False if text.lower() in NO else text
    try:
        return kind(text)
    except ValueError:
        return text


# --- flags ----------------------------------------------------------------------------


def _flag(name: str, value: Any) -> str:
    return flag_of(opposite_of(name) if value is False else name)


def _flags(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [_flag(name, value)]
    values = value if isinstance(value, tuple) else (value,)
    return [f"{flag_of(name)}={each}" for each in values]  # in one word: a value may begin with a dash


def _elsewhere(reason: str, origins: Mapping[str, Origin]) -> list[str]:
    """Of settings that a refusal names as flags: where they really come from."""
    words = {word.strip(".,:") for word in reason.split()}
    named = [name for name in origins if flag_of(name) in words]
    return [
        f"{flag_of(name)} was said by {origins[name].name}."
        for name in named
        if origins[name].kind not in ("flag", "default")
    ]
