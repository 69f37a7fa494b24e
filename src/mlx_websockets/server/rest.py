"""While nobody asks anything, memory goes back to the system."""

import asyncio
from collections.abc import Callable

from mlx_websockets import heap

LOOK_SECONDS = 1.0


async def give_back_at_rest(is_resting: Callable[[], bool], look_seconds: float = LOOK_SECONDS) -> None:
    """Give memory back once in each rest that a look finds. Runs until it is cancelled."""
    is_tidy = False
    while True:
        await asyncio.sleep(look_seconds)
        if not is_resting():
            is_tidy = False
        elif not is_tidy:
            is_tidy = True
            heap.give_back()
