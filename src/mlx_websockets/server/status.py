"""How the server is, as plain values for `status`, `/v1/status` and `mlx status`. Never waits."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from mlx_websockets.server.floor import Engine, Floor

GB = 1024**3


class Status:
    """What can be said of one server since it came up."""

    def __init__(self, engine: Engine, floor: Floor) -> None:
        self._engine = engine
        self._floor = floor
        self._started_at = time.monotonic()
        self._versions = _versions()

    def stats(self) -> dict[str, Any]:
        """Memory in GiB, times in seconds; `engine` is what the engine says of itself."""
        engine = self._engine.status()
        active = engine.get("memory", {}).get("active", 0)
        return {
            "memory": _memory(),
            "mlx_memory_gb": round(active / GB, 3),
            "model": {"name": self._engine.model_id, "loaded": self._engine.is_ready, "vision": self._engine.sees},
            "queue": {
                "waiting": self._floor.waiting,
                "running": self._floor.running,
                "connections": self._floor.connections,
            },
            "uptime_seconds": round(time.monotonic() - self._started_at, 3),
            "restarts": engine.get("restarts", 0),
            "engine": engine,
            "pid": os.getpid(),
            "versions": self._versions,
        }


def _memory() -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "total_gb": round(memory.total / GB, 3),
        "available_gb": round(memory.available / GB, 3),
        "percent_used": memory.percent,
    }


def _versions() -> dict[str, str]:
    return {"mlx-websockets": own_version(), "python": platform.python_version()}


def own_version() -> str:
    """The version of this package; "unknown" where it runs without being installed."""
    try:
        return version("mlx-websockets")
    except PackageNotFoundError:
        return "unknown"
