"""One promise's outcome, shown on a terminal and kept in a report."""

import datetime
import importlib.metadata
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


@dataclass
class Outcome:
    """Attributes:
    promise: what was tried.
    kept: whether it held.
    seen: the figures.
    """

    promise: str
    kept: bool
    seen: dict[str, Any]

    def show(self) -> None:
        print(f"{'kept  ' if self.kept else 'BROKEN'}  {self.promise}")
        for name, value in self.seen.items():
            print(f"        {name}: {value}")

    def as_markdown(self) -> str:
        rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in self.seen.items())
        return (
            f"## {self.promise}\n\n**{'Kept' if self.kept else 'Broken'}.**\n\n| measure | seen |\n|---|---|\n{rows}\n"
        )


def _cell(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|")


def write_report(name: str, command: str, outcomes: list[Outcome], note: str = "") -> Path:
    """Keep the outcomes under `benchmarks/results`, with what they were taken on."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = ", ".join(
        f"{each} {importlib.metadata.version(each)}"
        for each in ("mlx-websockets", "mlx", "mlx-vlm", "uvicorn", "websockets")
    )
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, no GPU"
    head = (
        f"# What the server promises, tried on {today}\n\n`{command}`\n\n"
        f"{machine}; Python {platform.python_version()}; {versions}.\n\n" + (f"{note}\n\n" if note else "")
    )
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}-{today}.md"
    file.write_text(head + "\n".join(outcome.as_markdown() for outcome in outcomes))
    return file
