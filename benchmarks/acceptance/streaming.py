"""A reply of 100 tokens comes as it is made.

Promise: the first `token` arrives before a tenth of the reply's time has gone, and there are
at least 50 `token` messages.
"""

import asyncio
from typing import Any

from benchmarks.acceptance.report import Outcome
from benchmarks.acceptance.serving import Server, peer, serve

QUESTION = "Tell me a long story about a dragon who learns to cook."


async def stream(server: Server) -> dict[str, Any]:
    async with peer(server.url) as talk:
        warm_up = {"maxOutputTokens": 4}  # the first request of a process takes longer
        await talk.ask(type="text_input", content="Hello", config=warm_up)
        reply = await talk.ask(type="text_input", content=QUESTION, config={"maxOutputTokens": 100, "temperature": 0})
    return {
        "token messages": len(reply.tokens),
        "first token after, s": round(reply.first_token_seconds, 3),
        "whole reply after, s": round(reply.seconds, 3),
        "share of the reply's time before its first token": round(reply.first_token_seconds / reply.seconds, 4),
        "tokens joined are full_text": reply.text == reply.end["full_text"],
    }


def run(model: str = "demo") -> Outcome:
    with serve(model) as server:
        seen = asyncio.run(stream(server))
    kept = seen["token messages"] >= 50 and seen["share of the reply's time before its first token"] < 0.1
    return Outcome("a 100-token reply streams", kept and seen["tokens joined are full_text"], seen)


if __name__ == "__main__":
    run().show()
