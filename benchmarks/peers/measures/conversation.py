"""A talk in turns: how much of the last turn's prompt is computed again."""

from benchmarks.peers.figures import Figures
from benchmarks.peers.measures import Measure
from benchmarks.peers.models import SMOLLM2
from benchmarks.peers.plan import Plan
from benchmarks.peers.questions import Question, Questions
from benchmarks.peers.talking import ask
from benchmarks.peers.targets import Running

TOKENS = 16


async def run(running: Running, plan: Plan, questions: Questions) -> Figures:
    [client] = await running.clients(1)
    earlier: list[tuple[str, str]] = []
    replies = []
    for _ in range(plan.turns):
        question = Question(questions.text(), TOKENS, earlier=tuple(earlier), remembers=True)
        replies.append(await ask(client, question))
        earlier.append((question.text, replies[-1].text))
    await client.close()
    first, last = replies[0], replies[-1]
    return {
        "turns": plan.turns,
        "input tokens of the last turn": last.input_tokens,
        "computed / input tokens of the last turn": 1 - last.cached_tokens / last.input_tokens,
        "first turn's first token, ms": 1000 * first.first_after,
        "last turn's first token, ms": 1000 * last.first_after,
    }


CONVERSATION = Measure("turns of a conversation", SMOLLM2, run, only_servers=True, is_quick=True)
