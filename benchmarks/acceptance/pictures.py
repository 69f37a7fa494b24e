"""A red circle and a blue square through the whole server, in every form that a picture may take.

Promise: the answers name the colour and the shape.
"""

import asyncio
import base64
import itertools
import json
import struct
from typing import Any

from benchmarks.acceptance.report import Outcome
from benchmarks.acceptance.serving import Peer, Reply, Server, drawn, peer, serve

FORMATS = ("PNG", "JPEG", "WEBP")
FORMS = ("base64", "data URL", "binary")
TYPES = ("image_input", "video_frame", "screen_frame")
SHAPES = (("red", "circle"), ("blue", "square"))
QUESTION = "What is in the picture?"


async def show(talk: Peer, type: str, format: str, form: str, file: bytes, id: str) -> Reply:
    """Ask about one picture file, sent in the given form."""
    field = "image" if type == "image_input" else "frame"
    mime = f"image/{format.lower()}"
    header = {"type": type, "id": id, "prompt": QUESTION, "config": {"temperature": 0}}
    if form == "binary":
        head = json.dumps({**header, "mime": mime}).encode()
        reply = await talk.begin(type="ping", id=id)  # makes a place for the reply to gather in
        await talk.socket.send(struct.pack(">BBH", 0x4D, 1, len(head)) + head + file)
        await talk.end_of(id)
        return reply
    text = base64.b64encode(file).decode()
    return await talk.ask(**header, **{field: text if form == "base64" else f"data:{mime};base64,{text}"})


async def show_all(server: Server) -> dict[str, Any]:
    right: list[str] = []
    wrong: list[str] = []
    async with peer(server.url) as talk:
        cases = itertools.product(SHAPES, TYPES, FORMATS, FORMS)
        for number, ((color, shape), type, format, form) in enumerate(cases):
            reply = await show(talk, type, format, form, drawn(shape, color, format=format), f"picture-{number}")
            named = color in reply.text and shape in reply.text
            (right if named else wrong).append(
                f"{color} {shape} as {format}, {form}, {type}: {reply.text or reply.end}"
            )
    return {
        "pictures shown": len(right) + len(wrong),
        "named rightly": len(right),
        "wrong": wrong,
        "for example": right[0] if right else "",
    }


def run() -> Outcome:
    with serve("demo") as server:
        seen = asyncio.run(show_all(server))
    return Outcome("a red circle and a blue square in every form", not seen["wrong"], seen)


if __name__ == "__main__":
    run().show()
