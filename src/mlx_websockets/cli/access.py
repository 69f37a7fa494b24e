"""Who may connect: what the flags, the environment and this user's own files say of it.

A token is never where others see it: in no command line that `ps` shows, no log, no record.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_websockets.daemon.secret import TOKEN_VARIABLE, TokenLine, own_token, token_in, tokens_in
from mlx_websockets.errors import StartError
from mlx_websockets.settings import Settings, check_token

if TYPE_CHECKING:
    from mlx_websockets.daemon.certificate import Certificate
    from mlx_websockets.server.access import Access
    from mlx_websockets.server.parties import Key


@dataclass(frozen=True, slots=True)
class WayIn:
    """What a server is told of it, and a person.

    Attributes:
        access: for the server.
        whereabouts: where a person finds the token.
        trouble: why there is no token, if there should be one.
        certificate: of `--tls auto`.
    """

    access: "Access"
    whereabouts: str = ""
    trouble: str = ""
    certificate: "Certificate | None" = None


def way_in(settings: Settings) -> WayIn:
    """Gather it, making what is missing. Afterwards the environment has no token: a worker needs none.

    Raises:
        StartError: a token or a certificate that was given, or one of our own, is of no use.
    """
    from mlx_websockets.server.access import Access, tls_of

    given = given_token(settings)
    os.environ.pop(TOKEN_VARIABLE, None)
    token, whereabouts, trouble = given, "It is the one that was given at the start.", ""
    if settings.token_file is not None:
        whereabouts = f"It is in {settings.token_file}."
    elif token is None and not settings.no_auth:
        whereabouts = "`mlx token` shows it."
        try:
            token = own_token()
        except StartError as error:  # the server is good for this machine all the same
            trouble = f"{error.reason} Other machines are not let in.\n{error.hint}"
    certificate = _certificate() if settings.tls == "auto" else None
    tls = None
    if certificate is not None:
        tls = tls_of(certificate.path, certificate.key_path)
    elif settings.tls_cert is not None and settings.tls_key is not None:
        tls = tls_of(Path(settings.tls_cert), Path(settings.tls_key))
    return WayIn(Access(token, tls, _keys(settings)), whereabouts, trouble, certificate)


def _keys(settings: Settings) -> "tuple[Key, ...]":
    """Who has a token of their own. The first one of the file is the server's, and stands in its addresses."""
    lines = tokens_in(Path(settings.token_file)) if settings.token_file is not None else []
    return tuple(_key(line) for line in lines if line.name or line is not lines[0])


def _key(line: TokenLine) -> "Key":
    from mlx_websockets.server.parties import Key, holder

    return Key(line.token, holder(line.name, line.weight, line.requests_per_minute) if line.name else None)


def given_token(settings: Settings) -> str | None:
    """The token that somebody chose: of `--token-file`, else of `--token`, else of the environment.

    Raises:
        UsageError: it is none that can be used.
    """
    if settings.token_file is not None:
        return token_in(Path(settings.token_file))
    if settings.token == "-":  # noqa: S105
        return check_token(sys.stdin.readline().strip(), "--token -")
    if settings.token is not None:
        return settings.token
    inherited = os.environ.get(TOKEN_VARIABLE)
    return check_token(inherited, TOKEN_VARIABLE) if inherited else None


def pass_on(settings: Settings) -> None:
    """Leave a token that was chosen for the processes we start where only they find it."""
    if settings.token_file is None and (token := given_token(settings)) is not None:
        os.environ[TOKEN_VARIABLE] = token


def _certificate() -> "Certificate":
    from mlx_websockets.cli.cert import certificate

    return certificate()


def hide_token() -> None:
    """If this process was started with a token on its command line, become one without.

    `ps` shows command lines to everybody on the machine, and only what a program was started
    with; the environment it shows to nobody else.
    """
    words, token = without_token(sys.orig_argv)
    if token is not None:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *words[1:]], {**os.environ, TOKEN_VARIABLE: token})  # noqa: S606


def without_token(words: list[str]) -> tuple[list[str], str | None]:
    """A command line without `--token VALUE`, and the value; `-` is no secret and stays."""
    kept: list[str] = []
    token = None
    rest = iter(words)
    for word in rest:
        flag, has_value, value = word.partition("=")
        if flag != "--token":
            kept.append(word)
            continue
        value = value if has_value else next(rest, "-")
        if value == "-":
            kept.append("--token=-")
        else:
            token = value
    return kept, token
