"""How long a newcomer waits: from `git clone` to the first description on the page, step by step.

    python -m benchmarks.first_minute             measures, and writes benchmarks/results/first-minute-DATE.md
    python -m benchmarks.first_minute --runs 3    each time anew; the report has all of them, and the medians
    python -m benchmarks.first_minute --dry-run   only prints

Everything is fresh but the index: a clone of this checkout's last commit, a home folder without caches, a virtual
environment, the model. Needs Chromium and what `make page-test` installs. Measure with nothing else running.
"""

import argparse
import datetime
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.page.browsing import chromium, free_port

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 1800.0

STEPS = {
    "→ Making the virtual environment": "the virtual environment",
    "→ Installing ": "packages: download and install",
    "✓ mlx-websockets is installed": "starting `mlx demo`",
    "→ Loading demo": "starting the libraries",
    "→ Downloading": "the model: download",
    "→ Converting": "the model: build",
    "→ Loading the model": "loading the model",
    "→ Trying the model out": "a first try of the model",
    "✓ Server running": "a browser",
}
"""What begins with a line of `make demo` that begins so; one that does not come is no step."""


@dataclass
class Watch:
    """Seconds of each step, in the order in which they began."""

    load: float
    seconds: dict[str, float] = field(default_factory=dict)
    _step: str = ""
    _begun: float = 0.0

    def begin(self, step: str) -> None:
        """End the step before."""
        now = time.monotonic()
        if self._step:
            self.seconds[self._step] = self.seconds.get(self._step, 0.0) + now - self._begun
        self._step, self._begun = step, now
        if step:
            print(f"{step} …", flush=True)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    runs = [one_run() for _ in range(arguments.runs)]
    report = as_report([watch for watch, _ in runs], runs[-1][1])
    print(report)
    if not arguments.dry_run:
        path = ROOT / f"benchmarks/results/first-minute-{datetime.date.today():%Y-%m-%d}.md"
        path.write_text(report, "utf-8")
        print(path.relative_to(ROOT))
    return 0


def one_run() -> tuple[Watch, str]:
    """What each step took, and the first description."""
    watch = Watch(load=os.getloadavg()[0])
    with tempfile.TemporaryDirectory(prefix="first-minute-") as folder, chromium() as browser:
        said = measure(Path(folder), watch, browser)
    return watch, said


def measure(folder: Path, watch: Watch, browser: object) -> str:
    """Be a newcomer in an empty folder; the first description on the page."""
    watch.begin("`git clone`")
    clone = folder / "mlx-websockets"
    subprocess.run(["git", "clone", "--quiet", ROOT.as_uri(), str(clone)], check=True)
    home = folder / "home"
    home.mkdir()
    with demo_of(clone, home) as server:
        page_address = follow(server, watch)
        page = browser.new_page()  # type: ignore[attr-defined]
        watch.begin("the page, up to its first whole description")
        page.goto(page_address)
        seen = page.locator(".entry.seen p").first
        seen.wait_for(timeout=PATIENCE_SECONDS * 1000)
        watch.begin("")
        return str(seen.text_content())


@contextmanager
def demo_of(clone: Path, home: Path) -> Iterator["subprocess.Popen[str]"]:
    """`make demo` of somebody who has nothing; only how to find the package index is inherited."""
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("PIP_")}
    server = subprocess.Popen(
        ["make", "demo", f"PORT={free_port()}", f"PYTHON={sys._base_executable}"],  # type: ignore[attr-defined]
        cwd=clone,
        env={**kept, "HOME": str(home), "LANG": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        yield server
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.communicate(timeout=60)


def follow(server: "subprocess.Popen[str]", watch: Watch) -> str:
    """Time the steps that `make demo` tells of; the page's address, once it serves."""
    assert server.stdout is not None
    watch.begin("`make`")
    lines, page = [], ""
    for line in server.stdout:
        lines.append(line)
        if step := next((step for begins, step in STEPS.items() if line.startswith(begins)), None):
            watch.begin(step)
        if line.strip().startswith("Page:"):
            page = line.split()[1]
        if line.startswith("Press Ctrl+C"):
            return page
    raise SystemExit("".join(lines[-20:]) + "It did not come to serve.")


def cpu_seconds() -> float:
    """Of every process that was started and has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def as_report(runs: Sequence[Watch], said: str) -> str:
    """A row for each step, a column for each run; where there are several, then their medians."""
    steps = list(dict.fromkeys(step for run in runs for step in run.seconds))
    rows = [row(step, [run.seconds.get(step, 0.0) for run in runs]) for step in steps]
    rows.append(row("**all of it**", [run.total for run in runs]))
    heads = ["seconds"] if len(runs) == 1 else [f"run {number}" for number in range(1, len(runs) + 1)] + ["median"]
    table = "\n".join([f"| step | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|", *rows])
    loads = ", ".join(f"{run.load:.1f}" for run in runs)
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"""# The first minute, {datetime.date.today():%Y-%m-%d}

`python -m benchmarks.first_minute{f" --runs {len(runs)}" if len(runs) > 1 else ""}`

{system}; load {loads} as it began. Packages came from a nearby index, and no cache was there.
A run took {cpu_seconds() / len(runs):.0f} seconds of CPU, whatever else ran meanwhile.

{table}

The {"first" if len(runs) == 1 else "last run's first"} description: "{said}"
"""


def row(name: str, seconds: Sequence[float]) -> str:
    """A line of the table, in seconds."""
    cells = [f"{each:.1f}" for each in seconds]
    if len(cells) > 1:
        cells.append(f"**{statistics.median(seconds):.1f}**")
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
