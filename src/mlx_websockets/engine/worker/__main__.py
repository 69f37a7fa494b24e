"""The worker: a program of its own that owns the model. `python -m mlx_websockets.engine.worker FD`

FD is the inherited socket. The worker loads what the first message asks for, announces it,
serves, and leaves when it is told to or when the socket closes.
"""

import logging
import os
import socket
import sys
import warnings
from typing import TYPE_CHECKING

from mlx_websockets.engine.channel import BlockingChannel, ChannelClosed
from mlx_websockets.engine.messages import Load, LoadFailed, Loading, ModelSpec
from mlx_websockets.errors import NoBackend, StartError
from mlx_websockets.logs import leave

if TYPE_CHECKING:
    from mlx_websockets.engine.worker.loop import WorkerLoop

logger = logging.getLogger(__name__)


def main() -> int:
    """Exit status 0: told to stop, or the server is gone; else that of the error that was reported."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    channel = BlockingChannel(socket.socket(fileno=int(sys.argv[1])))
    try:
        message = channel.receive(timeout=60.0)
        if not isinstance(message, Load):
            return 1
        return _serve(channel, message.spec)
    except ChannelClosed:
        return 0


def _serve(channel: BlockingChannel, spec: ModelSpec) -> int:
    if not spec.show_warnings:
        _hush()
    try:
        channel.send(Loading("starting the libraries"))
        loop = _prepared(channel, spec)
    except StartError as error:
        channel.send(LoadFailed(error.code, error.reason, error.hint))
        return error.exit_code
    loop.run()
    return 0


def _prepared(channel: BlockingChannel, spec: ModelSpec) -> "WorkerLoop":
    """Everything that needs MLX is imported here, so that its absence can be told in a sentence."""
    try:
        from mlx_websockets.engine.worker.startup import prepare
    except ImportError as error:
        logger.info("%s", error)
        raise NoBackend(
            "MLX is not installed, or has no backend for this machine.",
            "pip install 'mlx-websockets[cpu]' (or [cuda13], [cuda12]); on a Mac: pip install mlx-websockets",
        ) from error
    return prepare(channel, spec)


def _hush() -> None:
    """Keep the libraries' harmless warnings and progress bars out of the log."""
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("transformers", "huggingface_hub", "mlx_vlm", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    leave(main())
