"""Products of a few rows with a matrix, where a few rows more would take less time.

A matrix library cuts rows into blocks, and what is left over can be slow: OpenBLAS 0.3.15 takes
111 ms for all products of a pass of SmolLM2 for 12 rows, and 64 ms for 16. Which numbers of
rows those are is measured once, at the start, and from then on rows of zeros are put beneath.
A row's results are its own: what lies beneath changes none of them. Only for a CPU.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
from mlx import nn

MOST_ROWS = 32
"""Beyond that, what is left over is small beside the rest."""

WORTH_IT = 0.85
"""More rows have to take less than this share of the time."""

SHAPE = (1536, 576)
TRIES, PATIENCE_SECONDS = 6, 0.3
"""A library so slow that the tries take longer has no blocks to be filled."""

BetterRows = Mapping[int, int]
"""Numbers of rows, and how many to compute instead."""


def use_better_rows(model: nn.Module) -> None:
    """Let the model's layers compute more rows than are wanted wherever that is faster here."""
    if _plain_layers(model) and (better := better_rows(_seconds_of_products())):
        fill_up(model, better)


def better_rows(seconds: Mapping[int, float]) -> BetterRows:
    """Which numbers of rows had better be filled up, by how long each takes."""
    better = {}
    for rows, own in seconds.items():
        quickest = min((more for more in seconds if more >= rows), key=lambda more: seconds[more])
        if seconds[quickest] < WORTH_IT * own:
            better[rows] = quickest
    return better


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


def _seconds_of_products() -> dict[int, float]:
    """How long a product with so many rows takes: the best of some tries, which other programs disturb least."""
    matrix = mx.random.normal(SHAPE)
    operands = {rows: mx.random.normal((rows, SHAPE[1])) for rows in range(1, MOST_ROWS + 1)}
    mx.eval(matrix, *operands.values())
    seconds = dict.fromkeys(operands, float("inf"))
    until = time.perf_counter() + PATIENCE_SECONDS
    for _ in range(TRIES):
        if time.perf_counter() > until:
            break
        for rows, operand in operands.items():
            began = time.perf_counter()
            mx.eval(operand @ matrix.T)
            seconds[rows] = min(seconds[rows], time.perf_counter() - began)
    return seconds
