"""`mlx demo`: the small model, and a page on which it describes moving scenes at once."""

import os
import sys
import webbrowser
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_websockets.cli.announcement import local_page
from mlx_websockets.cli.console import Console
from mlx_websockets.cli.flags import Given, takes_settings
from mlx_websockets.cli.serve import run
from mlx_websockets.cli.sources import resolve

if TYPE_CHECKING:
    from mlx_websockets.server.addresses import Addresses

AS_DEMO: Given = {"model": ("demo",), "auto_port": True, "temperature": 0.2}
"""What differs from `mlx serve`, unless flags say otherwise. So small a model is better not left to chance."""


@takes_settings
def demo(
    given: Given,
    opens: Annotated[bool, typer.Option("--open", metavar="", help="Open the page in a browser.")] = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises what `mlx serve` does."""
    run(resolve(AS_DEMO | given), is_demo=True, when_serving=_open if opens else None)


def _open(addresses: "Addresses") -> None:
    page = local_page(addresses, is_demo=True)
    if not _opened(page):
        Console(sys.stdout, is_optional=True).info(f"Open {page} in a browser; none was found here.")


def _opened(page: str) -> bool:
    try:
        return has_screen() and webbrowser.open(page)
    except webbrowser.Error:
        return False


def has_screen(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a browser would have a window: one in the terminal would hide what the server says."""
    if sys.platform != "linux" or "BROWSER" in environment:
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
