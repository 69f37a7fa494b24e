"""Frames faster than they can be described, and frames in which nothing changes."""

import asyncio
import base64
import json
import math
import statistics
import time
from typing import Any

from benchmarks.peers.figures import Figures, quantile
from benchmarks.peers.measures import Measure
from benchmarks.peers.models import DEMO
from benchmarks.peers.plan import Plan
from benchmarks.peers.questions import Question, Questions, still_scene
from benchmarks.peers.talking import NativeClient, ask
from benchmarks.peers.targets import Running

FRAMES_A_SECOND = 30
SCENES = 60
TOKENS = 16
OUTCOME_SECONDS = 60.0
THRESHOLD = {"unchangedThreshold": 0.03}
TERMINAL = ("response_complete", "frame_dropped", "error")


def ages_at_first_token(sent: dict[str, float], messages: list[tuple[float, dict[str, Any]]]) -> list[float]:
    """How old each described frame was when its first token came, in seconds.

    Args:
        sent: when each frame was sent, by id.
        messages: what came, and when.
    """
    first: dict[str, float] = {}
    for at, message in messages:
        if message["type"] == "token":
            first.setdefault(message["id"], at)
    return [at - sent[id] for id, at in first.items()]


def frame_message(id: str, frame: bytes, config: dict[str, Any]) -> str:
    message = {"type": "video_frame", "id": id, "frame": base64.b64encode(frame).decode(), "source": "camera"}
    return json.dumps(message | {"prompt": "What do you see?", "config": {"temperature": 0, **config}})


async def at_full_speed(running: Running, plan: Plan, questions: Questions) -> Figures:
    """Thirty frames a second; one reply's time is that of a lone question about such a picture."""
    scenes = [questions.picture() for _ in range(SCENES)]
    client = await running.open()
    assert isinstance(client, NativeClient)
    lone = [await ask(client, Question("What do you see?", TOKENS, (questions.picture(),))) for _ in range(3)]
    sent, messages = await _stream(client, scenes, plan.frame_seconds)
    await client.close()
    ages = ages_at_first_token(sent, messages)
    reply_seconds = statistics.median(each.seconds for each in lone)
    return {
        "frames": len(sent),
        "described": len(ages),
        "one reply's time, ms": 1000 * reply_seconds,
        "frame age at first token p50, ms": 1000 * quantile(0.5, ages),
        "frame age at first token p95, ms": 1000 * quantile(0.95, ages),
        "frame age p50 / one reply's time": quantile(0.5, ages) / reply_seconds,
    }


async def _stream(
    client: NativeClient, scenes: list[bytes], seconds: float
) -> tuple[dict[str, float], list[tuple[float, dict[str, Any]]]]:
    sent: dict[str, float] = {}
    messages: list[tuple[float, dict[str, Any]]] = []
    listener = asyncio.create_task(_listen(client, messages))
    began = time.monotonic()
    for number in range(int(seconds * FRAMES_A_SECOND)):
        id = f"frame-{number}"
        message = frame_message(id, scenes[number % len(scenes)], {"max_tokens_image": TOKENS})
        sent[id] = time.monotonic()
        await client.socket.send(message)
        await asyncio.sleep(max(0.0, began + (number + 1) / FRAMES_A_SECOND - time.monotonic()))
    deadline = time.monotonic() + OUTCOME_SECONDS
    while sum(each["type"] in TERMINAL for _, each in messages) < len(sent) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    listener.cancel()
    return sent, messages


async def _listen(client: NativeClient, messages: list[tuple[float, dict[str, Any]]]) -> None:
    while True:
        message = await client.others.get()
        messages.append((time.monotonic(), message))


async def of_a_still_scene(running: Running, plan: Plan, questions: Questions) -> Figures:
    """One frame after the other, each when the last one has had its outcome, so that none is merely superseded."""
    client = await running.open()
    assert isinstance(client, NativeClient)
    outcomes = [
        await _outcome(client, f"still-{number}", frame)
        for number, frame in enumerate(still_scene(questions, plan.still_frames))
    ]
    await client.close()
    refused = next((each["error"] for each in outcomes if each["type"] == "error"), None)
    if refused:
        raise RuntimeError(refused)
    unchanged = sum(each.get("reason") == "unchanged" for each in outcomes)
    return {"frames": len(outcomes), "cost no model time, share": unchanged / len(outcomes) if outcomes else math.nan}


async def _outcome(client: NativeClient, id: str, frame: bytes) -> dict[str, Any]:
    await client.socket.send(frame_message(id, frame, {"max_tokens_image": TOKENS, **THRESHOLD}))
    async with asyncio.timeout(OUTCOME_SECONDS):
        while (message := await client.others.get())["type"] not in TERMINAL:
            pass
    return message


FULL_SPEED = Measure("frames at 30 a second", DEMO, at_full_speed, only_ours=True, sees=True)
STILL = Measure("a still camera", DEMO, of_a_still_scene, only_ours=True, sees=True, is_quick=True)
