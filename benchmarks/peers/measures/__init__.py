"""What is measured: each a module with what it does to a target; the arithmetic is in `figures`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.peers.figures import Figures
from benchmarks.peers.plan import Plan
from benchmarks.peers.questions import Questions
from benchmarks.peers.targets import LIMITS, OURS, Running, Target

Run = Callable[[Running, Plan, Questions], Awaitable[Figures]]


@dataclass(frozen=True, slots=True)
class Measure:
    """Attributes:
    name: as tables and `--only` have it.
    model: a name of `models`.
    run: does it to a running target; raises RuntimeError if the target fails.
    only_ours: nobody else has such a thing.
    only_servers: it says nothing about the library.
    sees: needs a target that takes pictures.
    together: needs a target that computes several replies together.
    as_installed: nothing is preloaded; ours then looks for a BLAS by itself.
    is_quick: it is part of the short version.
    """

    name: str
    model: str
    run: Run
    only_ours: bool = False
    only_servers: bool = False
    sees: bool = False
    together: bool = False
    as_installed: bool = False
    is_quick: bool = False

    def suits(self, target: Target) -> bool:
        """Whether `target` can be measured so."""
        return (
            (target.name == OURS or not self.only_ours)
            and (target.name not in LIMITS or not self.only_servers)
            and (target.sees or not self.sees)
            and (target.batches or not self.together)
        )
