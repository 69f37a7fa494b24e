"""`python -m benchmarks.peers [--quick] [--only NAME ...] [--targets NAME ...] [--rounds N] [--tiny]`."""

import argparse
import asyncio
import dataclasses
import itertools
import os
import shlex
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import soak
from benchmarks.peers.measures import Measure
from benchmarks.peers.measures.catalogue import measures
from benchmarks.peers.models import TINY_GEMMA3, model_folder
from benchmarks.peers.plan import FULL, QUICK, Plan
from benchmarks.peers.questions import Question, Questions
from benchmarks.peers.report import FEWER_ROUNDS, NOTES, SHORT, machine, of_today, write
from benchmarks.peers.talking import ask_all
from benchmarks.peers.targets import (
    OURS,
    RAW,
    ROWS,
    TARGETS,
    Running,
    Target,
    common_blas,
    resident_bytes,
    started,
    version_of,
)

QUICK_TARGETS = (OURS, "mlx_lm.server", "mlx_vlm.server", RAW)
WARM_TOKENS = 4
MEASURE_SECONDS = 900.0
MB = 1e6
INTERRUPTED = 130

Record = dict[str, Any]


class Round:
    """One round: each target in turn, with each model, everything that is measured with it."""

    def __init__(self, number: int, salt: str, plan: Plan, records: list[Record]) -> None:
        self._number = number
        self._salt = f"{salt}-{number}"
        self._plan = plan
        self._records = records

    async def measure(self, target: Target, wanted: Sequence[Measure], blas: str | None) -> None:
        """`wanted` share a model; one start of the target serves them all."""
        suited = [each for each in wanted if each.suits(target) and not self._has_hung(target, each)]
        if not suited:
            return
        folder = model_folder(suited[0].model)
        try:
            async with started(target, folder, blas) as running:
                await self._measure_running(running, suited, folder)
        except Exception as error:  # the other targets go on, and the page says so
            self._note(target, suited[0], error=f"{type(error).__name__}: {str(error)[:500]}")

    async def _measure_running(self, running: Running, wanted: Sequence[Measure], folder: Path) -> None:
        await warm_up(running, Questions(f"{self._salt}-warm", folder), with_picture=wanted[0].sees)
        warm = resident_bytes(running.pid)
        for each in wanted:
            questions = Questions(f"{self._salt}-{each.name}", folder)
            try:
                async with asyncio.timeout(MEASURE_SECONDS):
                    figures = await each.run(running, self._plan, questions)
            except Exception as error:  # the other measures go on, and the page says so
                self._note(running.target, each, error=f"{type(error).__name__}: {str(error)[:500]}")
            else:
                self._note(running.target, each, figures=figures)
            await running.hang_up()
        memory = {
            "warm, MB": warm / MB,
            "peak, MB": max(running.memory.peak_bytes, warm) / MB,
            "at the end, MB": resident_bytes(running.pid) / MB,
        }
        self._note(running.target, dataclasses.replace(wanted[0], name=_memory_name(wanted)), figures=memory)

    def _has_hung(self, target: Target, measure: Measure) -> bool:
        """Whether it took too long in an earlier round; once is enough to wait for that."""
        return any(
            record.get("error", "").startswith("TimeoutError")
            and (record["target"], record["measure"], record["model"]) == (target.name, measure.name, measure.model)
            for record in self._records
        )

    def _note(self, target: Target, measure: Measure, **outcome: Any) -> None:
        record = {"round": self._number, "target": target.name, "model": measure.model, "measure": measure.name}
        self._records.append(record | outcome)
        print(f"{self._number}  {target.name:24} {measure.name}: {_shown(outcome)}", flush=True)


def _memory_name(wanted: Sequence[Measure]) -> str:
    return "resident memory" + (", as installed" if wanted[0].as_installed else "")


async def warm_up(running: Running, questions: Questions, with_picture: bool) -> None:
    """What is made once is made now: first one reply, then two together."""
    pictures = (questions.picture(),) if with_picture else ()
    for count in (1, 2):
        clients = await running.clients(count)
        await ask_all(clients, [Question(questions.text(), WARM_TOKENS, pictures) for _ in clients])
        for client in clients:
            await client.close()


def _shown(outcome: dict[str, Any]) -> str:
    if "error" in outcome:
        return f"FAILED {outcome['error']}"
    return ", ".join(f"{name} {value:.4g}" for name, value in outcome["figures"].items())


async def run(
    plan: Plan, targets: Sequence[Target], wanted: Sequence[Measure], salt: str, records: list[Record]
) -> None:
    """Rounds of all targets; `records` grows. Measures with the same model and BLAS share a start of the target."""
    groups = [
        list(group)
        for _, group in itertools.groupby(wanted, key=lambda each: (each.model, each.as_installed, each.sees))
    ]
    blas = common_blas()
    for number in range(1, plan.rounds + 1):
        one_round = Round(number, salt, plan, records)
        for group in groups:
            for target in targets:
                await one_round.measure(target, group, None if group[0].as_installed else blas)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes: fewer measures, shorter, one round")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measures whose names contain one of these")
    parser.add_argument("--targets", nargs="+", metavar="NAME", choices=list(TARGETS), help="instead of all")
    parser.add_argument("--rounds", type=int, help="of every target")
    parser.add_argument("--tiny", action="store_true", help="all with the tiny Gemma 3, to try this program out")
    parser.add_argument("--name", default="", help="of the files under benchmarks/results")
    parser.add_argument("--add", action="store_true", help="to what the files of that name have of today")
    return parser.parse_args()


def chosen(known: Sequence[Measure], parts: Sequence[str] | None, is_quick: bool) -> list[Measure]:
    """Those whose name contains one of `parts`; without these all, or all that are quick."""
    if parts:
        return [each for each in known if any(part in each.name for part in parts)]
    return [each for each in known if each.is_quick or not is_quick]


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no target outlives this program
    asked = arguments()
    plan = QUICK if asked.quick else FULL
    if asked.rounds:
        plan = dataclasses.replace(plan, rounds=asked.rounds)
    wanted = chosen(measures(plan), asked.only, asked.quick)
    if asked.tiny:
        wanted = [dataclasses.replace(each, model=TINY_GEMMA3) for each in wanted]
    names = asked.targets or (QUICK_TARGETS if asked.quick else list(TARGETS))
    if not wanted:
        sys.exit(f"no such measure; there are: {', '.join(each.name for each in measures(plan))}")
    salt = uuid.uuid4().hex[:8]
    targets = [TARGETS[each] for each in names]
    name = asked.name or ("peers-quick" if asked.quick else "peers")
    earlier = of_today(name) if asked.add else {}
    records: list[Record] = [each for each in earlier.get("records", []) if each["measure"] != soak.MEASURE]
    status = 0
    try:
        asyncio.run(run(plan, targets, wanted, salt, records))
    except KeyboardInterrupt:
        print("→ interrupted; what was measured is kept", flush=True)
        status = INTERRUPTED
    command = shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]])
    head = {
        "command": "; ".join([*([earlier["command"]] if earlier else []), command]),
        "machine": machine(),
        "load average": round(os.getloadavg()[2], 1),
        "salt": salt,
        "plan": dataclasses.asdict(plan),
        "versions": earlier.get("versions", {}) | {target.name: version_of(target) for target in targets},
    }
    notes = NOTES.format(rows=ROWS)
    if asked.quick:
        notes += SHORT
    elif plan.rounds < FULL.rounds:
        notes += FEWER_ROUNDS.format(full=FULL.rounds)
    page = write(name, "Ours and its peers", head, [*records, *soak.latest()], notes)
    print(f"→ {page}")
    return status


if __name__ == "__main__":
    sys.exit(main())
