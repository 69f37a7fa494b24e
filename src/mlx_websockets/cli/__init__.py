"""The command `mlx`. Only this package prints and only it decides an exit status."""

from mlx_websockets.cli.app import main

__all__ = ["main"]
