"""A program that others take for a server: it has a record, a port and a log, but no model.

Its arguments are flags of `mlx serve`; STAND_IN says how it behaves.
"""

import os
import signal
import subprocess
import sys

import typer

from mlx_websockets.cli.flags import Given, takes_settings
from mlx_websockets.cli.presence import present
from mlx_websockets.cli.sources import resolve
from mlx_websockets.errors import ModelNotFound
from mlx_websockets.server.addresses import addresses_of
from mlx_websockets.server.binding import bind


@takes_settings
def stand_in(given: Given) -> None:
    how = os.environ.get("STAND_IN", "ready")
    resolved = resolve({**given, "host": "localhost"})
    if how == "crash":
        print("Segmentation fault, as it were", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    with present(resolved.settings, resolved.flags()) as presence:
        print("→ Loading", flush=True)
        if how == "fail":
            raise ModelNotFound("There is no such model.", "Try another one.")
        if how == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            print(f"child {child.pid}", flush=True)
        elif how != "loading":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        sockets = bind(resolved.settings)
        if how != "loading":
            presence.serving(addresses_of("localhost", sockets[0].getsockname()[1]))
        while True:
            signal.pause()


try:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(stand_in)
    app()
except ModelNotFound as error:
    print(f"✗ {error.reason}", file=sys.stderr)
    sys.exit(error.exit_code)
