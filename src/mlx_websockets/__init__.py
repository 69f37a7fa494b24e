"""Stream text, pictures and video frames to vision-language models run locally with MLX.

Importing this imports nothing else. Start with `mlx_websockets.client` to talk to a server,
or with the command `mlx serve` to run one.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version  # reads files: only for those who ask

        return version("mlx-websockets")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
