"""How the server is, as plain values for `status`, `/v1/status` and `mlx status`. Never waits."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from mlx_websockets.metrics import Levels
from mlx_websockets.server.floor import Engine, Floor
from mlx_websockets.server.limits import Limits, told

GB = 1024**3


class Status:
    """What can be said of one server since it came up."""

    def __init__(self, engine: Engine, floor: Floor, limits: Limits, max_output_tokens: int) -> None:
        self._engine = engine
        self._floor = floor
        self._limits = limits
        self._max_output_tokens = max_output_tokens
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

    def overview(self) -> dict[str, Any]:
        """`stats`, and what only whoever watches over the server wants to know."""
        return self.stats() | {
            "rows": self._engine.rows,
            "rows_in_use": self._floor.rows,
            "held_bytes": self._floor.held_bytes,
            "tokens_per_second": self._engine.status().get("tokens_per_second", 0.0),
            "limits": told(self._limits, max_output_tokens=self._max_output_tokens, context_tokens=self.context_tokens),
        }

    @property
    def context_tokens(self) -> int | None:
        """The longest prompt and reply together; None before a model has been loaded."""
        info = self._engine.status().get("model_info") or {}
        tokens: int | None = info.get("context_tokens")
        return tokens

    def levels(self) -> Levels:
        """The numbers that `/metrics` reads when it is asked."""
        engine = self._engine.status()
        return Levels(
            is_ready=self._engine.is_ready,
            connections=self._floor.connections,
            running=self._floor.running,
            rows=self._engine.rows,
            rows_in_use=self._floor.rows,
            waiting=self._floor.waiting,
            held_bytes=self._floor.held_bytes,
            tokens=engine.get("tokens", 0),
            tokens_per_second=engine.get("tokens_per_second", 0.0),
            restarts=engine.get("restarts", 0),
            worker_memory=engine.get("memory", {}),
        )


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
