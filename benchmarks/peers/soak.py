"""Three thousand requests, and what is left of them in memory: `python -m benchmarks.peers.soak`.

Texts and pictures from eight clients, one in ten given up. Memory is read when nothing runs.
"""

import argparse
import asyncio
import itertools
import json
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

from benchmarks.acceptance.report import RESULTS
from benchmarks.peers.figures import growth
from benchmarks.peers.models import TINY_GEMMA3, model_folder
from benchmarks.peers.questions import Question, Questions
from benchmarks.peers.report import machine, today
from benchmarks.peers.talking import Client, NativeClient
from benchmarks.peers.targets import OURS, TARGETS, Running, common_blas, resident_bytes, started

REQUESTS, SETTLING, EVERY, CLIENTS = 3000, 300, 50, 8
PICTURE_SIZE = (640, 480)
TOKENS = 24
HEARTBEAT_SECONDS = 1.5
"""The worker tells of its memory once a second."""

MEASURE = "soak"
"""As the report has it."""

Reading = dict[str, float]


async def soak(running: Running, questions: Questions, requests: int) -> list[Reading]:
    """Memory after every `EVERY` requests."""
    clients = await running.clients(CLIENTS)
    watching = await running.open()
    assert isinstance(watching, NativeClient)
    numbers = iter(range(requests))
    readings = []
    while batch := list(itertools.islice(numbers, EVERY)):
        shares = [batch[start::CLIENTS] for start in range(CLIENTS)]
        await asyncio.gather(*(_ask(client, questions, share) for client, share in zip(clients, shares, strict=True)))
        await asyncio.sleep(HEARTBEAT_SECONDS)
        readings.append({"requests": batch[-1] + 1, **await _memory(watching, running.pid)})
        print(", ".join(f"{name} {value:.4g}" for name, value in readings[-1].items()), flush=True)
    return readings


async def _ask(client: Client, questions: Questions, numbers: list[int]) -> None:
    for number in numbers:
        pictures = (questions.picture(PICTURE_SIZE),) if number % 3 == 0 else ()
        asked = await client.begin(Question(questions.text(), TOKENS, pictures))
        if number % 10 == 0:
            await asked.first(may_be_empty=True)
            await asked.cancel()
        else:  # one in some hundreds begins with the token that ends it: the weights are random
            await asked.end_of(may_be_empty=True)


async def _memory(client: NativeClient, pid: int) -> Reading:
    await client.socket.send(json.dumps({"type": "get_status"}))
    while (message := await client.others.get())["type"] != "status":
        pass
    memory = message["stats"]["engine"]["memory"]
    return {
        "active, MB": memory["active"] / 1e6,
        "kept, MB": memory.get("kept", 0) / 1e6,
        "cached, MB": memory["cached"] / 1e6,
        "resident, MB": resident_bytes(pid) / 1e6,
    }


def outcome(readings: list[Reading], settling: int = SETTLING) -> dict[str, float]:
    """How much memory grew after the first `settling` requests, as shares."""
    skipped = sum(each["requests"] < settling for each in readings)
    return {
        "requests": readings[-1]["requests"],
        "active memory, growth": growth([each["active, MB"] for each in readings], skipped),
        "resident, growth": growth([each["resident, MB"] for each in readings], skipped),
        "active at the end, MB": readings[-1]["active, MB"],
        "resident at the end, MB": readings[-1]["resident, MB"],
    }


def _file(day: str) -> Path:
    return RESULTS / f"peers-soak-{day}.json"


def latest() -> list[dict[str, Any]]:
    """The newest soak's outcome as a record for the report; nothing if there is none."""
    files = sorted(RESULTS.glob(_file("*").name))
    if not files:
        return []
    figures = json.loads(files[-1].read_text("utf-8"))["outcome"]
    return [{"round": 1, "target": OURS, "model": TINY_GEMMA3, "measure": MEASURE, "figures": figures}]


async def run(requests: int) -> list[Reading]:
    folder = model_folder(TINY_GEMMA3)
    async with started(TARGETS[OURS], folder, common_blas()) as running:
        return await soak(running, Questions(uuid.uuid4().hex, folder), requests)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="a shorter one is not kept")
    requests = parser.parse_args().requests
    readings = asyncio.run(run(requests))
    came_out = outcome(readings, min(SETTLING, requests // 10))
    print(json.dumps(came_out, indent=1))
    if requests >= REQUESTS:
        RESULTS.mkdir(exist_ok=True)
        kept = {"command": "python -m benchmarks.peers.soak", "machine": machine(), "outcome": came_out}
        _file(today()).write_text(json.dumps({**kept, "readings": readings}, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
