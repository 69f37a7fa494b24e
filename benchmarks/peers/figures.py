"""Numbers out of replies. Pure: no clock, no I/O."""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Figures = dict[str, float]
"""Names of measures to numbers; the unit ends the name."""


@dataclass
class Reply:
    """One reply as its client saw it. Times are of a monotonic clock, in seconds.

    Attributes:
        times: when each piece of text came.
        output_tokens: as the target counts them.
        cached_tokens: of the input tokens, those that were not computed again.
        error: what the target said instead, if it failed.
    """

    asked_at: float = 0.0
    times: list[float] = field(default_factory=list)
    ended_at: float = 0.0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    text: str = ""
    error: str = ""

    @property
    def first_after(self) -> float:
        return self.times[0] - self.asked_at

    @property
    def seconds(self) -> float:
        return self.ended_at - self.asked_at

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in itertools.pairwise(self.times)]


def quantile(part: float, values: Iterable[float]) -> float:
    """The smallest value that so large a part of them does not exceed; nan of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else math.nan


def speed(replies: Sequence[Reply]) -> Figures:
    """What so many replies, asked for at once, came to. Time to read the prompts is in it."""
    seconds = max(each.ended_at for each in replies) - min(each.asked_at for each in replies)
    tokens = sum(each.output_tokens for each in replies)
    waits = [each.first_after for each in replies]
    gaps = [gap for each in replies for gap in each.gaps]
    return {
        "tokens/s": tokens / seconds,
        "first token p50, ms": 1000 * quantile(0.5, waits),
        "first token p95, ms": 1000 * quantile(0.95, waits),
        "gap p50, ms": 1000 * quantile(0.5, gaps),
        "gap p99, ms": 1000 * quantile(0.99, gaps),
        "input tokens": sum(each.input_tokens for each in replies) / len(replies),
        "output tokens": tokens / len(replies),
        "cached tokens": sum(each.cached_tokens for each in replies) / len(replies),
    }


def gaps_between(reply: Reply, begin: float, end: float) -> list[float]:
    """The gaps of `reply` that ended after `begin` and had begun before `end`."""
    return [after - before for before, after in itertools.pairwise(reply.times) if after > begin and before < end]


def disturbance(running: Sequence[Reply], newcomers: Sequence[Reply]) -> Figures:
    """How running replies fared while newcomers were admitted, beside how they did before.

    Raises:
        ValueError: they did not run long enough.
    """
    begin = min(each.asked_at for each in newcomers)
    end = max(each.times[0] for each in newcomers)
    before = [gap for each in running for gap in gaps_between(each, each.times[0], begin)]
    during = [gap for each in running for gap in gaps_between(each, begin, end)]
    if not (before and during):
        raise ValueError("the running replies had ended before the newcomers began")
    normal = quantile(0.5, before)
    return {
        "normal gap p50, ms": 1000 * normal,
        "gap p99 meanwhile, ms": 1000 * quantile(0.99, during),
        "longest gap meanwhile, ms": 1000 * max(during),
        "gap p99 meanwhile / normal gap": quantile(0.99, during) / normal,
        "newcomer's first token p50, ms": 1000 * quantile(0.5, [each.first_after for each in newcomers]),
        "newcomer's input tokens": statistics.mean(each.input_tokens for each in newcomers),
    }


def medians(records: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], Figures]:
    """By (measure, model, target) the median of each figure over the rounds; failures are left out."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for record in records:
        figures = found.setdefault((record["measure"], record["model"], record["target"]), {})
        for name, value in record["figures"].items():
            figures.setdefault(name, []).append(value)
    return {
        key: {name: statistics.median(values) for name, values in figures.items()} for key, figures in found.items()
    }


def histogram_quantile(part: float, buckets: dict[float, float]) -> float:
    """The quantile of a Prometheus histogram, interpolated inside its bucket; nan of nothing.

    Args:
        buckets: how many values each upper bound does not exceed; the last bound is infinity.
    """
    bounds = sorted(buckets)
    wanted = part * buckets[bounds[-1]] if bounds else 0
    if not wanted:
        return math.nan
    lower, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            inside = buckets[bound] - below
            return lower if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / inside
        lower, below = bound, buckets[bound]
    return lower


def growth(values: Sequence[float], skipped: int) -> float:
    """How much larger the values are at the end than right after the first `skipped`, as a share.

    Medians of a tenth of the values at both ends, so that one odd reading decides nothing.
    """
    rest = values[skipped:]
    part = max(1, len(rest) // 10)
    before, after = statistics.median(rest[:part]), statistics.median(rest[-part:])
    return after / before - 1
