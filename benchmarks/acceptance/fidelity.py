"""Greedy replies are mlx-vlm's own, token for token.

Promise: 20 text prompts on SmolLM2 and 20 picture prompts on a tiny Gemma 3 get what
`mlx_vlm.stream_generate` gives for the same messages. The share that stays equal among 7
neighbours in the batch is told as it is: a larger batch may round differently.
"""

import asyncio
import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.acceptance.report import Outcome
from benchmarks.acceptance.serving import Server, drawn, peer, serve
from mlx_websockets.engine.blas import find_blas

TOKENS = 48
NEIGHBOURS = 7
QUESTIONS = (
    "What is the capital of France?",
    "Tell me a joke.",
    "Why is the sky blue?",
    "Write a haiku about rain.",
    "What is 12 plus 30?",
    "Name the planets.",
    "Explain gravity to a child.",
    "Who wrote Hamlet?",
    "What is a neural network?",
    "Give me a recipe for pancakes.",
    "Translate 'good morning' into Spanish.",
    "What causes tides?",
    "Describe a cat in one sentence.",
    "How do bees make honey?",
    "List three colours.",
    "What is the boiling point of water?",
    "Who was Ada Lovelace?",
    "Write a short poem about the sea.",
    "What does 'carpe diem' mean?",
    "How far is the moon?",
)
COLORS = ("red", "blue", "green", "yellow", "orange", "purple", "black", "pink", "brown", "gray")


def text_questions() -> list[dict[str, Any]]:
    return [{"text": text, "pictures": [], "tokens": TOKENS} for text in QUESTIONS]


def picture_questions() -> list[dict[str, Any]]:
    pictures = [drawn(shape, color, (96, 96)) for color in COLORS for shape in ("circle", "square")]
    return [
        {"text": f"What is in picture {number}?", "pictures": [base64.b64encode(file).decode()], "tokens": TOKENS}
        for number, file in enumerate(pictures)
    ]


def library_replies(folder: Path, questions: list[dict[str, Any]]) -> list[str]:
    blas = find_blas()
    program = Path(__file__).with_name("library_replies.py")
    env = {**os.environ, **({"LD_PRELOAD": str(blas.path)} if blas else {})}
    done = subprocess.run(
        [sys.executable, program, str(folder)],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    replies: list[str] = json.loads(done.stdout.splitlines()[-1])
    return replies


def message(question: dict[str, Any], id: str) -> dict[str, Any]:
    config = {"temperature": 0, "maxOutputTokens": question["tokens"]}
    if question["pictures"]:
        return {
            "type": "image_input",
            "id": id,
            "prompt": question["text"],
            "images": question["pictures"],
            "config": config,
        }
    return {"type": "text_input", "id": id, "content": question["text"], "config": config}


async def replies_of(server: Server, questions: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Each question's reply alone, and among seven neighbours."""
    async with peer(server.url) as talk:
        alone = [(await talk.ask(**message(each, f"alone-{n}"))).end["full_text"] for n, each in enumerate(questions)]
        together: list[str] = []
        for start in range(0, len(questions), NEIGHBOURS + 1):
            group = list(enumerate(questions))[start : start + NEIGHBOURS + 1]
            spare = [each for each in enumerate(questions) if each not in group][: NEIGHBOURS + 1 - len(group)]
            ended = await asyncio.gather(
                *(talk.ask(**message(each, f"together-{n}-{start}")) for n, each in group + spare)
            )
            together += [reply.end["full_text"] for reply in ended[: len(group)]]
    return alone, together


def compare(folder: Path, questions: list[dict[str, Any]]) -> dict[str, int]:
    expected = library_replies(folder, questions)
    with serve(folder) as server:
        alone, together = asyncio.run(replies_of(server, questions))
    return {
        "prompts": len(questions),
        "equal alone": sum(a == b for a, b in zip(expected, alone, strict=True)),
        "equal among 7 neighbours": sum(a == b for a, b in zip(expected, together, strict=True)),
    }


def run(smollm2: Path, tiny_gemma3: Path) -> Outcome:
    text, pictures = compare(smollm2, text_questions()), compare(tiny_gemma3, picture_questions())
    kept = all(each["equal alone"] == each["prompts"] for each in (text, pictures))
    seen = {
        **{f"SmolLM2, text: {name}": number for name, number in text.items()},
        **{f"tiny Gemma 3, pictures: {name}": number for name, number in pictures.items()},
    }
    return Outcome("greedy replies are mlx-vlm's own", kept, seen)
