"""`mlx bench`: how fast a server answers one peer, and many at once, as they see it."""

import asyncio
import contextlib
import io
import itertools
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from mlx_websockets.cli.console import Console, print_json
from mlx_websockets.cli.flags import AsJson, takes
from mlx_websockets.cli.moving import SCENE_SECONDS, scene
from mlx_websockets.cli.reach import Reach, Whom, failures_told
from mlx_websockets.client import Client, connect
from mlx_websockets.errors import UsageError

PROMPT = "Tell me a long story about a lighthouse, a storm and a dog."
ROUNDS = 3
"""How often each peer asks."""


@takes(Whom)
def bench(
    whom: Whom,
    clients: Annotated[int, typer.Option(metavar="INT", help="Peers that ask at once.")] = 8,
    tokens: Annotated[int, typer.Option(metavar="INT", help="Greatest length of a reply.")] = 64,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What they ask.")] = PROMPT,
    images: Annotated[
        int, typer.Option(metavar="INT", help="Pictures with each question; drawn, and never twice the same.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure one peer alone, then all of them together, and print both.

    Raises:
        NotRunning: there is no server.
        StartError: it refused, or did not finish.
    """
    if not (1 <= clients <= 1000 and 1 <= tokens <= 100_000 and 0 <= images <= 8):
        raise UsageError(
            "--clients is from 1 to 1000, --tokens from 1, --images from 0 to 8.", "mlx bench --clients 8 --tokens 64"
        )
    where = whom.reach()
    load = Load(prompt, tokens, images, whom.model)
    console = Console(sys.stderr if as_json else sys.stdout)
    with failures_told(where):
        measured = asyncio.run(_measure(where, load, clients, console))
    if as_json:
        print_json({"url": where.url, "tokens": tokens, "images": images, **measured_plain(measured)})
        return
    for name, figures in measured.items():
        console.success("One alone" if name == "alone" else f"{figures.clients} together")
        console.table(rows(figures))


@dataclass(frozen=True, slots=True)
class Load:
    """What each peer asks for."""

    prompt: str
    tokens: int
    images: int
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply as its peer saw it. Seconds."""

    tokens: int
    first_after: float
    gaps: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """Many replies of so many peers at once."""

    clients: int
    seconds: float
    samples: tuple[Sample, ...]

    @property
    def tokens_per_second(self) -> float:
        return sum(sample.tokens for sample in self.samples) / self.seconds

    @property
    def waits(self) -> list[float]:
        return [sample.first_after for sample in self.samples]

    @property
    def gaps(self) -> list[float]:
        return [gap for sample in self.samples for gap in sample.gaps]


def quantile(part: float, values: Sequence[float]) -> float | None:
    """The smallest value that so large a part of them does not exceed; None of none."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)] if values else None


def rows(figures: Figures) -> list[tuple[str, str]]:
    """For a person."""
    said = [sample.tokens for sample in figures.samples]
    return [
        ("Tokens/s", f"{figures.tokens_per_second:.1f}"),
        ("First token", f"{_shown(0.5, figures.waits)}, 95 % within {_shown(0.95, figures.waits)}"),
        ("Between deltas", f"{_shown(0.5, figures.gaps)}, 99 % within {_shown(0.99, figures.gaps)}"),
        ("Replies", f"{len(said)}, of {statistics.median(said):g} tokens"),
    ]


def measured_plain(measured: dict[str, Figures]) -> dict[str, Any]:
    """For a program; times in milliseconds."""
    return {
        name: {
            "clients": each.clients,
            "replies": len(each.samples),
            "output_tokens": sum(sample.tokens for sample in each.samples),
            "seconds": round(each.seconds, 3),
            "tokens_per_second": round(each.tokens_per_second, 2),
            "ttft_ms": {"p50": _ms(0.5, each.waits), "p95": _ms(0.95, each.waits)},
            "gap_ms": {"p50": _ms(0.5, each.gaps), "p99": _ms(0.99, each.gaps)},
        }
        for name, each in measured.items()
    }


async def _measure(where: Reach, load: Load, clients: int, console: Console) -> dict[str, Figures]:
    pictures = itertools.count()
    async with contextlib.AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(connect(where.url, token=where.token, reconnect=False))
            for _ in range(clients)
        ]
        console.info(f"{where.url}: {clients} peers, {load.tokens} tokens and {load.images} pictures a question")
        progress = Progress(console, 1 + ROUNDS * (1 + (clients if clients > 1 else 0)))
        with progress:
            await _sample(peers[0], load, pictures)  # the first one pays for what is made once
            progress.add()
            measured = {"alone": await _figures(peers[:1], load, pictures, progress)}
            if clients > 1:
                measured["together"] = await _figures(peers, load, pictures, progress)
    return measured


class Progress:
    """How many of the replies there are, below what was said, on a terminal."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._done = -1
        self._total = total
        self.add()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._console.footnote()

    def add(self) -> None:
        """One more."""
        self._done += 1
        self._console.footnote(f"  {self._done} of {self._total} replies …")


async def _figures(
    peers: list[Client], load: Load, pictures: "itertools.count[int]", progress: Progress
) -> Figures:  # fmt: skip
    begun = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(_samples(peer, load, pictures, progress)) for peer in peers]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    seconds = time.perf_counter() - begun
    return Figures(len(peers), seconds, tuple(sample for task in asking for sample in task.result()))


async def _samples(
    peer: Client, load: Load, pictures: "itertools.count[int]", progress: Progress
) -> list[Sample]:  # fmt: skip
    samples = []
    for _ in range(ROUNDS):
        samples.append(await _sample(peer, load, pictures))
        progress.add()
    return samples


async def _sample(peer: Client, load: Load, pictures: "itertools.count[int]") -> Sample:
    files = [_drawn(next(pictures)) for _ in range(load.images)]
    asked = time.perf_counter()
    reply = peer.ask(load.prompt, images=files, model=load.model, max_tokens=load.tokens)
    times = [time.perf_counter() async for _ in reply]
    result = await reply.result()
    said = result.usage.output_tokens if result.usage is not None else len(times)
    first = times[0] if times else time.perf_counter()
    return Sample(said, first - asked, tuple(b - a for a, b in itertools.pairwise(times)))


def _drawn(number: int) -> bytes:
    file = io.BytesIO()
    scene(number * (SCENE_SECONDS + 0.1)).save(file, "PNG")
    return file.getvalue()


def _ms(part: float, values: Sequence[float]) -> float | None:
    value = quantile(part, values)
    return None if value is None else round(value * 1000, 2)


def _shown(part: float, values: Sequence[float]) -> str:
    value = _ms(part, values)
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
