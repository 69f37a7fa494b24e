"""200 cuts: sockets that break at random bytes of streaming replies lose no token and double none.

    python -m benchmarks.acceptance.cuts [--cuts 200]

Needs no model: the engine is scripted, everything else is real. A TCP relay between the client
library and the server cuts each connection after a random number of bytes.
"""

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "tests" / "client")]

from answering import answering  # noqa: E402
from cutting import cutting  # noqa: E402
from test_returning import Talkative, expected  # noqa: E402

from mlx_websockets.client import connect  # noqa: E402

REPLIES_AT_ONCE = 4
MOST_BYTES = 40_000


async def run(cuts: int, seed: int) -> bool:
    """Ask until so many sockets were cut; whether every reply was whole, each token once."""
    chance = random.Random(seed)
    lengths = iter([chance.randint(0, MOST_BYTES) + 700 for _ in range(cuts)])
    began, asked, wrong = time.monotonic(), 0, 0
    async with answering(Talkative()) as url, cutting(url, lengths) as (way, cutter), connect(way) as mlx:
        while cutter.cuts < cuts:
            names = [f"q{asked + number}-" for number in range(REPLIES_AT_ONCE)]
            asked += len(names)
            replies = [mlx.ask(name) for name in names]
            for name, reply in zip(names, replies, strict=True):
                streamed = "".join([delta async for delta in reply])
                wrong += not (streamed == await reply.text() == expected(name))
    seconds = time.monotonic() - began
    print(f"{cutter.cuts} cuts, {asked} replies of 120 tokens, {wrong} not whole, {seconds:.0f} s")
    return wrong == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    return 0 if asyncio.run(run(chosen.cuts, chosen.seed)) else 1


if __name__ == "__main__":
    sys.exit(main())
