"""As it comes from the package index: ours brings its BLAS along, for the others nothing is preloaded."""

from benchmarks.peers.figures import Figures
from benchmarks.peers.measures import Measure
from benchmarks.peers.models import SMOLLM2
from benchmarks.peers.plan import Plan
from benchmarks.peers.questions import Question, Questions
from benchmarks.peers.talking import ask
from benchmarks.peers.targets import Running


async def run(running: Running, plan: Plan, questions: Questions) -> Figures:
    [client] = await running.clients(1)
    reply = await ask(client, Question(questions.of_length(plan.installed_prompt), plan.installed_tokens))
    await client.close()
    return {
        "input tokens": reply.input_tokens,
        "first token, ms": 1000 * reply.first_after,
        "tokens/s after the first": (reply.output_tokens - 1) / (reply.ended_at - reply.times[0]),
    }


AS_INSTALLED = Measure("as installed, a prompt of 500 tokens", SMOLLM2, run, only_servers=True, as_installed=True)
