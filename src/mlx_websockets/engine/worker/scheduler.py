"""Who goes first. Knows requests, prompts and rows, and nothing of MLX.

Fairness between connections is settled before requests get here: they wait in their sessions
until a row is free. Here it is settled whose prompt is computed first.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from mlx_websockets.generation import GenerationRequest, Priority

RANKS: dict[Priority, int] = {"interactive": 0, "frame": 1, "background": 2}

PATIENCE = 16
"""How often later ones may go before a prompt."""

MOST_TOGETHER = 4
"""Prompts that are computed in one pass have at most so many pieces' tokens."""

PASS_SHARE = 4
"""What a pass costs beside its tokens, as tokens: a piece divided by this. Rows of a pass are all as long as the
longest; where one more would cost the others more than that, a pass of its own is cheaper."""


@dataclass(slots=True)
class Arrival:
    """A request that has not begun.

    Attributes:
        at: when it came, in seconds of `time.perf_counter`.
        vision_seconds: spent on its pictures already.
    """

    request: GenerationRequest
    at: float
    vision_seconds: float = 0.0


class Waiting:
    """Requests that have not begun: by priority, and in the order of arrival."""

    def __init__(self) -> None:
        self._arrivals: list[Arrival] = []

    def __len__(self) -> int:
        return len(self._arrivals)

    def add(self, request: GenerationRequest, now: float) -> None:
        self._arrivals.append(Arrival(request, now))
        self._arrivals.sort(key=lambda each: RANKS[each.request.priority])

    def next(self, free_rows: int) -> Arrival | None:
        """Take the request to begin on. One that needs many rows is not overtaken meanwhile."""
        if self._arrivals and self._arrivals[0].request.choice.candidates <= free_rows:
            return self._arrivals.pop(0)
        return None

    def put_back(self, arrival: Arrival) -> None:
        """Have what was taken last be the next again, unless something more urgent comes."""
        self._arrivals.insert(0, arrival)

    def remove(self, request_id: int) -> bool:
        """Whether it was here."""
        before = len(self._arrivals)
        self._arrivals = [each for each in self._arrivals if each.request.id != request_id]
        return len(self._arrivals) < before


class Prompt(Protocol):
    """What is looked at here, and counted in."""

    priority: Priority
    passed_over: int

    @property
    def remaining(self) -> int:
        """Tokens still to be computed."""


Waiter = TypeVar("Waiter", bound=Prompt)


def first_in_line(prompts: Iterable[Waiter]) -> Waiter:
    """Whose prompt is computed next: the most urgent, of these the one that is soonest done.

    A short question overtakes a long document so; but nobody is passed over for ever.

    Args:
        prompts: in the order of arrival.
    """
    waiting = list(prompts)

    def key(prompt: Waiter) -> tuple[bool, int, int]:
        return prompt.passed_over < PATIENCE, RANKS[prompt.priority], prompt.remaining

    first = min(waiting, key=key)
    first.passed_over = 0
    for earlier in waiting[: waiting.index(first)]:
        earlier.passed_over += 1
    return first


def prompts_go_first(waiting: Iterable[Priority], running: Collection[Priority]) -> bool:
    """Whether replies wait for prompts: while more prompts wait than replies run, each as urgent as any of these.

    Args:
        waiting: of short prompts.
        running: of replies; at least one.
    """
    most_urgent = min(RANKS[priority] for priority in running)
    return sum(RANKS[priority] <= most_urgent for priority in waiting) > len(running)


def in_one_pass(first: Waiter, others: Iterable[Waiter], *, piece: int, running: int) -> list[Waiter]:
    """`first`, and those of `others` that are computed with it, all rows as long as the longest.

    While replies run, a pass that is larger than a piece serves at least as many as have to wait for it.

    Args:
        others: short prompts that can be rows of a batch.
        piece: tokens that are computed at once otherwise.
        running: replies that have to wait meanwhile.
    """
    together, tokens = [first], first.remaining
    for other in sorted(others, key=lambda prompt: prompt.remaining):
        longer = max(tokens, other.remaining)
        wasted = (longer - tokens) * len(together)
        if longer * (len(together) + 1) > MOST_TOGETHER * piece or wasted > piece // PASS_SHARE:
            break
        together.append(other)
        tokens = longer
    while len(together) < running and len(together) > 1 and len(together) * _longest(together) > piece:
        together.pop()
    return together


def _longest(prompts: list[Waiter]) -> int:
    return max(prompt.remaining for prompt in prompts)
