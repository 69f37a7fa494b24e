"""Trials that take long, one after the other, and the report of them.

Every command that has some takes the same flags: `--quick` tries each of them small, to see that it runs;
`--minutes` bounds all of them together; names choose among them. What raises is told and the next one is tried,
and what the time does not suffice for is told as well.
"""

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from benchmarks.acceptance.report import RESULTS, Outcome, write_report

MINUTES = 20.0


class OutOfTime(Exception):
    """A trial took more than was left."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Something to try. `name` is a word, for the command line; `run` takes whether it is a quick one."""

    name: str
    promise: str
    run: Callable[[bool], Outcome]


def conduct(name: str, description: str, trials: Sequence[Trial]) -> tuple[int, list[Outcome]]:
    """Try what the command line says, and write `benchmarks/results/NAME-DATE.md` of a whole run.

    Returns:
        The exit status, 1 if a promise was broken; and the outcomes of a whole run.
    """
    chosen = _arguments(description, trials)
    wanted = [trial for trial in trials if not chosen.trials or trial.name in chosen.trials]
    is_whole = not chosen.quick and len(wanted) == len(trials)
    deadline = time.monotonic() + 60 * chosen.minutes
    outcomes = []
    for trial in wanted:
        print(f"… {trial.name}", flush=True)
        outcomes.append(_tried(trial, chosen.quick, deadline))
        outcomes[-1].show()
    folder = chosen.results or (RESULTS if is_whole else None)
    if folder is not None:
        load = os.getloadavg()[1]
        note = f"Load average of the last five minutes when it ended, this program included: {load:.1f}."
        print(f"→ {write_report(name, f'python -m benchmarks.acceptance.{name}', outcomes, note, folder)}")
    return int(any(outcome.word == "Broken" for outcome in outcomes)), outcomes if is_whole else []


def _arguments(description: str, trials: Sequence[Trial]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", choices=[[], *(trial.name for trial in trials)], help="all, if not given")
    parser.add_argument("--quick", action="store_true", help="each of them small; nothing is kept")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all of them together ({MINUTES:g})")
    parser.add_argument("--results", type=Path, help="a folder for the report; of a whole run it is benchmarks/results")
    return parser.parse_args()


def _tried(trial: Trial, is_quick: bool, deadline: float) -> Outcome:
    began = time.monotonic()
    if began >= deadline:
        return Outcome(trial.promise, False, {"not tried": "the time was up"})
    try:
        with _alarm(deadline - began):
            outcome = trial.run(is_quick)
    except OutOfTime:
        return Outcome(trial.promise, False, {"not tried": "the time was up before it was done"})
    except Exception as error:
        return Outcome(trial.promise, False, {"it raised": f"{type(error).__name__}: {error}"[:500]})
    outcome.seen["seconds that it took"] = round(time.monotonic() - began)
    return outcome


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
