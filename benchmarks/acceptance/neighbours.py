"""16 requests at once with 16 different temperatures and seeds.

Promise: each reply is the one that the same request gets alone. Where rounding in a larger
batch turned a near tie around, the share that stayed equal is told as it is.
"""

import asyncio
from typing import Any

from benchmarks.acceptance.report import Outcome
from benchmarks.acceptance.serving import Server, peer, serve

COUNT = 16
TOKENS = 40
QUESTIONS = ("Tell me a joke.", "Why is the sky blue?", "Name three animals.", "What is a boat?")


def request(number: int) -> dict[str, Any]:
    config = {
        "temperature": round(0.1 * (number + 1), 1),
        "seed": 1000 + number,
        "topK": (0, 50, 20)[number % 3],
        "topP": (1.0, 0.9)[number % 2],
        "frequencyPenalty": (0.0, 0.0, 0.8)[number % 3],
        "maxOutputTokens": TOKENS,
    }
    return {"type": "text_input", "content": QUESTIONS[number % len(QUESTIONS)], "config": config}


async def compare(server: Server, count: int = COUNT) -> dict[str, Any]:
    async with peer(server.url) as talk:
        alone = [await talk.ask(id=f"alone-{number}", **request(number)) for number in range(count)]
        together = await asyncio.gather(
            *(talk.ask(id=f"together-{number}", **request(number)) for number in range(count))
        )
    equal = sum(a.text == b.text for a, b in zip(alone, together, strict=True))
    return {
        "requests": count,
        "replies equal to the ones alone": equal,
        "different replies among them": len({reply.text for reply in together}),
        "tokens a reply, mean": round(sum(len(reply.tokens) for reply in together) / count, 1),
    }


def run(model: str = "demo") -> Outcome:
    with serve(model) as server:
        seen = asyncio.run(compare(server))
    return Outcome("16 requests at once, each as if alone", seen["replies equal to the ones alone"] == COUNT, seen)


if __name__ == "__main__":
    run().show()
