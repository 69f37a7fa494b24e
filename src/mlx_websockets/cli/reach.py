"""The server that a command talks to: which it is, what it wants to be told, and how it fails."""

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mlx_websockets.cli.choice import Choice, choose, named
from mlx_websockets.client import CannotConnect, ClientError, ReplyError, Result
from mlx_websockets.client.pictures import file_bytes
from mlx_websockets.daemon.records import Record, Records
from mlx_websockets.daemon.secret import TOKEN_VARIABLE, token_in
from mlx_websockets.errors import ModelNotFound, NotRunning, StartError, UsageError

URL_VARIABLE = "MLX_WS_URL"
DEFAULT_URL = "ws://localhost:8765"
START_ONE = "mlx serve, or `mlx serve --model demo` for a small model"

SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss", "mlx": "mlx"}

Url = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help=f"The server's address; else {URL_VARIABLE}, else the one that runs here."),
]
TokenFile = Annotated[
    str | None, typer.Option(metavar="TEXT", help=f"File with the server's token; else {TOKEN_VARIABLE} is it.")
]
Model = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Which of the server's models is asked; else its first one.")
]
MaxTokens = Annotated[int | None, typer.Option(metavar="INT", help="No reply is longer than this.")]
Temperature = Annotated[
    float | None, typer.Option(metavar="FLOAT", help="Sampling temperature; 0 always takes the likeliest token.")
]
Seed = Annotated[int | None, typer.Option(metavar="INT", help="Makes a reply repeatable.")]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="Says how the model should answer.")]


@dataclass(frozen=True, slots=True)
class Reach:
    """How to get at a server."""

    url: str
    token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whom:
    """What flags say of whom to ask."""

    url: Url = None
    token_file: TokenFile = None
    model: Model = None

    def reach(self) -> Reach:
        """See `reach`."""
        return reach(self.url, self.token_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking(Whom):
    """What flags say of whom to ask, and how it should answer."""

    system: System = None
    max_tokens: MaxTokens = None
    temperature: Temperature = None
    seed: Seed = None

    @property
    def settings(self) -> dict[str, Any]:
        """Those of `configure` that were given."""
        return given(max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed)


def reach(url: str | None = None, token_file: str | None = None, environment: Mapping[str, str] = os.environ) -> Reach:
    """The server that is meant.

    Raises:
        NotRunning: it is still being loaded.
        UsageError: the address or the token's file is of no use, or several servers could be meant.
    """
    asked = url or environment.get(URL_VARIABLE)
    address = _checked(asked) if asked else _running_here(Records.of_this_user(environment).found())
    return Reach(address, _token(token_file, environment))


@contextlib.contextmanager
def failures_told(where: Reach) -> Iterator[None]:
    """Give what the client library raises the form in which every command's failure is told.

    Raises:
        NotRunning: nobody is there.
        ModelNotFound: the server has no such model.
        StartError: we were not let in, or the server could not do it.
    """
    try:
        yield
    except CannotConnect as error:
        raise _not_connected(where, error) from error
    except ReplyError as error:
        if error.code == ModelNotFound.code:
            raise ModelNotFound(str(error), "Name one of these: --model NAME") from error
        raise StartError(str(error), _what_next(error)) from error
    except TimeoutError as error:
        raise StartError(f"{where.url} gives no answer.", "`mlx status` says how it is.") from error
    except ClientError as error:
        raise StartError(str(error), "`mlx status` says whether it still runs.") from error


def _what_next(error: ReplyError) -> str:
    if not error.retryable:
        return f"What `{error.code}` means: docs/reference/protocol.md"
    if error.retry_after_ms is None:
        return "Try again in a moment."
    return f"Try again in {max(1, round(error.retry_after_ms / 1000))} s."


def pictures_of(paths: Sequence[str]) -> list[bytes]:
    """The files' bytes.

    Raises:
        UsageError: one can't be read, or is no picture.
    """
    found = []
    for path in paths:
        try:
            found.append(file_bytes(path))
        except OSError as error:
            raise UsageError(f"{path} can't be read: {error.strerror}.", "Name a picture file.") from None
        except ClientError:
            raise UsageError(f"{path} is no JPEG, PNG, WebP or GIF file.", "Convert it to one of these.") from None
    return found


def given(**settings: Any) -> dict[str, Any]:
    """The settings that flags have said."""
    return {name: value for name, value in settings.items() if value is not None}


def plain_result(result: Result) -> dict[str, Any]:
    """A reply for a program."""
    several = {"candidates": [{"text": each.text, "finish_reason": each.finish_reason} for each in result.candidates]}
    return {
        "text": result.text,
        "finish_reason": result.finish_reason,
        "usage": msgspec.to_builtins(result.usage),
        "timings": msgspec.to_builtins(result.timings),
    } | (several if result.candidates else {})


def _checked(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "ws", url
    if scheme not in SCHEMES or not (rest.strip("/") or scheme == "mlx"):
        raise UsageError(f"{url} is no address of a server.", f"It looks like {DEFAULT_URL}.")
    return f"{SCHEMES[scheme]}://{rest}"


def _running_here(found: Sequence[Record]) -> str:
    running = [record for record in found if record.state != "failed"]
    if not running:
        return DEFAULT_URL  # one of another user, or in a container, is on no record
    ready = [record for record in running if record.state == "ready"]
    if not ready:
        raise NotRunning(f"{named(running[0])} is still being loaded.", "Try again in a moment; `mlx ps` says when.")
    if len(ready) > 1:
        listed = ", ".join(f"{record.url} ({record.model})" for record in ready)
        raise UsageError(f"{len(ready)} servers are running: {listed}.", f"Say which: --url {ready[0].url}")
    [record] = choose(ready, Choice(None, None), only_background=False)
    return record.url


def _token(token_file: str | None, environment: Mapping[str, str]) -> str | None:
    if token_file is None:
        return environment.get(TOKEN_VARIABLE) or None
    if not Path(token_file).is_file():
        raise UsageError(f"There is no file {token_file}.", "On the server, `mlx token` prints what belongs in it.")
    return token_in(Path(token_file))


def _not_connected(where: Reach, error: CannotConnect) -> StartError:
    if error.status == 401:
        said = "It does not know the token." if where.token else "It wants a token."
        hint = f"On the server, `mlx token` prints it. Put it into {TOKEN_VARIABLE}, or into a file for --token-file."
        return StartError(f"{where.url} does not let us in. {said}", hint)
    if error.status is not None:
        return StartError(str(error), "Is that an mlx-websockets server? Look at its log: mlx background logs")
    if isinstance(error.__cause__, ssl.SSLCertVerificationError):
        return StartError(
            f"{where.url} has a certificate that this machine does not know.",
            "On the server, `mlx cert` shows it. Name a copy of it here in SSL_CERT_FILE.",
        )
    if where.url.startswith("mlx://"):
        return NotRunning(str(error), "`mlx serve --mdns` there announces one, and the log says under which name.")
    return NotRunning(f"No server answers at {where.url}.", f"Start one: {START_ONE}")
