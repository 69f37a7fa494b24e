"""Two sources, 30 frames a second each, for 20 seconds, at a model that takes about a second a frame.

Promise: as many outcomes as frames, every analysed frame was the newest of its source when
its turn came, and memory stays flat.
"""

import asyncio
import base64
import json
import time
from collections import Counter
from typing import Any

import psutil
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.acceptance.report import Outcome
from benchmarks.acceptance.serving import TERMINAL, Server, drawn, serve

FRAMES_A_SECOND = 30
SECONDS = 20.0
PICTURES = {"red": drawn("circle", "red", format="JPEG"), "blue": drawn("square", "blue", format="JPEG")}
SLACK_SECONDS = 0.1
"""Between a source's frame being chosen and the peer's hearing of the last one's end lies the network and the loop."""


class Watch:
    """What one peer sends and hears, by source."""

    def __init__(self) -> None:
        self.sent: dict[str, list[float]] = {source: [] for source in PICTURES}
        self.ends: dict[str, list[float]] = {source: [0.0] for source in PICTURES}
        self.outcomes: dict[str, list[str]] = {}
        self.described: list[tuple[str, str]] = []
        self.stale = 0

    def note_start(self, message: dict[str, Any]) -> None:
        """A frame was chosen when the last one of its source had ended: was it the newest then?"""
        source = message["source"]
        newest = sum(at < self.ends[source][-1] - SLACK_SECONDS for at in self.sent[source]) - 1
        self.stale += message["frame_id"] < newest

    def note_end(self, message: dict[str, Any]) -> None:
        self.outcomes.setdefault(message["id"], []).append(message["type"])
        if message["type"] == "response_complete":
            source = message["id"].split("-")[0]
            self.described.append((source, message["full_text"]))
            self.ends[source].append(time.monotonic())

    async def listen(self, socket: ClientConnection) -> None:
        async for data in socket:
            message = json.loads(data)
            if message["type"] == "response_start":
                self.note_start(message)
            elif message["type"] in TERMINAL:
                self.note_end(message)

    async def send(self, socket: ClientConnection, source: str, number: int) -> None:
        frame = base64.b64encode(PICTURES[source]).decode()
        self.sent[source].append(time.monotonic())
        message = {
            "type": "video_frame",
            "id": f"{source}-{number}",
            "frame_id": number,
            "source": source,
            "frame": frame,
            "config": {"temperature": 0},
        }
        await socket.send(json.dumps(message))


async def stream(server: Server, seconds: float = SECONDS) -> dict[str, Any]:
    watch = Watch()
    memory = [_memory(server)]
    async with connect(server.url, max_size=None, compression=None, proxy=None) as socket:
        listener = asyncio.create_task(watch.listen(socket))
        began = time.monotonic()
        for tick in range(int(seconds * FRAMES_A_SECOND)):
            for source in PICTURES:
                await watch.send(socket, source, tick)
            if tick % FRAMES_A_SECOND == 0:
                memory.append(_memory(server))
            await asyncio.sleep(max(0.0, began + (tick + 1) / FRAMES_A_SECOND - time.monotonic()))
        total = sum(map(len, watch.sent.values()))
        deadline = time.monotonic() + 60
        while len(watch.outcomes) < total and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        memory.append(_memory(server))
        listener.cancel()
    settled = memory[len(memory) // 3 :]
    return {
        "frames sent": total,
        "frames with exactly one outcome": sum(len(each) == 1 for each in watch.outcomes.values()),
        "outcomes": dict(Counter(kind for each in watch.outcomes.values() for kind in each)),
        "analysed": len(watch.described),
        "analysed rightly": sum(source in text for source, text in watch.described),
        "analysed although a newer one waited": watch.stale,
        "seconds between two descriptions of a source": round(
            seconds * len(PICTURES) / max(1, len(watch.described)), 2
        ),
        "memory after a third, MB": round(settled[0] / 1e6, 1),
        "memory at the end, MB": round(settled[-1] / 1e6, 1),
    }


def _memory(server: Server) -> int:
    """Resident bytes of the server and its worker together."""
    worker = server.worker
    own = psutil.Process(server.process.pid).memory_info().rss
    return int(own + (worker.memory_info().rss if worker else 0))


def run() -> Outcome:
    with serve("demo") as server:
        seen = asyncio.run(stream(server))
    kept = (
        seen["frames with exactly one outcome"] == seen["frames sent"]
        and seen["analysed although a newer one waited"] == 0
        and seen["memory at the end, MB"] <= 1.05 * seen["memory after a third, MB"]
    )
    return Outcome("30 frames a second from two sources for 20 s", kept, seen)


if __name__ == "__main__":
    run().show()
