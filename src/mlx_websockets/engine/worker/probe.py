"""Programs that say something in JSON lines and leave. `python -m mlx_websockets.engine.worker.probe WHAT`

`backend`: what MLX computes on here. `demo`: builds the demo model, telling how far it is.
"""

import sys

import msgspec

from mlx_websockets.engine.messages import Backend, LoadFailed, ProbeMessage
from mlx_websockets.errors import StartError


def main() -> int:
    """Exit status 0, or that of the error that was told."""
    work = {"backend": _find_backend, "demo": _build_demo}[sys.argv[1]]
    try:
        work()
    except StartError as error:
        _tell(LoadFailed(error.code, error.reason, error.hint))
        return error.exit_code
    return 0


def _find_backend() -> None:
    from mlx_websockets.engine.worker.models import available_bytes, find_backend, library_versions

    name = find_backend()
    _tell(Backend(name, available_bytes(name), library_versions()))


def _build_demo() -> None:
    from mlx_websockets.engine.worker.demo import demo_model

    demo_model(_tell)


def _tell(message: ProbeMessage) -> None:
    print(msgspec.json.encode(message).decode(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
