"""What only a process with MLX can find out or do, done in one that is thrown away.

Importing MLX can fail in ways that take the process with it; then the answer is a sentence.
"""

import signal
import subprocess
import sys
from collections.abc import Callable

import msgspec

from mlx_websockets.engine.messages import Backend, LoadFailed, Loading, ProbeMessage
from mlx_websockets.errors import START_ERRORS, NoBackend, StartError

BACKEND_SECONDS = 60.0
_COMMAND = (sys.executable, "-P", "-m", "mlx_websockets.engine.worker.probe")
_decoder: msgspec.json.Decoder[ProbeMessage] = msgspec.json.Decoder(ProbeMessage)


def find_backend() -> Backend:
    """What MLX computes on here. Takes a second or two.

    Raises:
        NoBackend: it is not installed, has nothing to run on, or does not survive its import.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            [*_COMMAND, "backend"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BACKEND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoBackend(f"Importing MLX took more than {BACKEND_SECONDS:.0f} seconds.", _REINSTALL) from None
    told = [message for line in done.stdout.splitlines() if (message := _read(line)) is not None]
    if told and isinstance(told[-1], Backend):
        return told[-1]
    raise _failure(told[-1] if told else None, done.returncode, done.stderr)


def build_demo(report: Callable[[Loading], None]) -> None:
    """Have the demo model built, if it is not there.

    Raises:
        StartError: of the kind that says why it can't be.
    """
    with subprocess.Popen(  # noqa: S603 - our own program
        [*_COMMAND, "demo"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        failed: LoadFailed | None = None
        try:
            for line in process.stdout:
                match _read(line):
                    case Loading() as loading:
                        report(loading)
                    case LoadFailed() as message:
                        failed = message
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise _failure(failed, process.returncode, "")


_REINSTALL = "Reinstall it: pip install --force-reinstall mlx mlx-lm mlx-vlm"


def _read(line: str) -> ProbeMessage | None:
    """What a line says; None for a line that a library printed."""
    try:
        return _decoder.decode(line)
    except msgspec.MsgspecError:
        return None


def _failure(told: ProbeMessage | None, status: int, stderr: str) -> StartError:
    if isinstance(told, LoadFailed):
        return START_ERRORS.get(told.code, StartError)(told.reason, told.hint)
    if status < 0:
        return NoBackend(f"Importing MLX ended with {signal.Signals(-status).name}.", _REINSTALL)
    last = (stderr.strip().splitlines() or [f"exit status {status}"])[-1]
    return NoBackend(f"MLX can't be used: {last}", _REINSTALL)
