"""`python -m benchmarks.gpu [--rounds N] [--out FOLDER]`: one and 32 clients, ours and the library's batch.

Both are up at the same time, because a start takes longer than a measurement; the one that is
not measured computes nothing. Rounds are interleaved. A run of one model keeps what the day's
results have of the other.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import platform
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.acceptance.report import RESULTS
from benchmarks.gpu.checkpoints import GEMMA3_4B, SMOLLM2_135M, write_checkpoint
from benchmarks.peers.bars import Medians, figure
from benchmarks.peers.figures import medians
from benchmarks.peers.measures.speed import crowd, name
from benchmarks.peers.questions import Questions
from benchmarks.peers.report import figures_table, of_today, today
from benchmarks.peers.targets import OURS, RAW, TARGETS, Running, started

CROWDS, TOKENS, ROUNDS, BAR = (1, 32), 128, 5, 0.95
WARM_TOKENS, WARM_TRIES = 16, 3
BUDGET_SECONDS = 165.0
"""No round of a model is begun after so long, its start and the compiling of its kernels included."""

Keep = Callable[[dict[str, Any]], None]

NOTE = """\
The weights are random numbers: speed does not depend on their values, and what the models say means nothing.
Both targets were up at the same time, measured in turn; figures are medians over the rounds. Greedy, {tokens} tokens
a reply, no two questions the same. Time to read the prompts is part of tokens/s."""


async def measure(model: str, folder: Path, rounds: int, until: float, keep: Keep) -> None:
    """Both targets on one model, in turn; `keep` gets every measurement."""
    async with contextlib.AsyncExitStack() as stack:
        began = time.monotonic()
        targets = [await stack.enter_async_context(started(TARGETS[each], folder, None)) for each in (OURS, RAW)]
        print(f"both started in {time.monotonic() - began:.1f} s", flush=True)
        salt = uuid.uuid4().hex
        for clients, running in itertools.product(CROWDS, targets):
            await warm_up(running, Questions(f"{salt}-warm-{clients}", folder), clients)
        for number in range(1, rounds + 1):
            if time.monotonic() > until:
                break
            for clients, running in itertools.product(CROWDS, targets):
                questions = Questions(f"{salt}-{number}-{clients}", folder)
                keep(await one(running, model, clients, number, questions))


async def warm_up(running: Running, questions: Questions, clients: int) -> None:
    """Kernels are compiled when they are first needed, which can take longer than a reply may."""
    for _ in range(WARM_TRIES):
        began = time.monotonic()
        try:
            await crowd(running, questions, clients, WARM_TOKENS)
            print(f"{running.target.name}, warm-up of {clients}: {time.monotonic() - began:.1f} s", flush=True)
            return
        except RuntimeError as error:
            print(f"{running.target.name}, warm-up of {clients}: {error}", flush=True)


async def one(running: Running, model: str, clients: int, number: int, questions: Questions) -> dict[str, Any]:
    figures = await crowd(running, questions, clients, TOKENS)
    shown = ", ".join(f"{each} {value:.4g}" for each, value in figures.items())
    print(f"{number}  {running.target.name:24} {model}, {name(clients)}: {shown}", flush=True)
    return {
        "round": number,
        "target": running.target.name,
        "model": model,
        "measure": name(clients),
        "figures": figures,
    }


def bars_table(found: Medians) -> str:
    lines = ["| tokens/s, ours / the library's batch | bar | ours | |", "|---|---|---|---|"]
    for model in (SMOLLM2_135M, GEMMA3_4B):
        for clients in CROWDS:
            ours, raw = (figure(found, name(clients), model, target, "tokens/s") for target in (OURS, RAW))
            if not math.isnan(ours / raw):
                verdict = "holds" if ours / raw >= BAR else "fails"
                lines.append(f"| {model}, {name(clients)} | ≥ {BAR} | {ours / raw:.3f} | {verdict} |")
    return "\n".join(lines)


def device() -> str:
    import mlx.core as mx

    return ", ".join(f"{key} {value}" for key, value in mx.device_info().items() if "name" in key)


def results_file(folder: Path) -> Path:
    return folder / f"gpu-{today()}.md"


def of_other_models(models: list[str], folder: Path) -> list[dict[str, Any]]:
    """What a run of the same day measured on models that are not measured now."""
    return [record for record in of_today("gpu", folder).get("records", []) if record["model"] not in models]


def write(records: list[dict[str, Any]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = results_file(folder)
    head = {"command": "python -m benchmarks.gpu", "device": device(), "python": platform.python_version()}
    file.with_suffix(".json").write_text(json.dumps({**head, "records": records}, indent=1) + "\n", "utf-8")
    found = medians(records)
    about = f"{head['device']}; Python {head['python']}; {versions()}."
    parts = [f"# Ours and the raw library on a GPU, {today()}", "`python -m benchmarks.gpu`", about]
    parts += [NOTE.format(tokens=TOKENS), bars_table(found), figures_table(found)]
    file.write_text("\n\n".join(parts) + "\n", "utf-8")
    return file


def versions() -> str:
    import importlib.metadata

    return ", ".join(f"{each} {importlib.metadata.version(each)}" for each in ("mlx", "mlx-vlm"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--models", nargs="+", choices=[SMOLLM2_135M, GEMMA3_4B], default=[SMOLLM2_135M, GEMMA3_4B])
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    records = of_other_models(asked.models, asked.out)

    def keep(record: dict[str, Any]) -> None:
        records.append(record)
        write(records, asked.out)

    with tempfile.TemporaryDirectory() as root:
        for model in asked.models:
            began = time.monotonic()
            folder = write_checkpoint(model, Path(root))
            print(f"{model}: written in {time.monotonic() - began:.1f} s", flush=True)
            until = began + BUDGET_SECONDS
            try:
                asyncio.run(measure(model, folder, asked.rounds, until, keep))
            except (RuntimeError, OSError, TimeoutError) as error:
                print(f"{model}: FAILED {error}", flush=True)
    print(results_file(asked.out).read_text("utf-8") if records else "nothing was measured")
    return 0 if records else 1


if __name__ == "__main__":
    sys.exit(main())
