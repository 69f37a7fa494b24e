"""Choosing the next token of every row in one pass, each row by its own settings.

A row draws one uniform number a token from a generator of its own and takes the token at
that point of its cumulative distribution. So a reply depends on its request alone: not on
who else is in the batch, nor on how many rows there are. Penalties act before, on a row's
logits (`RepetitionPenalty`), because they need values that are not yet normalised.
"""

import random
from collections import deque
from collections.abc import Sequence as Rows
from typing import Any

import mlx.core as mx

from mlx_websockets.generation import Choice
from mlx_websockets.sampling import REPETITION_CONTEXT_TOKENS


class RowSampling:
    """One row's settings and its own source of chance."""

    __slots__ = ("_random", "temperature", "top_k", "top_p")

    def __init__(self, choice: Choice) -> None:
        self.temperature = choice.temperature
        self.top_k = choice.top_k
        self.top_p = choice.top_p
        # Not for secrets. `None` seeds from the system's entropy.
        self._random = random.Random(choice.seed)  # noqa: S311

    def draw(self) -> float:
        """Uniform in [0, 1)."""
        return self._random.random()

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def is_filtered(self) -> bool:
        """Some tokens are out of the question, so the likeliest must be found first."""
        return self.top_k > 0 or self.top_p < 1.0


def choose(logprobs: mx.array, rows: Rows[RowSampling]) -> mx.array:
    """The next token of each row.

    Args:
        logprobs: (rows, vocabulary), normalised.
        rows: the settings of each row, in the same order.

    Returns:
        (rows,) token ids.
    """
    if all(row.is_greedy for row in rows):
        return mx.argmax(logprobs, axis=-1)
    if len(rows) == 1:
        return _choose_alike(logprobs, rows)
    chosen: list[mx.array] = []
    order: list[int] = []
    # Rows of one kind go together: a row must not be computed otherwise because of its neighbours.
    for kind in (_greedy, _filtered, _free):
        members = [index for index, row in enumerate(rows) if kind(row)]
        if members:
            chosen.append(_choose_alike(logprobs[mx.array(members)], [rows[index] for index in members]))
            order += members
    return mx.concatenate(chosen)[mx.argsort(mx.array(order))]


def _greedy(row: RowSampling) -> bool:
    return row.is_greedy


def _filtered(row: RowSampling) -> bool:
    return row.is_filtered and not row.is_greedy


def _free(row: RowSampling) -> bool:
    return not row.is_filtered and not row.is_greedy


def _choose_alike(logprobs: mx.array, rows: Rows[RowSampling]) -> mx.array:
    if rows[0].is_greedy:
        return mx.argmax(logprobs, axis=-1).astype(mx.uint32)
    points = mx.array([row.draw() for row in rows])[:, None]
    scaled = logprobs.astype(mx.float32) / mx.array([row.temperature for row in rows])[:, None]
    if not rows[0].is_filtered:
        mass = mx.cumsum(mx.softmax(scaled, axis=-1), axis=-1)
        return _index_at(mass, points * mass[:, -1:], mass.shape[-1])
    return _choose_filtered(scaled, points, rows)


def _choose_filtered(scaled: mx.array, points: mx.array, rows: Rows[RowSampling]) -> mx.array:
    tokens = _likeliest(scaled, rows)
    values = mx.take_along_axis(scaled, tokens, axis=-1)
    width = values.shape[-1]
    top_k = mx.array([row.top_k or width for row in rows])[:, None]
    top_p = mx.array([row.top_p for row in rows])[:, None]
    probs = mx.softmax(mx.where(mx.arange(width) < top_k, values, -mx.inf), axis=-1)
    before = mx.cumsum(probs, axis=-1) - probs
    kept = mx.where((before < top_p) | (mx.arange(width) == 0), probs, 0.0)
    mass = mx.cumsum(kept, axis=-1)
    places = _index_at(mass, points * mass[:, -1:], (kept > 0).sum(axis=-1))
    return mx.take_along_axis(tokens, places[:, None], axis=-1)[:, 0].astype(mx.uint32)


def _likeliest(scaled: mx.array, rows: Rows[RowSampling]) -> mx.array:
    """Token ids by falling probability: as many as any row may keep."""
    vocabulary = scaled.shape[-1]
    width = max(row.top_k or vocabulary for row in rows)
    if width >= vocabulary:
        return mx.argsort(-scaled, axis=-1)
    some = mx.argpartition(-scaled, kth=width - 1, axis=-1)[:, :width]
    falling = mx.argsort(-mx.take_along_axis(scaled, some, axis=-1), axis=-1)
    return mx.take_along_axis(some, falling, axis=-1)


def _index_at(mass: mx.array, points: mx.array, count: mx.array | int) -> mx.array:
    """Where the cumulative `mass` passes `points`; rounding never leads past the last of `count`."""
    return mx.minimum((mass <= points).sum(axis=-1), count - 1).astype(mx.uint32)


class RepetitionPenalty:
    """Makes the tokens of the last stretch of prompt and reply less likely.

    A logits processor of mlx-vlm's `BatchGenerator`: called with the whole prompt before the
    first token, and with each token after that.
    """

    def __init__(self, penalty: float) -> None:
        self._penalty = penalty
        self._recent: deque[int] = deque(maxlen=REPETITION_CONTEXT_TOKENS)

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        recent: Any = tokens[-REPETITION_CONTEXT_TOKENS:].tolist()
        self._recent.extend(recent)
        return self._applied(logits)

    def process_last_token(self, token: int, logits: mx.array) -> mx.array:
        self._recent.append(token)
        return self._applied(logits)

    def _applied(self, logits: mx.array) -> mx.array:
        if not self._recent:
            return logits
        tokens = mx.array(sorted(set(self._recent)))[None]
        values = mx.take_along_axis(logits, tokens, axis=-1)
        lowered = mx.where(values < 0, values * self._penalty, values / self._penalty)
        return mx.put_along_axis(logits, tokens, lowered.astype(logits.dtype), axis=-1)
