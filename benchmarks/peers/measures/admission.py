"""A running reply, while a long prompt or several pictures are admitted."""

import asyncio

from benchmarks.peers.figures import Figures, disturbance
from benchmarks.peers.measures import Measure
from benchmarks.peers.models import DEMO, SMOLLM2
from benchmarks.peers.plan import Plan
from benchmarks.peers.questions import Question, Questions
from benchmarks.peers.talking import ask_all
from benchmarks.peers.targets import Running

RUNNING_TOKENS = 3000
NEWCOMER_TOKENS = 2
PICTURES = 4


async def of_a_long_prompt(running: Running, plan: Plan, questions: Questions) -> Figures:
    newcomer = Question(questions.of_length(plan.long_prompt), NEWCOMER_TOKENS)
    return await _disturbed(running, plan, questions, [newcomer])


async def of_pictures(running: Running, plan: Plan, questions: Questions) -> Figures:
    return await _disturbed(running, plan, questions, questions.several(PICTURES, NEWCOMER_TOKENS, pictures=1))


async def _disturbed(running: Running, plan: Plan, questions: Questions, newcomers: list[Question]) -> Figures:
    one, *others = await running.clients(1 + len(newcomers))
    asked = await one.begin(Question(questions.text(), RUNNING_TOKENS))
    await asked.first()
    await asyncio.sleep(plan.calm_seconds)
    replies = await ask_all(others, newcomers)
    await asked.cancel()
    for client in (one, *others):
        await client.close()
    return disturbance([asked.reply], replies)


LONG_PROMPT = Measure("a long prompt is admitted", SMOLLM2, of_a_long_prompt, together=True, is_quick=True)
OF_PICTURES = Measure("4 pictures are admitted", DEMO, of_pictures, sees=True, together=True)
