"""Where models live that were built here, not downloaded: our own cache."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Where built models live; the environment's MLX_WS_CACHE comes first."""
    return Path(os.environ.get("MLX_WS_CACHE") or platformdirs.user_cache_dir("mlx-websockets")) / "models"
