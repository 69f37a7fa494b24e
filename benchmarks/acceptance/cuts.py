"""200 cuts: sockets that break at random bytes of streaming replies lose no token and double none.

    python -m benchmarks.acceptance.cuts [--quick] [--minutes 20]

Needs no model: the engine is scripted, everything else is real. A TCP relay between the client
library and the server cuts each connection after a random number of bytes.
"""

import asyncio
import random
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "tests" / "client")]

from answering import answering  # noqa: E402
from cutting import cutting  # noqa: E402
from test_returning import Talkative, expected  # noqa: E402

from benchmarks.acceptance.report import Outcome  # noqa: E402
from benchmarks.acceptance.trials import Trial, conduct  # noqa: E402
from mlx_websockets.client import connect  # noqa: E402

CUTS, QUICK_CUTS, SEED = 200, 10, 0
REPLIES_AT_ONCE = 4
MOST_BYTES = 40_000


async def cut_replies(cuts: int, seed: int) -> tuple[int, int, int]:
    """Ask until so many sockets were cut: how many were, how many replies there were, and how many not whole."""
    chance = random.Random(seed)
    lengths = iter([chance.randint(0, MOST_BYTES) + 700 for _ in range(cuts)])
    asked = wrong = 0
    async with answering(Talkative()) as url, cutting(url, lengths) as (way, cutter), connect(way) as mlx:
        while cutter.cuts < cuts:
            names = [f"q{asked + number}-" for number in range(REPLIES_AT_ONCE)]
            asked += len(names)
            replies = [mlx.ask(name) for name in names]
            for name, reply in zip(names, replies, strict=True):
                streamed = "".join([delta async for delta in reply])
                wrong += not (streamed == await reply.text() == expected(name))
    return cutter.cuts, asked, wrong


def run(cuts: int = CUTS) -> Outcome:
    made, asked, wrong = asyncio.run(cut_replies(cuts, SEED))
    seen = {
        "sockets cut": made,
        "replies of 120 tokens, 4 at a time": asked,
        "replies that lost or doubled a token": wrong,
    }
    lost = f"tokens of {wrong} replies" if wrong else ""
    return Outcome("The socket cut at random bytes of replies, and resumed", wrong == 0, seen, f"{made} times", lost)


TRIAL = Trial(
    "cuts",
    "The socket cut at random bytes of replies, and resumed",
    lambda is_quick: run(QUICK_CUTS if is_quick else CUTS),
)


def main() -> int:
    return conduct("cuts", __doc__, [TRIAL])[0]


if __name__ == "__main__":
    sys.exit(main())
