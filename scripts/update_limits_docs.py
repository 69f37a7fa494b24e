#!/usr/bin/env python
"""Writes docs/reference/limits.md from the limits of the server.

scripts/update_limits_docs.py           write it
scripts/update_limits_docs.py --check   only say whether it is as it should be
"""

import sys
from pathlib import Path

from mlx_websockets.server.limits import Declared, declared

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/reference/limits.md"

HEAD = """# Limits

*This page is written by `make docs` from `server/limits.py`; change that.*

What a server takes and how long it waits. `hello` and `/v1/status` have the same names with the values of the
server that says them, and two more: `max_output_tokens`, of one reply (`--max-tokens`), and `context_tokens`,
prompt and reply together, which the model brings along (`prompt_too_long`).

A code in the last column is that of an `error` message; *disconnected* means without a close, because the
peer would not read it. Nothing in this table costs a peer more than its own requests or its own connection.

| Limit | Default | | Past it | Flag |
|---|---:|---|---|---|
"""

TAIL = """
The server's own machine is whoever connects from this machine and not through a proxy. Connections are
counted by the address that TCP shows, requests by the one that a proxy on this machine names.

## Who comes first

While more wait than there are rows, addresses take turns, and the connections of one address take turns
among themselves: ten connections get no more than one. All connections of the server's own machine count as
one address; with `--local-weight 3` three of its inputs start for each one of another address.

## What a server never does for a peer

It opens no file and no address that a peer names. A picture is in the message or there is none.
"""


def main() -> int:
    wanted = HEAD + "".join(map(line, declared())) + TAIL
    if PAGE.exists() and PAGE.read_text("utf-8") == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"✗ {PAGE.relative_to(ROOT)} is not what the code says\n→ make docs")
        return 1
    PAGE.write_text(wanted, "utf-8")
    print(f"✓ {PAGE.relative_to(ROOT)}")
    return 0


def line(limit: Declared) -> str:
    flag = f"`{limit.flag}`" if limit.flag else ""
    return f"| `{limit.name}` | {amount(limit.value)} | {limit.unit} {limit.meaning} | {limit.told} | {flag} |\n"


def amount(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main())
