"""A certificate that this machine signs itself, for its own names and addresses.

It encrypts; whom it belongs to, a peer knows only after being told to trust it. It is kept,
and made anew only when it would not do any more: a name or an address is missing, or it soon
expires. Addresses it once had stay in it, so that a laptop that moves between two networks
has one certificate and not two a day. It can sign nothing but its own connections.
"""

import contextlib
import datetime
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mlx_websockets.daemon.records import make_private, open_private
from mlx_websockets.errors import StartError

LIFETIME = datetime.timedelta(days=820)
"""Apple's systems take no more than 825 days."""
RENEWED_BEFORE = datetime.timedelta(days=30)
MAX_NAMES = 32

LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Certificate:
    """One that is on disk, with its key.

    Attributes:
        path, key_path: PEM files; the key's is for its user alone.
        names: hosts and addresses that it is for.
        expires: in UTC.
        fingerprint: SHA-256, in the notation of browsers.
        is_new: it was made just now.
    """

    path: Path
    key_path: Path
    names: tuple[str, ...]
    expires: datetime.datetime
    fingerprint: str
    is_new: bool = False


def names_of_this_machine(addresses: Iterable[str], hostname: str | None = None) -> list[str]:
    """What a peer may call it: localhost, its own name, its name on the local network, its addresses."""
    full = (socket.gethostname() if hostname is None else hostname).lower().rstrip(".")
    names = ["localhost", full, full.partition(".")[0] + ".local", *LOOPBACK, *addresses]
    return list(dict.fromkeys(name for name in names if _as_name(name) is not None))


def own_certificate(
    folder: Path, wanted: Iterable[str], *, now: datetime.datetime | None = None, anew: bool = False
) -> Certificate:
    """This user's certificate, made if there is none that will do.

    Args:
        folder: where it is kept.
        wanted: names and addresses that it has to be for.
        now: in UTC; the clock's if not given.
        anew: make another in any case, with a key of its own.

    Raises:
        StartError: it can't be read or written.
    """
    now = datetime.datetime.now(datetime.UTC) if now is None else now
    wanted = list(wanted)
    try:
        make_private(folder)
        kept = None if anew else kept_certificate(folder)
        if kept is not None and set(wanted) <= set(kept.names) and kept.expires - now > RENEWED_BEFORE:
            return kept
        before = () if kept is None else kept.names
        names = list(dict.fromkeys([*wanted, *before]))[:MAX_NAMES]
        _write(folder, names, now, None if kept is None else _key_of(kept))
    except OSError as error:
        raise StartError(f"The certificate can't be kept: {error}.", "Give one of yours: --tls-cert.") from None
    made = kept_certificate(folder)
    assert made is not None
    return Certificate(made.path, made.key_path, made.names, made.expires, made.fingerprint, is_new=True)


def kept_certificate(folder: Path) -> Certificate | None:
    """What is there; None if it is of no use."""
    path = folder / "cert.pem"
    try:
        with open(open_private(path, os.O_RDONLY), "rb") as file:
            found = x509.load_pem_x509_certificate(file.read())
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        kept = Certificate(
            path,
            folder / "key.pem",
            tuple(str(each.value) for each in alternatives),
            found.not_valid_after_utc,
            found.fingerprint(hashes.SHA256()).hex(":").upper(),
        )
        return kept if _key_of(kept).public_key() == found.public_key() else None
    except (FileNotFoundError, ValueError, TypeError, x509.ExtensionNotFound):
        return None


def _key_of(certificate: Certificate) -> ec.EllipticCurvePrivateKey:
    with open(open_private(certificate.key_path, os.O_RDONLY), "rb") as file:
        key = serialization.load_pem_private_key(file.read(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key of ours")
    return key


def _write(folder: Path, names: list[str], now: datetime.datetime, key: ec.EllipticCurvePrivateKey | None) -> None:
    key = key or ec.generate_private_key(ec.SECP256R1())
    certificate = _signed(names, now, key)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _put(folder / "key.pem", secret)
    _put(folder / "cert.pem", certificate.public_bytes(serialization.Encoding.PEM))


def _signed(names: list[str], now: datetime.datetime, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    whose = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mlx-websockets on {names[:2][-1]}"[:64])])
    usage = {name: name == "digital_signature" for name in _USAGES}
    return (
        x509.CertificateBuilder()
        .subject_name(whose)
        .issuer_name(whose)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # a peer's clock may be behind
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([name for name in map(_as_name, names) if name]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def _as_name(name: str) -> x509.GeneralName | None:
    """None: nothing that a certificate can be for, such as a host name of more than ASCII."""
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    with contextlib.suppress(ValueError):
        return x509.DNSName(name) if name and not name.startswith(".") else None
    return None


def _put(path: Path, content: bytes) -> None:
    """Written whole, or not at all; for this user alone."""
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
    try:
        with open(open_private(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
