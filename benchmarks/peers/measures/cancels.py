"""Replies that are given up: how soon that is so, and whether a newcomer feels anything of it."""

import asyncio
import time

from benchmarks.peers.figures import Figures, quantile
from benchmarks.peers.measures import Measure
from benchmarks.peers.models import SMOLLM2
from benchmarks.peers.plan import Plan
from benchmarks.peers.questions import Question, Questions
from benchmarks.peers.talking import ask
from benchmarks.peers.targets import OURS, Running

LONG_TOKENS = 400
SHORT_TOKENS = 2
SETTLE_SECONDS = 3.0


async def run(running: Running, plan: Plan, questions: Questions) -> Figures:
    clients = await running.clients(plan.cancels + 1)
    *crowd, newcomer = clients
    asked = [await client.begin(Question(questions.text(), LONG_TOKENS)) for client in crowd]
    for each in asked:
        await each.first()
    waits = []
    for each in asked:
        began = time.monotonic()
        await each.cancel()
        waits.append(time.monotonic() - began)
    after = await ask(newcomer, Question(questions.text(), SHORT_TOKENS))
    await asyncio.sleep(SETTLE_SECONDS)
    alone = await ask(newcomer, Question(questions.text(), SHORT_TOKENS))
    for client in clients:
        await client.close()
    figures = {
        "newcomer's first token right after, ms": 1000 * after.first_after,
        "the same later, ms": 1000 * alone.first_after,
    }
    if running.target.name == OURS:  # the others say nothing when a reply has been given up
        figures |= {
            "from cancel to its confirmation p50, ms": 1000 * quantile(0.5, waits),
            "from cancel to its confirmation, longest, ms": 1000 * max(waits),
        }
    return figures


GIVEN_UP = Measure("replies are given up", SMOLLM2, run, together=True)
