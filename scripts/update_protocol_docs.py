#!/usr/bin/env python
"""Puts what comes from elsewhere into docs/reference/protocol.md: the settings, and the dialogues of the tests.

scripts/update_protocol_docs.py           write it
scripts/update_protocol_docs.py --check   only say whether it is as it should be
"""

import json
import re
import sys
from pathlib import Path

from mlx_websockets.protocols.native_schema import SETTING_NAMES
from mlx_websockets.sampling import RANGES, Sampling

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/reference/protocol.md"
TRANSCRIPTS = ROOT / "tests/transcripts"

PART = re.compile(r"(<!-- (?P<name>[\w ]+): written by `make docs` -->\n).*?(<!-- end of (?P=name) -->)", re.DOTALL)


MORE = {
    "candidate_count": ", and no more than `--rows`",
    "seed": ", or null: a fresh one each time",
    "logprobs": ", or null: none",
    "unchanged_threshold": "; 0: every frame is described",
}
"""What is allowed besides the range."""


def main() -> int:
    text = PAGE.read_text("utf-8")
    wanted = PART.sub(lambda found: found[1] + part(found["name"]) + found[3], text)
    unshown = [path.stem for path in sorted(TRANSCRIPTS.glob("*.txt")) if f"<!-- dialogue {path.stem}:" not in text]
    if unshown:
        print(f"✗ {PAGE.relative_to(ROOT)} lacks the dialogues {', '.join(unshown)}\n→ give each a place there")
        return 1
    if text == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"✗ {PAGE.relative_to(ROOT)} is not what the code and the tests say\n→ make docs")
        return 1
    PAGE.write_text(wanted, "utf-8")
    print(f"✓ {PAGE.relative_to(ROOT)}")
    return 0


def part(name: str) -> str:
    if name == "settings":
        return settings_table()
    dialogue = (TRANSCRIPTS / f"{name.removeprefix('dialogue ')}.txt").read_text("utf-8")
    return f"```text\n{dialogue}```\n"


def settings_table() -> str:
    rows = [f"| `{wire}` | {json.dumps(default(name))} | {allowed(name)} |" for name, wire in SETTING_NAMES.items()]
    return "\n".join(["| Field | Default | Allowed |", "|---|---|---|", *rows, ""])


def default(name: str) -> object:
    return getattr(Sampling(), name)


def allowed(name: str) -> str:
    if name == "response_modalities":
        return '`["TEXT"]`'
    if name in ("max_tokens", "max_tokens_image"):
        return "a whole number from 1 to the limit of `--max-tokens` (512)"
    return str(RANGES[name]) + MORE.get(name, "")


if __name__ == "__main__":
    sys.exit(main())
