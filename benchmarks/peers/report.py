"""What came out, as a page with a plot beside the raw numbers."""

import datetime
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.acceptance.report import RESULTS
from benchmarks.peers.bars import BARS, Medians, behind, figure
from benchmarks.peers.figures import medians
from benchmarks.peers.measures.speed import name as speed
from benchmarks.peers.models import SMOLLM2
from benchmarks.peers.plot import line_plot

NOTES = """\
One target runs at a time: it is started, warmed up, measured and stopped, then the next, round after round;
figures are medians over the rounds. Every target gets the same questions, model folder, tokens (greedy; the folder's
end token is one that is never said, so each reply has exactly the length asked for) and preloaded BLAS, except where
it says "as installed". No two questions are the same. What all of them share is the system text of SmolLM2's chat
template, some 27 tokens at the start of each prompt: a target that keeps prefixes may reuse those ("cached tokens").
Settings are each target's own; ours has room for {rows} replies, as many as there are clients. Time to read the
prompt is part of tokens/s. The two rows of `mlx-vlm` are the library in a process of its own, without a server.
CPU and memory are those of all processes of a target."""

SHORT = """

**A short run**: prompts, replies and talks are shorter than the bars say. It shows that
everything works; what holds and what fails is for a full run to say."""

FEWER_ROUNDS = """

**Fewer rounds** than the {full} of a full run; how many each figure has is in the raw numbers."""


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def of_today(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """What a benchmark kept today under that name; empty if nothing."""
    file = folder / f"{name}-{today()}.json"
    kept: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return kept


def write(name: str, title: str, head: dict[str, Any], records: Sequence[dict[str, Any]], notes: str) -> Path:
    """Keep the page, the plot and the raw numbers under `benchmarks/results`; returns the page's path."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}-{today()}.md"
    file.with_suffix(".json").write_text(json.dumps({**head, "records": list(records)}, indent=1) + "\n", "utf-8")
    succeeded = [each for each in records if "figures" in each]
    found = medians(succeeded)
    plot = speed_plot(found)
    if plot:
        file.with_suffix(".svg").write_text(plot, "utf-8")
    parts = [
        f"# {title}, {today()}",
        f"`{head['command']}`",
        "; ".join([head["machine"], *(f"{target} {version}" for target, version in head["versions"].items())])
        + f". Load average of the last 15 minutes when it ended, this program included: {head['load average']}.",
        notes,
        "## What must be shown\n\n" + bars_table(found),
        f"![Tokens a second]({file.with_suffix('.svg').name})" if plot else "",
        "## All figures\n\n" + figures_table(found),
        "## Where another server is ahead\n\n" + _list(behind(found)),
        "## What could not be measured\n\n" + _list(failures(records)),
    ]
    file.write_text("\n\n".join(part for part in parts if part) + "\n", "utf-8")
    return file


def bars_table(found: Medians) -> str:
    rows = [f"| {bar.what} | {bar.sign} | {_number(bar.value(found))} | {bar.verdict(found)} |" for bar in BARS]
    return "\n".join(["| measure | bar | ours | |", "|---|---|---|---|", *rows])


def figures_table(found: Medians) -> str:
    """A row for each figure, a column for each target."""
    targets = list(dict.fromkeys(target for _, _, target in found))
    lines = [f"| measure | figure | {' | '.join(targets)} |", "|---" * (len(targets) + 2) + "|"]
    for measure, model in dict.fromkeys((measure, model) for measure, model, _ in found):
        names = dict.fromkeys(name for (a, b, _), each in found.items() if (a, b) == (measure, model) for name in each)
        title = f"**{measure}**, {model}"
        for name in names:
            cells = " | ".join(_number(figure(found, measure, model, target, name)) for target in targets)
            lines.append(f"| {title} | {name} | {cells} |")
            title = ""
    return "\n".join(lines)


def speed_plot(found: Medians) -> str:
    """Tokens a second over the number of clients; empty if that was not measured."""
    crowds = [count for count in range(1, 257) if any(measure == speed(count) for measure, _, _ in found)]
    targets = list(dict.fromkeys(target for measure, _, target in found if measure in map(speed, crowds)))
    lines = {
        target: [figure(found, speed(count), SMOLLM2, target, "tokens/s") for count in crowds] for target in targets
    }
    shown = {target: line for target, line in lines.items() if not all(map(math.isnan, line))}
    return line_plot(f"Tokens a second, {SMOLLM2}", crowds, shown) if shown else ""


def failures(records: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(f"{e['target']}, {e['measure']}: {e['error']}" for e in records if "error" in e))


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) if lines else "Nothing."


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
