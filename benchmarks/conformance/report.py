"""Judges what kosoku found (`python -m benchmarks.conformance.report FOLDER`) and writes it down."""

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
CASES = 301

KNOWN_FAILURES = {
    "7.1.5": "A close frame in the middle of a fragmented message: the case wants the close answered with 1000; "
    "`websockets` calls the unfinished message a protocol error, 1002. Its own notes on "
    "these cases say the same.",
}

REASONS = {
    "3.": "A frame with reserved bits, after a good one: the connection is failed (1002) before the good one's echo "
    "has gone out. RFC 6455, 7.1.7, allows that.",
    "4.": "A reserved opcode, after a good frame: failed (1002) before the echo of the good one has gone out.",
    "5.": "A continuation that continues nothing, after a good message: failed (1002) before the echo.",
    "6.4": "Bad UTF-8 in a fragment is told (1007) when the message is whole, not at the first bad byte.",
    "7.": "For information only: what happens after a close, or with a close code that nobody has defined.",
}


def reason_of(case: str) -> str:
    return KNOWN_FAILURES.get(case) or next(
        (reason for beginning, reason in REASONS.items() if case.startswith(beginning)), "not looked into yet"
    )


def judge(cases: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong; nothing if all is well."""
    wrong = [
        f"{case} failed: {each['behavior']}, its close {each['behaviorClose']}"
        for case, each in cases.items()
        if case not in KNOWN_FAILURES
        and not {each["behavior"], each["behaviorClose"]} <= {"OK", "NON-STRICT", "INFORMATIONAL"}
    ]
    return wrong if len(cases) >= CASES else [*wrong, f"only {len(cases)} of {CASES} cases were run"]


def as_markdown(cases: dict[str, dict[str, Any]], today: str) -> str:
    counts = Counter(each["behavior"] for each in cases.values())
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("uvicorn", "websockets"))
    rows = "\n".join(
        f"| {case} | {each['behavior'].lower()} | {each['remoteCloseCode']} | {reason_of(case)} |"
        for case, each in cases.items()
        if each["behavior"] != "OK"
    )
    return (
        f"# The Autobahn cases against the server's listener, {today}\n\n"
        "`make conformance`: kosoku 0.1.0 drives the cases of the Autobahn test suite against an echo behind the "
        "configuration that `mlx serve` listens with. Only the bound on a message's fragments is widened, for 9.3 "
        "and 9.4. Cases 12 and 13 are about compression, which the server does not offer.\n\n"
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}; "
        f"{versions}.\n\n"
        f"**{len(cases)} cases: {counts['OK']} ok, {counts['NON-STRICT']} non-strict, "
        f"{counts['INFORMATIONAL']} informational, {counts['FAILED']} failed (7.1.5, known).**\n\n"
        f"Every case that is not plainly ok:\n\n| case | verdict | our close | why |\n|---|---|---|---|\n{rows}\n"
    )


def main() -> int:
    [cases] = json.loads((Path(sys.argv[1]) / "index.json").read_text()).values()
    if wrong := judge(cases):
        print("\n".join(wrong))
        return 1
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    file = RESULTS / f"conformance-{today}.md"
    RESULTS.mkdir(exist_ok=True)
    file.write_text(as_markdown(cases, today))
    print(f"{len(cases)} cases, every one ok or known: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
