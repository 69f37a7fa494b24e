"""What must be shown: each bar, what came out, and whether it holds. Pure."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.peers.figures import Figures
from benchmarks.peers.measures.speed import name as speed
from benchmarks.peers.models import DEMO, SMOLLM2, TINY_GEMMA3
from benchmarks.peers.targets import LIMITS, OURS, RAW

Medians = dict[tuple[str, str, str], Figures]
"""By (measure, model, target)."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Attributes:
    what: the measure in words.
    bound: what it is held against.
    is_least: the value has to reach the bound; else it may not pass it.
    value: finds the value; nan where it was not measured.
    """

    what: str
    bound: float
    is_least: bool
    value: Callable[[Medians], float]

    def verdict(self, medians: Medians) -> str:
        value = self.value(medians)
        if math.isnan(value):
            return "not measured"
        return "holds" if (value >= self.bound if self.is_least else value <= self.bound) else "fails"

    @property
    def sign(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {self.bound:g}"


def figure(medians: Medians, measure: str, model: str, target: str, name: str) -> float:
    """One median; nan if there is none."""
    return medians.get((measure, model, target), {}).get(name, math.nan)


def ours(measure: str, model: str, name: str) -> Callable[[Medians], float]:
    return lambda medians: figure(medians, measure, model, OURS, name)


def over_limit(measure: str, name: str, limits: Iterable[str]) -> Callable[[Medians], float]:
    """Ours over the best of the library's own."""
    return lambda medians: _ratio(
        figure(medians, measure, SMOLLM2, OURS, name),
        [figure(medians, measure, SMOLLM2, each, name) for each in limits],
        max,
    )


def over_peers(measure: str, name: str, best: Callable[[list[float]], float]) -> Callable[[Medians], float]:
    """Ours over the best of the other servers."""

    def value(medians: Medians) -> float:
        others = {target for _, _, target in medians} - {OURS, *LIMITS}
        found = [figure(medians, measure, SMOLLM2, each, name) for each in others]
        return _ratio(figure(medians, measure, SMOLLM2, OURS, name), found, best)

    return value


def _ratio(own: float, others: list[float], best: Callable[[list[float]], float]) -> float:
    known = [each for each in others if not math.isnan(each)]
    return own / best(known) if known else math.nan


INSTALLED = "as installed, a prompt of 500 tokens"

BARS = (
    Bar("one client, tokens/s, ours / the library in process", 0.97, True, over_limit(speed(1), "tokens/s", LIMITS)),
    Bar("16 clients, tokens/s, ours / the library's batch", 0.95, True, over_limit(speed(16), "tokens/s", (RAW,))),
    Bar("16 clients, tokens/s, ours / best other server", 1.05, True, over_peers(speed(16), "tokens/s", max)),
    Bar(
        "16 clients, median time to first token, ours / best other server",
        0.8,
        False,
        over_peers(speed(16), "first token p50, ms", min),
    ),
    Bar(
        "p99 gap of a running reply while a 2,000-token prompt is admitted, over its normal gap",
        3,
        False,
        ours("a long prompt is admitted", SMOLLM2, "gap p99 meanwhile / normal gap"),
    ),
    Bar(
        "second question about the same picture, time to first token over the first",
        0.4,
        False,
        ours("a second question about a picture", DEMO, "second / first"),
    ),
    Bar(
        "turn 10 of a conversation, prompt tokens computed over prompt tokens",
        0.15,
        False,
        ours("turns of a conversation", SMOLLM2, "computed / input tokens of the last turn"),
    ),
    Bar(
        "still camera with the threshold on, share of frames that cost no model time",
        0.9,
        True,
        ours("a still camera", DEMO, "cost no model time, share"),
    ),
    Bar(
        "frame age at first token at 30 frames a second, p50, over one reply's time",
        1.2,
        False,
        ours("frames at 30 a second", DEMO, "frame age p50 / one reply's time"),
    ),
    Bar(
        "event loop's lag p99 with 16 clients sending 1080p JPEGs, ms",
        20,
        False,
        ours("16 clients send pictures of 1920 x 1080", TINY_GEMMA3, "loop lag p99, ms"),
    ),
    Bar("3,000 requests: growth of active MLX memory", 0.02, False, ours("soak", TINY_GEMMA3, "active memory, growth")),
    Bar("3,000 requests: growth of resident memory", 0.02, False, ours("soak", TINY_GEMMA3, "resident, growth")),
    Bar(
        "as installed, tokens/s after a 500-token prompt, ours / best other server",
        1.7,
        True,
        over_peers(INSTALLED, "tokens/s after the first", max),
    ),
    Bar(
        "as installed, time to first token of a 500-token prompt, ours / best other server",
        0.2,
        False,
        over_peers(INSTALLED, "first token, ms", min),
    ),
)


def behind(medians: Medians) -> list[str]:
    """A sentence for each measure in which another server did better than ours."""
    found = []
    for measure, model in dict.fromkeys((measure, model) for measure, model, _ in medians):
        own = medians.get((measure, model, OURS), {})
        for name, value in own.items():
            if (is_more_better := _direction(name)) is None:
                continue
            others = {
                target: figures[name]
                for (other, on, target), figures in medians.items()
                if (other, on) == (measure, model) and target not in (OURS, *LIMITS) and name in figures
            }
            ahead = {target: each for target, each in others.items() if (each > value) == is_more_better}
            if ahead:
                best, figure = (max if is_more_better else min)(ahead.items(), key=lambda item: item[1])
                found.append(f"{measure} ({model}), {name}: {best} {figure:.4g}, ours {value:.4g}")
    return found


def _direction(name: str) -> bool | None:
    """Whether more is better; None of what is neither."""
    if "tokens/s" in name:
        return True
    if name.startswith(("first token", "gap", "longest gap", "CPU, ", "newcomer's first", "peak", "second /")) or (
        "first token, ms" in name or name.startswith("computed /")
    ):
        return False
    return None
