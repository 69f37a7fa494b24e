"""What a server needs to know about who may connect, and how: a token, and a certificate."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from mlx_websockets.errors import UsageError
from mlx_websockets.server.parties import Key


@dataclass(frozen=True, slots=True)
class Access:
    """The way in.

    Attributes:
        token: what other machines have to show; without one none gets in, unless the settings say `no_auth`.
        tls: how connections are encrypted on a port of their own; None: there is no such port.
        more: further tokens that are as good, each of them perhaps of a party of its own.
    """

    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    more: tuple[Key, ...] = ()

    @property
    def keys(self) -> tuple[Key, ...]:
        """Everything that opens; what says more of a token comes first."""
        return (*self.more, *((Key(self.token),) if self.token is not None else ()))


def tls_of(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and newer, with this certificate and its key.

    Raises:
        UsageError: they can't be read, are no PEM files, or don't belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for path in (certificate, key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise UsageError(f"The certificate can't be read: {error}.", "Look at --tls-cert and --tls-key.") from None
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # without this OpenSSL asks the terminal
    except (ssl.SSLError, ValueError):
        raise UsageError(
            f"{certificate} and {key} are not a certificate and its key: PEM files, the key not encrypted.",
            "Look at --tls-cert and --tls-key.",
        ) from None
    return context
