"""Tokens a second, waits and gaps of so many clients that ask at once, and what that costs the CPU."""

from benchmarks.peers.figures import Figures, speed
from benchmarks.peers.measures import Measure
from benchmarks.peers.plan import Plan
from benchmarks.peers.questions import Questions
from benchmarks.peers.talking import ask_all
from benchmarks.peers.targets import Running, cpu_seconds, processes


def name(clients: int, pictures: int = 0) -> str:
    with_pictures = ", a picture each" if pictures else ""
    return f"speed, {clients} client{'s' if clients > 1 else ''}{with_pictures}"


def measure(model: str, clients: int, pictures: int = 0) -> Measure:
    async def run(running: Running, plan: Plan, questions: Questions) -> Figures:
        tokens = plan.picture_tokens if pictures else plan.tokens
        return await crowd(running, questions, clients, tokens, pictures)

    return Measure(name(clients, pictures), model, run, sees=pictures > 0, together=clients > 1, is_quick=not pictures)


async def crowd(running: Running, questions: Questions, clients: int, tokens: int, pictures: int = 0) -> Figures:
    """So many clients ask one question each."""
    asked = questions.several(clients, tokens, pictures)
    peers = await running.clients(clients)
    tree = processes(running.pid)
    front = [each for each in tree if each.pid in running.front]
    before = cpu_seconds(tree), cpu_seconds(front)
    replies = await ask_all(peers, asked)
    after = cpu_seconds(tree), cpu_seconds(front)
    for peer in peers:
        await peer.close()
    total = sum(each.output_tokens for each in replies)
    figures = speed(replies) | {"CPU, ms/token": 1000 * (after[0] - before[0]) / total}
    if front:
        figures["CPU without the model's process, ms/token"] = 1000 * (after[1] - before[1]) / total
    return figures
