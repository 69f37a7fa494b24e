"""Who goes first. Knows requests, prompts and rows, and nothing of MLX.

Fairness between connections is settled before requests get here: they wait in their sessions
until a row is free. Here it is settled whose prompt is computed first.
"""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from mlx_websockets.generation import GenerationRequest, Priority

RANKS: dict[Priority, int] = {"interactive": 0, "frame": 1, "background": 2}

PATIENCE = 16
"""How often later ones may go before a prompt."""


class Waiting:
    """Requests that have not begun: by priority, and in the order of arrival."""

    def __init__(self) -> None:
        self._requests: list[tuple[GenerationRequest, float]] = []

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: GenerationRequest, now: float) -> None:
        self._requests.append((request, now))
        self._requests.sort(key=lambda each: RANKS[each[0].priority])

    def next(self, free_rows: int) -> tuple[GenerationRequest, float] | None:
        """Take the request to begin on, and when it arrived. One that needs many rows is not overtaken meanwhile."""
        if self._requests and self._requests[0][0].choice.candidates <= free_rows:
            return self._requests.pop(0)
        return None

    def remove(self, request_id: int) -> bool:
        """Whether it was here."""
        before = len(self._requests)
        self._requests = [each for each in self._requests if each[0].id != request_id]
        return len(self._requests) < before


class Prompt(Protocol):
    """What `first_in_line` looks at, and counts in."""

    priority: Priority
    passed_over: int


Waiter = TypeVar("Waiter", bound=Prompt)


def first_in_line(prompts: Iterable[Waiter], remaining: Callable[[Waiter], int]) -> Waiter:
    """Whose prompt is computed next: the most urgent, of these the one that is soonest done.

    A short question overtakes a long document so; but nobody is passed over for ever.

    Args:
        prompts: in the order of arrival.
        remaining: how many tokens of a prompt are still to be computed.
    """
    waiting = list(prompts)

    def key(prompt: Waiter) -> tuple[bool, int, int]:
        return prompt.passed_over < PATIENCE, RANKS[prompt.priority], remaining(prompt)

    first = min(waiting, key=key)
    first.passed_over = 0
    for earlier in waiting[: waiting.index(first)]:
        earlier.passed_over += 1
    return first
