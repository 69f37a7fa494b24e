#!/usr/bin/env python
"""Ask about a picture and get the answer in fields: JSON that meets a schema, whatever the model.

    python examples/fields.py             about a red circle
    python examples/fields.py cat.jpg     about yours

Start a server first: `make demo`, or `mlx serve`.
"""

import argparse
import json
import sys
from pathlib import Path

from mlx_websockets.client import ClientError, connect_sync

SCHEMA = {
    "type": "object",
    "properties": {
        "shape": {"enum": ["circle", "square", "triangle", "something else"]},
        "colour": {"type": "string", "maxLength": 20},
    },
    "required": ["shape", "colour"],
    "additionalProperties": False,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask about a picture and get the answer in fields.")
    parser.add_argument("picture", nargs="?", default=Path(__file__).with_name("circle.png"))
    parser.add_argument("--url", default="ws://localhost:8765")
    arguments = parser.parse_args()

    try:
        with connect_sync(arguments.url) as mlx:
            question = "Which shape is in the picture, and which colour has it?"
            result = mlx.ask(question, images=[arguments.picture], response_format=SCHEMA, temperature=0).result()
    except (ClientError, OSError) as error:
        print(f"✗ {error}\n→ Is a server running at {arguments.url}? Start one with `make demo`.", file=sys.stderr)
        return 1
    if result.finish_reason != "stop":
        print(f"✗ The JSON is not whole: {result.finish_reason}.\n→ Give it more max_tokens.", file=sys.stderr)
        return 1
    for field, value in json.loads(result.text).items():
        print(f"{field}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
