"""How late the server's event loop is while large pictures pour in."""

import asyncio
import itertools
import json
import re
import time
import urllib.request

from benchmarks.peers.figures import Figures, histogram_quantile, quantile
from benchmarks.peers.measures import Measure
from benchmarks.peers.models import TINY_GEMMA3
from benchmarks.peers.plan import Plan
from benchmarks.peers.questions import Question, Questions
from benchmarks.peers.talking import Client, NativeClient
from benchmarks.peers.targets import Running

CLIENTS = 16
PICTURES = 32
SIZE = (1920, 1080)
SPECKS = 20_000
TOKENS = 4
PING_SECONDS = 0.05
BUCKET = re.compile(r'mlx_ws_loop_lag_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)')


def lag_buckets(page: str) -> dict[float, float]:
    """Of the loop's lag, out of a Prometheus page: bounds in seconds to counts."""
    return {float(bound): float(count) for bound, count in BUCKET.findall(page)}


async def run(running: Running, plan: Plan, questions: Questions) -> Figures:
    pictures = itertools.cycle([questions.picture(SIZE, SPECKS) for _ in range(PICTURES)])
    clients = await running.clients(CLIENTS)
    pinging = await running.open()
    assert isinstance(pinging, NativeClient)
    before = lag_buckets(await asyncio.to_thread(_page, running.metrics))
    until = time.monotonic() + plan.lag_seconds
    counts, pongs = await asyncio.gather(
        asyncio.gather(*(_keep_asking(client, questions, pictures, until) for client in clients)),
        _ping(pinging, until),
    )
    after = lag_buckets(await asyncio.to_thread(_page, running.metrics))
    for client in (*clients, pinging):
        await client.close()
    counted = {bound: after[bound] - before[bound] for bound in after}
    return {
        "pictures": sum(counts),
        "loop lag p99, ms": 1000 * histogram_quantile(0.99, counted),
        "loop lag p50, ms": 1000 * histogram_quantile(0.5, counted),
        "ping to pong p99, ms": 1000 * quantile(0.99, pongs),
    }


async def _keep_asking(client: Client, questions: Questions, pictures: "itertools.cycle[bytes]", until: float) -> int:
    count = 0
    while time.monotonic() < until:
        asked = await client.begin(Question(questions.text(), TOKENS, (next(pictures),)))
        await asked.end_of(may_be_empty=True)  # a few tokens of a model with random weights may be no text
        count += 1
    return count


async def _ping(client: NativeClient, until: float) -> list[float]:
    waits = []
    while time.monotonic() < until:
        began = time.monotonic()
        await client.socket.send(json.dumps({"type": "ping", "t": 0}))
        await client.others.get()
        waits.append(time.monotonic() - began)
        await asyncio.sleep(PING_SECONDS)
    return waits


def _page(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        page: str = answer.read().decode()
        return page


LOOP_LAG = Measure(
    "16 clients send pictures of 1920 x 1080", TINY_GEMMA3, run, only_ours=True, sees=True, is_quick=True
)
