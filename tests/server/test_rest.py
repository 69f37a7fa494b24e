import asyncio

import pytest

from mlx_websockets import heap
from mlx_websockets.server.rest import give_back_at_rest


def test_memory_is_given_back_once_in_each_rest(monkeypatch: pytest.MonkeyPatch):
    given_back: list[None] = []
    monkeypatch.setattr(heap, "give_back", lambda: given_back.append(None))
    looks = iter([True, True, False, False, True, True, True])
    over = asyncio.Event()

    def is_resting() -> bool:
        rests = next(looks, None)
        if rests is None:
            over.set()
        return bool(rests)

    async def watch() -> None:
        watching = asyncio.create_task(give_back_at_rest(is_resting, look_seconds=0))
        async with asyncio.timeout(10):
            await over.wait()
        watching.cancel()

    asyncio.run(watch())

    assert len(given_back) == 2
