"""The server with an engine that talks at a steady pace: crowds and fuzzers are let loose on it.

A program of its own, `python -m benchmarks.acceptance.scripted_server`; prints its port. For
each line on standard input it prints one of JSON: its memory, how late its loop was since the
last line, and its connections. What a request says is how it is answered: `say 50` or, with
longer words, `say 50 4096`.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

import psutil

from mlx_websockets import logs
from mlx_websockets.generation import Delta, Finished, GenerationRequest, Started, Usage
from mlx_websockets.server.limits import Limits
from mlx_websockets.server.run import serve
from mlx_websockets.settings import Settings
from mlx_websockets.testing import Listener, ScriptedEngine

LOOK_SECONDS = 0.01


class SteadyEngine(ScriptedEngine):
    """Says one word of every request each step."""

    rows = 256

    def __init__(self, step_seconds: float) -> None:
        super().__init__()
        self.step_seconds = step_seconds
        self._talking: asyncio.Task[None] | None = None

    async def start(self, on_progress: Callable[[Any], None] | None = None) -> None:
        self._talking = asyncio.create_task(self._talk())

    async def stop(self) -> None:
        if self._talking is not None:
            self._talking.cancel()

    def submit(self, request: GenerationRequest, listener: Listener) -> None:
        super().submit(request, listener)
        self.say(Started(request.id))

    def cancel(self, request_id: int) -> None:
        super().cancel(request_id)
        self._forget(request_id)

    async def _talk(self) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            due = max(due + self.step_seconds, clock())  # what was missed is not made up for
            await asyncio.sleep(due - clock())
            for request in self.running:
                self._say_one_word(request)

    def _say_one_word(self, request: GenerationRequest) -> None:
        words, length = wish_of(request)
        said = self.said[request.id]
        if said < words:
            self.say(Delta(request.id, f"{said} ".ljust(length, "x")))
        else:
            self.say(Finished(request.id, "stop", Usage(input_tokens=1, output_tokens=said)))
            self._forget(request.id)

    def _forget(self, request_id: int) -> None:
        self.requests.pop(request_id, None)
        self.said.pop(request_id, None)


def wish_of(request: GenerationRequest) -> tuple[int, int]:
    """How many words, and how long each."""
    match request.messages[-1].text.split():
        case ["say", words]:
            return int(words), 0
        case ["say", words, length]:
            return int(words), int(length)
    return 3, 0


async def keep_looking(lags: list[float]) -> None:
    """How late the loop is, in seconds, a hundred times a second."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        lags.append(clock() - due)


def tell(lags: list[float]) -> None:
    if not sys.stdin.readline():
        asyncio.get_running_loop().remove_reader(sys.stdin)
        return
    process, late = psutil.Process(), sorted(lags) or [0.0]
    seen = {
        "rss_mb": round(process.memory_info().rss / 1e6, 2),
        "descriptors": process.num_fds(),
        "tasks": len(asyncio.all_tasks()),
        "cpu_seconds": round(sum(process.cpu_times()[:2]), 2),
        "looks": len(lags),
        "lag_ms": {f"p{part}": round(1000 * late[len(late) * part // 100], 2) for part in (50, 90, 99)},
        "lag_max_ms": round(1000 * late[-1], 2),
    }
    lags.clear()
    print(json.dumps(seen), flush=True)


async def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--step-ms", type=float, default=5.0)
    flags.add_argument("--limits", type=json.loads, default={}, help="fields of `Limits`, as JSON")
    chosen = flags.parse_args()
    logs.set_up(debug=False)
    lags: list[float] = []
    looking = asyncio.create_task(keep_looking(lags))
    asyncio.get_running_loop().add_reader(sys.stdin, tell, lags)
    try:
        await serve(
            Settings(host="127.0.0.1", port=0),
            SteadyEngine(chosen.step_ms / 1000),
            lambda addresses: print(addresses.port, flush=True),
            limits=Limits(**chosen.limits),
        )
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


if __name__ == "__main__":
    asyncio.run(main())
