"""`mlx watch`: a stream of pictures, described line by line."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from mlx_websockets.cli import moving
from mlx_websockets.cli.console import Console
from mlx_websockets.cli.flags import AsJson, takes
from mlx_websockets.cli.moving import Shot
from mlx_websockets.cli.reach import MaxTokens, Reach, Temperature, Whom, failures_told, given, plain_result
from mlx_websockets.client import Client, Result, connect
from mlx_websockets.errors import UsageError
from mlx_websockets.protocols.native_schema import DEFAULT_PROMPT

UNCHANGED_THRESHOLD = 0.03
"""Of two pictures that differ by less, one is described; see `unchangedThreshold` in the protocol."""

MAX_SHOTS_KEPT = 64
"""Shots whose description may still come; of older ones it is no longer known when they were taken."""


@takes(Whom)
def watch(
    whom: Whom,
    demo: Annotated[bool, typer.Option("--demo", metavar="", help="Watch scenes that are drawn here.")] = False,
    file: Annotated[str | None, typer.Option(metavar="FILE", help="Watch a video.")] = None,
    camera: Annotated[int | None, typer.Option(metavar="N", help="Watch a camera; the first is 0.")] = None,
    screen: Annotated[bool, typer.Option("--screen", metavar="", help="Watch the screen.")] = False,
    every: Annotated[float, typer.Option(metavar="FLOAT", help="Seconds between two pictures.")] = 1.0,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What to say of each.")] = DEFAULT_PROMPT,
    only_changes: Annotated[
        bool,
        typer.Option(
            "--only-changes",
            metavar="",
            help="Describe only pictures that changed, and print only what differs from the line before.",
        ),
    ] = False,
    count: Annotated[int | None, typer.Option(metavar="INT", help="Stop after so many lines.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    as_json: AsJson = False,
) -> None:
    """Print what a model says of a stream, until it ends or Ctrl-C.

    Raises:
        NotRunning: there is no server.
        ModelNotFound: it has no such model.
        UsageError: there is not one thing to watch.
        StartError: it can't be watched, or the server refused.
    """
    if not 0.02 <= every <= 3600 or (count is not None and count < 1):
        raise UsageError("--every is between 0.02 and 3600 seconds, and --count at least 1.", "mlx watch --demo")
    source, shots = _stream(every, demo=demo, file=file, camera=camera, screen=screen)
    where = whom.reach()
    view = View(Console(sys.stdout), source, only_changes=only_changes, as_json=as_json)
    threshold = UNCHANGED_THRESHOLD if only_changes else None
    options = given(
        model=whom.model, max_tokens=max_tokens, temperature=temperature, unchanged_threshold=threshold
    )  # fmt: skip
    stream = Stream(source, shots, prompt, options, is_live=file is None)
    with failures_told(where), contextlib.suppress(KeyboardInterrupt), view:
        asyncio.run(_show(where, stream, view, count))


@dataclass(frozen=True, slots=True)
class Stream:
    """What is watched. Of one that is live the newest picture counts; of a file every one does."""

    source: str
    shots: AsyncIterator[Shot]
    prompt: str
    options: dict[str, Any]
    is_live: bool


class View:
    """Lines about a stream; on a terminal also one below them that says how it goes."""

    def __init__(self, console: Console, source: str, *, only_changes: bool, as_json: bool) -> None:
        self._console = console
        self._source = source
        self._only_changes = only_changes
        self._as_json = as_json
        self._before: list[str] | None = None
        self._taken = 0
        self._described = 0
        self._last = ""

    def __enter__(self) -> "View":
        return self

    def __exit__(self, *_: object) -> None:
        self._console.footnote()

    def note_taken(self) -> None:
        """There is a picture, which may be described or make way."""
        self._taken += 1
        self._say_how_it_goes()

    def add(self, shot: Shot, result: Result) -> bool:
        """Print a line; False: it would say the same again."""
        self._described += 1
        self._last = _speed(result)
        self._say_how_it_goes()
        words = result.text.casefold().split()
        if self._only_changes and words == self._before:
            return False
        self._before = words
        age = time.time() - shot.taken_at
        if self._as_json:
            self._console.text(json.dumps(self._plain(shot, result, age)))
        else:
            self._console.entry(f"{clock(shot)}  {self._source}  {age:4.1f} s", " ".join(result.text.split()))
        return True

    def _say_how_it_goes(self) -> None:
        self._console.footnote(f"{self._taken} pictures, {self._described} described{self._last}")

    def _plain(self, shot: Shot, result: Result, age: float) -> dict[str, Any]:
        position = {} if shot.position is None else {"position": round(shot.position, 3)}
        plain = plain_result(result)
        return {"time": round(shot.taken_at, 3), "source": self._source, **position, "age": round(age, 3), **plain}


def _speed(result: Result) -> str:
    if result.timings is None:
        return ""
    return f"; first token {result.timings.ttft_ms:.0f} ms, {result.timings.tokens_per_second:.1f} tokens/s"


def clock(shot: Shot) -> str:
    """When it was taken; of a video, how far into it."""
    if shot.position is None:
        return time.strftime("%H:%M:%S", time.localtime(shot.taken_at))
    minutes, seconds = divmod(shot.position, 60)
    return f"{int(minutes):02}:{seconds:04.1f}"


async def _show(where: Reach, stream: Stream, view: View, count: int | None) -> None:
    printed = 0
    async with connect(where.url, token=where.token) as mlx:
        noted = dataclasses.replace(stream, shots=_noted(stream.shots, view))
        described = _newest(mlx, noted) if stream.is_live else _each(mlx, noted)
        async with contextlib.aclosing(described):
            async for shot, result in described:
                printed += view.add(shot, result)
                if printed == count:
                    return


async def _noted(shots: AsyncIterator[Shot], view: View) -> AsyncIterator[Shot]:
    async for shot in shots:
        view.note_taken()
        yield shot


async def _newest(mlx: Client, stream: Stream) -> AsyncGenerator[tuple[Shot, Result], None]:
    """What is said of the pictures that the model gets to see."""
    taken: dict[int, Shot] = {}

    async def pictures() -> AsyncIterator[Any]:
        number = 0
        async for shot in stream.shots:
            taken[number] = shot
            taken.pop(number - MAX_SHOTS_KEPT, None)
            yield shot.image
            number += 1

    results = mlx.watch(stream.source, pictures(), stream.prompt, **stream.options)
    async with contextlib.aclosing(results):
        async for result in results:
            assert isinstance(result.frame_id, int)
            if (shot := taken.get(result.frame_id)) is not None:
                yield shot, result


async def _each(mlx: Client, stream: Stream) -> AsyncGenerator[tuple[Shot, Result], None]:
    """What is said of every picture, one after the other."""
    async for shot in stream.shots:
        reply = mlx.show(shot.image, stream.source, stream.prompt, is_droppable=False, **stream.options)
        result = await reply.result()
        if result.dropped != "unchanged":
            yield shot, result


def _stream(
    every: float, *, demo: bool, file: str | None, camera: int | None, screen: bool
) -> tuple[str, AsyncIterator[Shot]]:
    choices: dict[str, moving.Open] = {}
    if demo:
        choices["demo"] = moving.drawn
    if file is not None:
        choices["file"] = functools.partial(moving.film, file)
    if camera is not None:
        choices["camera"] = functools.partial(moving.camera, camera)
    if screen:
        choices["screen"] = moving.screen
    if len(choices) != 1:
        said = " and ".join(f"--{name}" for name in choices) or "nothing"
        raise UsageError(
            f"One thing can be watched; this says {said}.", "--demo, --file VIDEO, --camera 0, or --screen"
        )
    [(source, begin)] = choices.items()
    return source, begin(every)
