"""The token that other machines need, kept in a file for its user alone.

It is made once and stays, so that what was set up on a phone still works tomorrow. What it
is stands in that file and nowhere else: in no record, no log and no command line.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from mlx_websockets.daemon.records import Records, make_private, open_private
from mlx_websockets.errors import StartError, UsageError
from mlx_websockets.settings import MAX_TOKEN_LENGTH, check_token

TOKEN_VARIABLE = "MLX_WS_TOKEN"  # noqa: S105


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
    """The token in a file of the user's choice, made if there is no such file.

    Raises:
        UsageError: it can't be read or written, or has no token.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            return check_token(_read(os.open(path, os.O_RDONLY | os.O_CLOEXEC)), f"--token-file {path}")
        return _made(path)
    except OSError as error:
        raise UsageError(f"--token-file: {error}.", "Name a file that you may read, or write.") from None


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


def _read(descriptor: int) -> str:
    with open(descriptor, "rb") as file:
        return file.read(2 * MAX_TOKEN_LENGTH).decode("latin-1").strip()
