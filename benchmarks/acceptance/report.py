"""One promise's outcome, shown on a terminal and kept in a report."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mlx_websockets.engine.probe import find_backend
from mlx_websockets.errors import NoBackend

RESULTS = Path(__file__).parents[1] / "results"


@dataclass
class Outcome:
    """Attributes:
    promise: what was tried.
    kept: whether it held.
    seen: the figures; "not tried" among them says why it was not.
    times: how often it was tried, for a table of many.
    lost: what was lost, in words; empty: nothing.
    """

    promise: str
    kept: bool
    seen: dict[str, Any]
    times: str = ""
    lost: str = ""

    @property
    def word(self) -> str:
        if "not tried" in self.seen:
            return "Not tried"
        return "Kept" if self.kept else "Broken"

    def show(self) -> None:
        print(f"{self.word:9}  {self.promise}")
        for name, value in self.seen.items():
            print(f"           {name}: {value}", flush=True)

    def as_markdown(self) -> str:
        rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in self.seen.items())
        return f"## {self.promise}\n\n**{self.word}.**\n\n| measure | seen |\n|---|---|\n{rows}\n"


def _cell(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|")


def write_report(name: str, command: str, outcomes: list[Outcome], note: str = "", folder: Path = RESULTS) -> Path:
    """Keep the outcomes, under `benchmarks/results` if not said otherwise, with what they were taken on."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = ", ".join(
        f"{each} {importlib.metadata.version(each)}"
        for each in ("mlx-websockets", "mlx", "mlx-vlm", "uvicorn", "websockets")
    )
    head = (
        f"# What the server promises, tried on {today}\n\n`{command}`\n\n"
        f"{machine()}; Python {platform.python_version()}; {versions}.\n\n" + (f"{note}\n\n" if note else "")
    )
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}-{today}.md"
    file.write_text(head + "\n".join(outcome.as_markdown() for outcome in outcomes))
    return file


def machine() -> str:
    """What it runs on, in a line."""
    memory = psutil.virtual_memory().total / 1024**3
    try:
        backend = f"MLX on {find_backend().name}"
    except NoBackend:
        backend = "without MLX"
    return f"{platform.system()} {platform.machine()}, {_processor()}{os.cpu_count()} cores, {memory:.0f} GB, {backend}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, "
    return ""
