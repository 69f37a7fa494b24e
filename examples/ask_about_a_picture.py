#!/usr/bin/env python
"""Ask a running server about a picture, and print the answer as it comes.

    python examples/ask_about_a_picture.py                           draws a picture to ask about
    python examples/ask_about_a_picture.py cat.jpg "What is this?"   asks about yours

Start a server first: `make demo`, or `mlx serve`.
"""

import argparse
import base64
import io
import json
import sys

from PIL import Image, ImageDraw
from websockets.sync.client import connect


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a running server about a picture.")
    parser.add_argument("picture", nargs="?", help="a JPEG, PNG or WebP file; without one, one is drawn")
    parser.add_argument("question", nargs="?", default="What does the picture show?")
    parser.add_argument("--url", default="ws://localhost:8765")
    arguments = parser.parse_args()

    try:
        picture = read(arguments.picture) if arguments.picture else draw()
        return ask(arguments.url, picture, arguments.question)
    except OSError as error:
        print(f"✗ {error}\n→ Is a server running at {arguments.url}? Start one with `make demo`.", file=sys.stderr)
        return 1


def ask(url: str, picture: bytes, question: str) -> int:
    """Send one question and print its reply; 0 when the reply is whole."""
    image = base64.b64encode(picture).decode()
    with connect(url, max_size=None) as socket:
        socket.send(json.dumps({"type": "image_input", "image": image, "prompt": question}))
        for text in socket:
            message = json.loads(text)
            match message["type"]:
                case "token":
                    print(message["content"], end="", flush=True)
                case "response_complete":
                    print(f"\n({message['inference_time']:.2f} s)")
                    return 0
                case "error":
                    print(f"✗ {message['error']}", file=sys.stderr)
                    return 1
    print("✗ The server closed the connection.", file=sys.stderr)
    return 1


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def draw() -> bytes:
    """A red circle on white, as a PNG file."""
    image = Image.new("RGB", (320, 320), "white")
    ImageDraw.Draw(image).ellipse((80, 80, 240, 240), fill=(220, 30, 30))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
