"""Who runs next. Knows requests and rows, and nothing of MLX.

First come, first served: fairness between connections is settled before requests get here,
because they wait in their sessions until a row is free.
"""

from collections import deque
from typing import Generic, TypeVar

from mlx_websockets.generation import GenerationRequest

Running = TypeVar("Running")


class Scheduler(Generic[Running]):
    """The worker's requests: waiting ones, and the running ones by row."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[GenerationRequest, float]] = deque()
        self._running: dict[int, Running] = {}
        self._rows: dict[int, int] = {}  # by request id

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, request: GenerationRequest, now: float) -> None:
        self._waiting.append((request, now))

    def next(self) -> tuple[GenerationRequest, float] | None:
        """Take the request to begin on, and when it arrived."""
        return self._waiting.popleft() if self._waiting else None

    def begin(self, request: GenerationRequest, row: int, running: Running) -> None:
        self._running[row] = running
        self._rows[request.id] = row

    def at(self, row: int) -> Running | None:
        return self._running.get(row)

    def end(self, request_id: int) -> int | None:
        """Forget a request; returns the row it ran in, None if it only waited or was not known."""
        row = self._rows.pop(request_id, None)
        if row is not None:
            del self._running[row]
        else:
            self._waiting = deque(each for each in self._waiting if each[0].id != request_id)
        return row

    def end_all(self) -> list[int]:
        """Forget all that runs; returns the ids."""
        ids = list(self._rows)
        self._running.clear()
        self._rows.clear()
        return ids
