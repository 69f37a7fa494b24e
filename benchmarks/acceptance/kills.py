"""`kill -9` of the worker in the middle of a reply, 20 times over.

Promise: each such reply ends with one error, retryable; no socket is lost; every following
question is answered.
"""

import asyncio
from typing import Any

from benchmarks.acceptance.report import Outcome
from benchmarks.acceptance.serving import Server, peer, serve

ROUNDS = 20


async def kill_over_and_over(server: Server, rounds: int = ROUNDS) -> dict[str, Any]:
    right_errors = answered = bystander_answers = 0
    async with peer(server.url) as talk, peer(server.url) as bystander:
        for number in range(rounds):
            reply = await talk.begin(
                type="text_input",
                content="Tell me a long story.",
                id=f"cut-{number}",
                config={"maxOutputTokens": 400, "temperature": 0},
            )
            while not reply.tokens:
                await asyncio.sleep(0.005)
            worker = server.worker
            assert worker is not None
            worker.kill()
            end = (await talk.end_of(f"cut-{number}")).end
            right_errors += end["type"] == "error" and end["code"] == "engine_restarted" and end["retryable"] is True
            after = await talk.ask(
                type="text_input", content="Hello", id=f"after-{number}", config={"maxOutputTokens": 4}
            )
            answered += after.end["type"] == "response_complete"
            late = await bystander.ask(
                type="text_input", content="Hello", id=f"late-{number}", config={"maxOutputTokens": 4}
            )
            bystander_answers += late.end["type"] == "response_complete"
        terminal = [
            sum(each["type"] in ("error", "response_complete") for each in reply.messages)
            for reply in talk._replies.values()
        ]
        sockets = sum(each.socket.state.name == "OPEN" for each in (talk, bystander))
    return {
        "kills": rounds,
        "replies that ended with engine_restarted, retryable": right_errors,
        "requests with exactly one terminal message": f"{terminal.count(1)} of {len(terminal)}",
        "following questions answered": answered,
        "questions of a bystander answered": bystander_answers,
        "sockets still open": f"{sockets} of 2",
    }


def run(model: str = "demo") -> Outcome:
    with serve(model) as server:
        seen = asyncio.run(kill_over_and_over(server))
    kept = (
        seen["replies that ended with engine_restarted, retryable"]
        == seen["following questions answered"]
        == seen["kills"]
    )
    return Outcome(
        "kill -9 of the worker in mid-reply, 20 times", kept and seen["sockets still open"] == "2 of 2", seen
    )


if __name__ == "__main__":
    run().show()
