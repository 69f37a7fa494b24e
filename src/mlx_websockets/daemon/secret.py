"""The token that other machines need, kept in a file for its user alone.

It is made once and stays, so that what was set up on a phone still works tomorrow. What it
is stands in that file and nowhere else: in no record, no log and no command line.
"""

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlx_websockets.daemon.records import Records, make_private, open_private
from mlx_websockets.errors import StartError, UsageError
from mlx_websockets.settings import MAX_TOKEN_LENGTH, check_token

TOKEN_VARIABLE = "MLX_WS_TOKEN"  # noqa: S105
MAX_TOKENS = 256
"""In a file: every one of them is compared with what a peer shows."""

MAX_FILE_BYTES = 256 * 1024

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_BOUNDS = {"weight": 100, "requests_per_minute": 1_000_000}


def keys_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this user's token and certificate are."""
    return Records.of_this_user(environment).servers.parent / "keys"


def own_token(environment: Mapping[str, str] = os.environ) -> str:
    """This user's token, made if there is none yet.

    Raises:
        StartError: its file can't be read or written, or others can read it.
    """
    path = keys_folder(environment) / "token"
    try:
        make_private(path.parent)
        with contextlib.suppress(FileNotFoundError):
            return _kept(path)
        return _made(path)
    except OSError as error:
        raise StartError(
            f"The token's file can't be used: {error}.", "Put a token into MLX_WS_TOKEN, or name a --token-file."
        ) from None


def renewed_token(environment: Mapping[str, str] = os.environ) -> str:
    """Another token in the place of this user's. Servers that run keep the old one.

    Raises:
        StartError: see `own_token`.
    """
    with contextlib.suppress(OSError):  # what is in the way for another reason, the next line tells
        (keys_folder(environment) / "token").unlink()
    return own_token(environment)


def token_in(path: Path) -> str:
    """The first token in a file of the user's choice. See `tokens_in`."""
    return tokens_in(path)[0].token


@dataclass(frozen=True, slots=True)
class TokenLine:
    """A line of a token file: `TOKEN`, or `TOKEN NAME`, and after the name `weight=3` or `requests_per_minute=600`.

    Attributes:
        name: of whoever holds the token; empty: nobody in particular.
        weight: of their inputs so many start for each one of others, while inputs wait.
        requests_per_minute: what they may ask; None: as much as anybody.
    """

    token: str = field(repr=False)
    name: str = ""
    weight: int = 1
    requests_per_minute: int | None = None


def tokens_in(path: Path) -> list[TokenLine]:
    """The tokens in a file of the user's choice; there is at least one. It is made if there is no such file.

    Raises:
        UsageError: it can't be read or written, or a line of it makes no sense; no token is said.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            return _parsed(_read(os.open(path, os.O_RDONLY | os.O_CLOEXEC), MAX_FILE_BYTES), path)
        return [TokenLine(_made(path))]
    except OSError as error:
        raise UsageError(f"--token-file: {error}.", "Name a file that you may read, or write.") from None


def _parsed(text: str, path: Path) -> list[TokenLine]:
    found: list[TokenLine] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if words and words[0] != "#":
            found.append(_parsed_line(words, f"--token-file {path}, line {number}"))
    for what in ("token", "name"):
        told = [getattr(each, what) for each in found if getattr(each, what)]
        if len(set(told)) < len(told):
            raise UsageError(f"--token-file {path} has a {what} twice.", "Leave one of the two lines out.")
    if not 1 <= len(found) <= MAX_TOKENS:
        raise UsageError(f"--token-file {path} has {len(found)} tokens.", f"Put one into it, and at most {MAX_TOKENS}.")
    return found


def _parsed_line(words: list[str], where: str) -> TokenLine:
    token, name, *options = [*words, ""] if len(words) == 1 else words
    check_token(token, where)
    if name and not _NAME.fullmatch(name):
        raise UsageError(f"{where}: a name has up to 64 letters, digits, dots and dashes.", "TOKEN NAME weight=3")
    values = {}
    for option in options:
        what, _, value = option.partition("=")
        most = _BOUNDS.get(what)
        if most is None or not value.isdecimal() or not 1 <= int(value) <= most:
            known = " and ".join(f"{each} (1 to {bound:,})" for each, bound in _BOUNDS.items())
            raise UsageError(f"{where}: after the name stand {known}.", "TOKEN NAME weight=3 requests_per_minute=600")
        values[what] = int(value)
    return TokenLine(token, name, **values)


def _kept(path: Path) -> str:
    descriptor = open_private(path, os.O_RDONLY)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        os.close(descriptor)
        raise StartError(f"The token's file, {path}, is not yours alone.", "Make another: mlx token --new")
    token = _read(descriptor)
    try:
        return check_token(token, str(path))
    except UsageError as error:
        raise StartError(error.reason, "Make another: mlx token --new") from None


def _made(path: Path) -> str:
    """A new token, in a new file; if somebody else makes one at the same moment, theirs."""
    token = secrets.token_urlsafe(32)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
    descriptor = open_private(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(token + "\n")
        os.link(unfinished, path)  # unlike a rename, it replaces nothing; and it comes with its content
    except FileExistsError:
        return _kept(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return token


def _read(descriptor: int, most: int = 2 * MAX_TOKEN_LENGTH) -> str:
    with open(descriptor, "rb") as file:
        return file.read(most).decode("latin-1").strip()
