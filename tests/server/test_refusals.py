"""The dialogues in which a real server refuses: its limits, its models, its own mistakes.

They are kept beside the others and say `= served`; the rest of their first lines are limits, or where the peer
is. `<<a * 3>>` in what the peer sends stands for `aaa`.
"""

import asyncio
import dataclasses
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE, Running, StartableScriptedEngine, close_code, hear, holds, running, say
from websockets.asyncio.client import ClientConnection

from mlx_websockets.errors import START_ERRORS, StartError
from mlx_websockets.server.limits import Limits
from mlx_websockets.testing import ENGINE_VERBS, Step, Transcript, matches, read_transcript

TRANSCRIPTS = sorted(Path(__file__).parent.parent.joinpath("transcripts").glob("*.txt"))
SERVED = [path for path in TRANSCRIPTS if "\n= served\n" in path.read_text("utf-8")]
FROM_ELSEWHERE = {"additional_headers": {"X-Forwarded-For": "203.0.113.7"}}


class Engine(StartableScriptedEngine):
    """One whose loading a dialogue ends."""

    def __init__(self, *, sees: bool) -> None:
        super().__init__()
        self.sees = sees
        self.loading: asyncio.Future[None] | None = None

    async def load(self, model: str, on_progress: Callable[[Any], None] | None = None) -> None:
        assert self.loading is not None
        await asyncio.wait_for(self.loading, PATIENCE)


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.stem)
def test_the_refusal_goes_as_it_is_written(path: Path) -> None:
    transcript = read_transcript(path.read_text("utf-8"))

    asyncio.run(play(transcript))


async def play(transcript: Transcript) -> None:
    """Replay a dialogue over a real socket."""
    setup = transcript.setup
    names = {field.name for field in dataclasses.fields(Limits)}
    limits = Limits(**{name: int(value) for name, value in setup.items() if name in names})
    engine = Engine(sees=setup.get("sees") != "no")
    async with running(engine, limits, no_auth=True) as server:
        peer = await server.peer(**(FROM_ELSEWHERE if setup.get("from") == "elsewhere" else {}))
        for step in transcript.steps:
            await take(step, server, engine, peer)
        if peer.close_code is None:
            await say(peer, type="ping", t="the end")
            assert (await hear(peer)) == {"type": "pong", "t": "the end"}, "something was said that has no line"


async def take(step: Step, server: Running, engine: Engine, peer: ClientConnection) -> None:
    if step.mark == ">":
        await peer.send(in_full(step.text))
    elif step.mark == "<":
        told = await hear(peer)
        assert matches(json.loads(step.text), told), f"line {step.line}: {told}"
    else:
        await happen(engine, peer, *shlex.split(step.text))


async def happen(engine: Engine, peer: ClientConnection, verb: str, *rest: str) -> None:
    match verb:
        case "is_loading":
            engine.loading = asyncio.get_running_loop().create_future()
        case "cannot_load":
            assert engine.loading is not None
            engine.loading.set_exception(failure(*rest))
        case "has_a_mistake":
            engine.script = blunder
        case "is_closed":
            assert await close_code(peer) == int(rest[0])
            assert rest[1] in ("*", peer.close_reason)
        case _:
            await holds(lambda: engine.running)
            ENGINE_VERBS[verb](engine, engine.running[0], *rest)


def failure(code: str, sentence: str) -> StartError:
    return START_ERRORS[code](sentence)


def blunder(_: Any) -> Any:
    raise RuntimeError("a mistake of ours")


def in_full(text: str) -> str:
    return re.sub("<<(.*?) [*] ([0-9]+)>>", lambda part: part[1] * int(part[2]), text)
