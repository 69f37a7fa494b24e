"""Which class of turns goes first, where not all can.

Somebody who waits for an answer goes before a live picture, and that before work that nobody
watches. So that none starves, each class is passed over only so often in a row: starts are
counted, not seconds, so that a slow model and a fast one keep the same promise.
"""

from collections.abc import Set as AbstractSet
from typing import get_args

from mlx_websockets.generation import Priority

CLASSES: tuple[Priority, ...] = get_args(Priority)
"""First things first."""

PATIENCE: dict[Priority, int] = {"frame": 4, "background": 16}
"""After so many starts of others in a row, while it waited, a class goes first once."""


def later_of(one: Priority, other: Priority) -> Priority:
    """The class that has to wait longer."""
    return max(one, other, key=CLASSES.index)


class Precedence:
    """The order of the classes, which depends on who was passed over."""

    def __init__(self) -> None:
        self._passed_over = dict.fromkeys(PATIENCE, 0)

    def order(self) -> list[Priority]:
        """All classes, those whose patience is at its end before the others."""
        overdue = [each for each in PATIENCE if self._passed_over[each] >= PATIENCE[each]]
        return [*overdue, *(each for each in CLASSES if each not in overdue)]

    def note_start(self, started: Priority, waiting: AbstractSet[Priority]) -> None:
        """A turn of a class starts while turns of these classes, too, would have had their lanes free."""
        for each in PATIENCE:
            is_passed_over = each in waiting and each != started
            self._passed_over[each] = self._passed_over[each] + 1 if is_passed_over else 0
