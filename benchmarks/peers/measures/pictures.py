"""A second question about a picture that was looked at already."""

import statistics

from benchmarks.peers.figures import Figures
from benchmarks.peers.measures import Measure
from benchmarks.peers.models import DEMO
from benchmarks.peers.plan import Plan
from benchmarks.peers.questions import Question, Questions
from benchmarks.peers.talking import ask
from benchmarks.peers.targets import Running

TOKENS = 4
FIRST, SECOND = "What is in the picture?", "Which colour has the largest shape?"


async def run(running: Running, plan: Plan, questions: Questions) -> Figures:
    [client] = await running.clients(1)
    first, second = [], []
    for _ in range(plan.picture_pairs):
        picture = (questions.picture(),)
        first.append(await ask(client, Question(FIRST, TOKENS, picture)))
        second.append(await ask(client, Question(SECOND, TOKENS, picture)))
    await client.close()
    waits = [statistics.median(each.first_after for each in replies) for replies in (first, second)]
    return {
        "first question's first token, ms": 1000 * waits[0],
        "second question's first token, ms": 1000 * waits[1],
        "second / first": waits[1] / waits[0],
        "cached tokens of the second": statistics.median(each.cached_tokens for each in second),
        "input tokens of the second": statistics.median(each.input_tokens for each in second),
    }


SECOND_QUESTION = Measure("a second question about a picture", DEMO, run, only_servers=True, sees=True, is_quick=True)
