"""Where a server is: addresses to copy, and a code for phones. On a terminal they carry the token; a log has none."""

import io
from typing import TYPE_CHECKING

from mlx_websockets.cli.console import Console
from mlx_websockets.server.tokens import with_token

if TYPE_CHECKING:
    from mlx_websockets.cli.access import WayIn
    from mlx_websockets.server.addresses import Addresses


def announce(
    console: Console, addresses: "Addresses", entrance: "WayIn | None", *, is_open: bool, is_demo: bool = False
) -> None:
    """Say where the server is and who may connect.

    Args:
        entrance: what other machines have to show; None: nobody has asked.
        is_open: nobody has to show anything.
        is_demo: the page is to show something by itself.
    """
    token = None if entrance is None or is_open else entrance.access.token
    shown = token if console.is_terminal else None
    console.table(address_rows(addresses, shown, is_demo=is_demo))
    if not addresses.network:
        return
    if is_open:
        console.warning(
            "--no-auth: EVERYBODY on your network can use this server, without a token.\n"
            "For a token leave it out; for this machine only: --host localhost"
        )
    elif entrance is not None and entrance.trouble:
        console.warning(entrance.trouble)
    elif shown is not None:
        console.info("Other machines need the token, which their addresses above carry. For none: --host localhost")
    elif entrance is not None:
        console.info(f"Other machines need the token. {entrance.whereabouts}")
    if shown is not None or is_open:
        console.drawing(code_of(page_of(addresses, shown, is_demo=is_demo)))


def address_rows(addresses: "Addresses", token: str | None = None, *, is_demo: bool = False) -> list[tuple[str, str]]:
    """Every address, for people to copy; those for other machines with the token."""
    rows = [("Page", local_page(addresses, is_demo=is_demo)), ("Local", addresses.local)]
    rows += [("On Your Network", with_token(each, token)) for each in addresses.network]
    if addresses.secure is not None:
        rows.append(("Encrypted, Local", addresses.secure.local))
        rows += [("Encrypted, On Your Network", with_token(each, token)) for each in addresses.secure.network]
    return rows


def local_page(addresses: "Addresses", *, is_demo: bool = False) -> str:
    """What a browser on this machine is to open."""
    return f"{_page_at(addresses.local)}/?demo" if is_demo else _page_at(addresses.local)


def page_of(addresses: "Addresses", token: str | None, *, is_demo: bool = False) -> str:
    """What a phone is to open: encrypted if it can be, for browsers give a camera only to such pages."""
    place = addresses.secure if addresses.secure is not None else addresses
    page = with_token(_page_at(place.network[0]), token)
    if not is_demo:
        return page
    return f"{page}/?demo" if token is None else f"{page}&demo"


def _page_at(address: str) -> str:
    return address.replace("ws", "http", 1)


def code_of(address: str) -> list[str]:
    """A QR code in half blocks, light ones drawn, for a dark background."""
    import segno

    drawn = io.StringIO()
    segno.make(address, micro=False, error="l").terminal(out=drawn, border=2, compact=True)
    return drawn.getvalue().rstrip("\n").split("\n")
