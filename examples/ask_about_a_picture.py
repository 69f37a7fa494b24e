#!/usr/bin/env python
"""Ask a running server about a picture, and print the answer as it comes.

    python examples/ask_about_a_picture.py                           asks about a red circle
    python examples/ask_about_a_picture.py cat.jpg "What is this?"   asks about yours

Start a server first: `make demo`, or `mlx serve`.
"""

import argparse
import sys
from pathlib import Path

from mlx_websockets.client import ClientError, connect_sync


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a running server about a picture.")
    parser.add_argument("picture", nargs="?", default=Path(__file__).with_name("circle.png"))
    parser.add_argument("question", nargs="?", default="What does the picture show?")
    parser.add_argument("--url", default="ws://localhost:8765")
    arguments = parser.parse_args()

    try:
        with connect_sync(arguments.url) as mlx:
            reply = mlx.ask(arguments.question, images=[arguments.picture])
            for words in reply:
                print(words, end="", flush=True)
            print(f"\n({reply.result().seconds:.2f} s)")
            return 0
    except (ClientError, OSError) as error:
        print(f"✗ {error}\n→ Is a server running at {arguments.url}? Start one with `make demo`.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
