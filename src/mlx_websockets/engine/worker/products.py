"""Products of a few rows with a matrix, where a few rows more would take less time.

A matrix library cuts rows into blocks, and what is left over can be slow: OpenBLAS 0.3.15 takes
111 ms for all products of a pass of SmolLM2 for 12 rows, and 64 ms for 16. Which numbers of
rows those are is measured once, at the start, and from then on rows of zeros are put beneath.
A row's results are its own: what lies beneath changes none of them. Only for a CPU.

What is chosen at the start holds for the worker's whole life, and other programs may be busy just
then. So rows are only filled up to whole blocks, and only where these were faster in most of several
rounds: what disturbs one round tells nothing, and where all are disturbed, nothing is chosen.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import mlx.core as mx
from mlx import nn

MOST_ROWS = 32
"""Beyond that, what is left over is small beside the rest."""

BLOCK = 8
"""Rows are filled up to a multiple of it: what libraries cut rows into are such, 8, 16 or 24."""

WORTH_IT = 0.85
"""More rows have to take less than this share of the time."""

SURE = 0.7
"""In so many of the rounds, or the choice would be one of chance."""

SHAPE = (1536, 576)
FEWEST_ROUNDS, MOST_ROUNDS, PATIENCE_SECONDS = 6, 20, 0.6
"""Who can't do the fewest in that time has no blocks worth it, or is too much disturbed to tell."""

Seconds = Mapping[int, float]
"""How long a product took, by its number of rows."""

BetterRows = Mapping[int, int]
"""Numbers of rows, and how many to compute instead."""


def use_better_rows(model: nn.Module) -> None:
    """Let the model's layers compute more rows than are wanted wherever that is faster here."""
    if _plain_layers(model) and (better := better_rows(_rounds_of_products())):
        fill_up(model, better)


def better_rows(rounds: Sequence[Seconds]) -> BetterRows:
    """Which numbers of rows had better be filled up, by how long each took, round by round."""
    if len(rounds) < FEWEST_ROUNDS:
        return {}
    usual = {rows: median(each[rows] for each in rounds) for rows in rounds[0]}
    better = {}
    for rows in usual:
        blocks = [more for more in usual if more > rows and more % BLOCK == 0]
        sooner = [more for more in blocks if _is_surely_sooner(more, rows, rounds)]
        if sooner:
            better[rows] = min(sooner, key=lambda more: usual[more])
    return better


def _is_surely_sooner(more: int, rows: int, rounds: Sequence[Seconds]) -> bool:
    times = sum(each[more] < WORTH_IT * each[rows] for each in rounds)
    return times >= SURE * len(rounds)


def fill_up(model: nn.Module, better: BetterRows) -> None:
    """Give the model's layers that multiply by a matrix of 32-bit floats rows as `better` says."""

    class Linear(nn.Linear):  # type: ignore[misc]
        def __call__(self, x: mx.array) -> mx.array:
            return _filled_up(super().__call__, x, better)

    class Embedding(nn.Embedding):  # type: ignore[misc]
        def as_linear(self, x: mx.array) -> mx.array:
            return _filled_up(super().as_linear, x, better)

    classes = {nn.Linear: Linear, nn.Embedding: Embedding}
    for layer in _plain_layers(model):
        layer.__class__ = classes[type(layer)]


def _plain_layers(model: nn.Module) -> list[nn.Module]:
    return [
        layer
        for layer in model.modules()
        if type(layer) in (nn.Linear, nn.Embedding) and layer.weight.dtype == mx.float32
    ]


def _filled_up(product: Callable[[mx.array], Any], x: mx.array, better: BetterRows) -> mx.array:
    rows = x.size // x.shape[-1]
    wanted = better.get(rows)
    if wanted is None:
        return product(x)  # type: ignore[no-any-return]
    filled = mx.pad(x.reshape(rows, -1), [(0, wanted - rows), (0, 0)])
    return product(filled)[:rows].reshape(*x.shape[:-1], -1)  # type: ignore[no-any-return]


def _rounds_of_products() -> list[Seconds]:
    """How long products take; as many rounds as there is patience for. The first is left out: it warms up."""
    matrix = mx.random.normal(SHAPE)
    operands = {rows: mx.random.normal((rows, SHAPE[1])) for rows in range(1, MOST_ROWS + 1)}
    mx.eval(matrix, *operands.values())
    until = time.perf_counter() + PATIENCE_SECONDS
    _seconds_of(operands, matrix)
    rounds: list[Seconds] = []
    while len(rounds) < MOST_ROUNDS and time.perf_counter() < until:
        rounds.append(_seconds_of(operands, matrix))
    return rounds


def _seconds_of(operands: Mapping[int, mx.array], matrix: mx.array) -> Seconds:
    seconds = {}
    for rows, operand in operands.items():
        began = time.perf_counter()
        mx.eval(operand @ matrix.T)
        seconds[rows] = time.perf_counter() - began
    return seconds
