"""How late the event loop wakes a sleeper: what everybody waits when something blocks it."""

import asyncio
from collections.abc import Callable

LOOK_SECONDS = 0.1


async def watch_lag(note: Callable[[float], None], look_seconds: float = LOOK_SECONDS) -> None:
    """Tell `note` the lag in seconds, at every look. Runs until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + look_seconds
        await asyncio.sleep(look_seconds)
        note(max(0.0, loop.time() - due))
