"""10,000 messages that make no sense, while another peer is being served.

Promise: each gets an `error` (or the answer that the contract gives it); no crash, no closed
socket, and nothing is lost for the other.
"""

import asyncio
import json
import random
from collections import Counter
from typing import Any

from benchmarks.acceptance.report import Outcome
from benchmarks.acceptance.serving import Server, peer, serve

COUNT = 10_000
BATCH = 200
PAUSE_SECONDS = 0.2
"""Between two batches, so that the other peer asks many times meanwhile."""
CORPUS: tuple[str | bytes, ...] = (
    "",
    " ",
    "{",
    "}",
    "[]",
    "[{}]",
    "null",
    "true",
    "0",
    '"text_input"',
    "{}",
    '{"type": null}',
    '{"type": 5}',
    '{"type": []}',
    '{"type": "nope"}',
    '{"type": "text_input"}',
    '{"type": "text_input", "content": ""}',
    '{"type": "text_input", "content": 5}',
    '{"type": "text_input", "content": {"a": "b"}}',
    '{"type": "text_input", "content": null}',
    '{"type": "text_input", "content": "\\ud800"}',
    '{"type": "image_input"}',
    '{"type": "image_input", "image": ""}',
    '{"type": "image_input", "image": 5}',
    '{"type": "video_frame", "frame": []}',
    '{"type": "config", "temperature": NaN}',
    '{"type": "config", "temperature": 1e999}',
    '{"type": "config", "temperature": true}',
    '{"type": "config", "topK": -1}',
    '{"type": "config", "maxOutputTokens": 0}',
    '{"type": "config", "seed": "x"}',
    '{"type": "config", "topP": 2}',
    '{"type": "cancel", "id": 5}',
    '{"type": "cancel", "id": "nobody"}',
    '{"type": "text_input", "content": "x", "id": ""}',
    '{"type": "text_input", "content": "x", "id": "' + "i" * 65 + '"}',
    '{"type": "text_input", "content": "x", "stop": "no list"}',
    '{"type":' * 2000,
    "[" * 100_000,
    '{"type": "text_input", "content": "x", "config": 7}',
    "\x00",
    "\ufeff{}",
    "NaN",
    b"",
    b"M",
    b"M\x01",
    b"M\x01\xff\xff{}",
    b"M\x01\x00\x02{}rest",
    b"M\x02\x00\x02{}",
    b"\xff\xfe\x00",
    b"{}",
    b"M\x01\x00\x00",
)
TEMPLATES: tuple[dict[str, Any], ...] = (
    {"type": "text_input", "content": "x", "context": "y", "id": "a", "stop": ["z"], "config": {"temperature": 1}},
    {"type": "image_input", "image": "aGVsbG8=", "prompt": "x", "source": "s"},
    {"type": "video_frame", "frame": "aGVsbG8=", "source": "s", "frame_id": 3, "ts": 1.5, "policy": "latest"},
    {"type": "config", "temperature": 0.9, "maxOutputTokens": 10, "topK": 5, "seed": 3, "responseModalities": ["TEXT"]},
    {"type": "cancel", "id": "a", "source": "s"},
    {"type": "ping", "t": 5},
)
JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    1.5e308,
    "",
    "x" * 300,
    [],
    {},
    [[[]]],
    {"a": {"b": []}},
    "\u2028",
    ["TEXT", 1],
    "data:,",
    "😀",
)


def nonsense(chance: random.Random) -> str | bytes:
    """One message: from the corpus, a good one with a field spoiled, a good one cut short, or noise."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.choice(CORPUS)
    if kind == 3:
        noise = chance.randbytes(chance.randrange(80))
        return noise if chance.random() < 0.5 else noise.decode("latin-1")
    message = dict(chance.choice(TEMPLATES))
    field = chance.choice(list(message))
    message[field] = chance.choice(JUNK)
    text = json.dumps(message)
    return text if kind == 1 else text[: chance.randrange(len(text))]


async def send_nonsense(server: Server, count: int = COUNT) -> dict[str, Any]:
    chance = random.Random(11)
    answers: Counter[str] = Counter()
    innocent_asked = innocent_answered = 0
    stop = asyncio.Event()

    async def be_innocent() -> None:
        nonlocal innocent_asked, innocent_answered
        async with peer(server.url) as innocent:
            while not stop.is_set():
                innocent_asked += 1
                reply = await innocent.ask(
                    type="text_input", content="Hello", config={"maxOutputTokens": 4}, id=f"i-{innocent_asked}"
                )
                innocent_answered += reply.end["type"] == "response_complete"

    bystander = asyncio.create_task(be_innocent())
    async with peer(server.url) as talk:
        talk._reader.cancel()  # every message is counted here, whoever it is for
        for start in range(0, count, BATCH):
            for _ in range(min(BATCH, count - start)):
                await talk.socket.send(nonsense(chance))
            await talk.socket.send(json.dumps({"type": "ping", "t": f"end of {start}"}))
            while True:
                message = json.loads(await asyncio.wait_for(talk.socket.recv(), 60))
                if message["type"] == "pong" and message.get("t") == f"end of {start}":
                    break
                answers[message["type"] if message["type"] != "error" else f"error {message['code']}"] += 1
            await asyncio.sleep(PAUSE_SECONDS)
        still_open = talk.socket.state.name == "OPEN"
    stop.set()
    await bystander
    errors = sum(number for kind, number in answers.items() if kind.startswith("error"))
    return {
        "messages sent": count,
        "errors": errors,
        "answers by kind": dict(answers.most_common()),
        "the socket stayed open": still_open,
        "innocent questions answered": f"{innocent_answered} of {innocent_asked}",
        "the server lives": server.process.poll() is None,
    }


def run(model: str = "demo") -> Outcome:
    with serve(model) as server:
        seen = asyncio.run(send_nonsense(server))
    answered, asked = seen["innocent questions answered"].split(" of ")
    kept = seen["the socket stayed open"] and seen["the server lives"] and answered == asked
    return Outcome("10,000 messages that make no sense", kept, seen)


if __name__ == "__main__":
    run().show()
