"""`mlx cert`: the certificate of `--tls auto`, and how to make other machines trust it."""

import sys
from typing import Annotated

import typer

from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.flags import AsJson
from mlx_websockets.daemon.certificate import Certificate, names_of_this_machine, own_certificate
from mlx_websockets.daemon.secret import keys_folder


def cert(
    new: Annotated[bool, typer.Option("--new", metavar="", help="Make another one, with another key.")] = False,
    as_json: AsJson = False,
) -> None:
    """Raises StartError: it can't be read or written."""
    found = certificate(anew=new)
    if as_json:
        print_json(
            {
                "certificate": str(found.path),
                "key": str(found.key_path),
                "names": list(found.names),
                "expires": found.expires.isoformat(),
                "sha256": found.fingerprint,
                "is_new": found.is_new,
            }
        )
        return
    console = Console(sys.stdout)
    console.success("Made a certificate" if found.is_new else "There is a certificate")
    console.table(
        [
            ("File", str(found.path)),
            ("For", ", ".join(found.names)),
            ("Until", f"{found.expires:%Y-%m-%d}"),
            ("SHA-256", found.fingerprint),
        ]
    )
    console.text(how_to_trust(found))


def certificate(*, anew: bool = False) -> Certificate:
    """This user's, made if there is none that will do for what this machine is called now.

    Raises:
        StartError: it can't be read or written.
    """
    from mlx_websockets.server.addresses import network_addresses

    return own_certificate(keys_folder(), names_of_this_machine(network_addresses()), anew=anew)


def how_to_trust(found: Certificate) -> str:
    """For each kind of peer, what to do once with a copy of the file."""
    return f"""
Other machines have to be told to trust it. Copy the file there (never the key), then:

  Python     connect("wss://...", ssl=ssl.create_default_context(cafile="{found.path.name}"))
  Node       NODE_EXTRA_CA_CERTS={found.path.name} node ...
  curl       curl --cacert {found.path.name} https://...
  Browser    open the https:// address once, compare the SHA-256 above, and accept
  macOS      security add-trusted-cert -r trustAsRoot -k ~/Library/Keychains/login.keychain-db {found.path.name}

`mlx serve --tls auto` uses it. It is made anew when an address of this machine is missing, or before it expires."""
