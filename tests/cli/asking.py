"""The commands that talk to a server, as programs of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_websockets.daemon.records import Record, Records, new_id, start_time

PATIENCE = 60.0


def mlx(*arguments: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `mlx` to its end, with `given` on standard input."""
    command = [sys.executable, "-m", "mlx_websockets", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, input=given, timeout=PATIENCE, env={**os.environ, **environment}
    )


@contextmanager
def on_record(folder: Path, port: int, state: str = "ready") -> Iterator[None]:
    """A server's record, without the server."""
    started = start_time(os.getpid())
    assert started is not None
    record = Record(
        id=new_id(), pid=os.getpid(), process_start=started, model="demo", host="localhost", port=port,
        started_at=time.time(), url=f"ws://localhost:{port}", state=state,
    )  # fmt: skip
    with Records.of_this_user({"MLX_WS_STATE": str(folder)}).hold(record):
        yield
