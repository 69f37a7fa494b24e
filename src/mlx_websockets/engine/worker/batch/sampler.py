"""Choosing the next token of every row in one pass, each row by its own settings.

A row draws one uniform number a token from a generator of its own and takes the token at
that point of its cumulative distribution. So a reply depends on its request alone: not on
who else is in the batch, nor on how many rows there are. Rows of one kind are computed
together, the kinds apart: no row is computed otherwise because of its neighbours.

Nothing here waits for a value. Tokens are chosen before the one before them is known to
anyone, so the tokens that a penalty looks back at are an array as well.
"""

import random
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows
from typing import NamedTuple

import mlx.core as mx

from mlx_websockets.engine.worker.batch.masses import (
    least_of,
    likeliest,
    log_sum,
    masses,
    nucleus_token_at,
    padded,
    part,
    place_at,
    rows_at_once,
    token_at,
)
from mlx_websockets.generation import Choice
from mlx_websockets.sampling import MAX_TOP_LOGPROBS, REPETITION_CONTEXT_TOKENS

LEAST_TEMPERATURE = 1e-20
"""Below it logits over temperature would overflow; what it changes is far below rounding."""

NO_TOKEN = -1
ANYTHING = -1  # 32 bits of a mask, all set


class RowSampling:
    """One row's settings and its own source of chance.

    Args:
        choice: as the request has it.
        candidate: 0 for a request's first reply; each further one of a seeded request has a stream of its own.
    """

    __slots__ = (
        "_random",
        "min_p",
        "obeys_a_grammar",
        "repetition_penalty",
        "temperature",
        "top_k",
        "top_logprobs",
        "top_p",
    )

    def __init__(self, choice: Choice, candidate: int = 0) -> None:
        self.temperature = choice.temperature
        self.top_k = choice.top_k
        self.top_p = choice.top_p
        self.min_p = choice.min_p
        self.repetition_penalty = choice.repetition_penalty
        self.top_logprobs = choice.logprobs
        self.obeys_a_grammar = choice.json_schema is not None
        # Not for secrets. `None` seeds from the system's entropy, a string from its SHA-512.
        derived = choice.seed if candidate == 0 or choice.seed is None else f"{choice.seed} {candidate}"
        self._random = random.Random(derived)  # noqa: S311

    def draw(self) -> float:
        """Uniform in [0, 1)."""
        return self._random.random()

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0


class Chosen(NamedTuple):
    """What `BatchSampler.choose` chose, not yet computed.

    Log probabilities are natural, and the model's own: before temperature, penalties, filters and
    masks. They are NaN, and the top tokens 0, for rows that did not ask.

    Attributes:
        tokens: (rows,) uint32.
        logprobs: (rows,) float32 of the chosen tokens; None when no row asked.
        top_tokens: (rows, k) uint32, likeliest first, k the most that any row asked for; None when that is 0.
        top_logprobs: (rows, k) float32.
    """

    tokens: mx.array
    logprobs: mx.array | None = None
    top_tokens: mx.array | None = None
    top_logprobs: mx.array | None = None


class BatchSampler:
    """The settings of all rows as arrays; rows are in the order of the batch."""

    def __init__(self) -> None:
        self._rows: list[RowSampling] = []
        # (rows, REPETITION_CONTEXT_TOKENS), newest last. None where no row has a penalty: nothing would ever
        # compute it then, and what it is to be made from would pile up.
        self._recent: mx.array | None = None
        self._groups: list[_Group] | None = None  # None: the rows have changed
        self._arrange()

    def __len__(self) -> int:
        return len(self._rows)

    def extend(self, rows: Rows[RowSampling], recent: Rows[Rows[int]]) -> None:
        """Append rows.

        Args:
            rows: their settings.
            recent: the last tokens of each row's prompt, oldest first; more than a penalty looks at are left out.
        """
        windows = [_window(tokens) for _, tokens in zip(rows, recent, strict=True)]
        self._append(rows, mx.array(windows, mx.int32) if windows else None)

    def join(self, others: "BatchSampler") -> None:
        """Append the rows of another, which may not be used any more."""
        self._append(others._rows, others._recent)

    def _append(self, rows: Rows[RowSampling], recent: mx.array | None) -> None:
        if _any_penalties([*self._rows, *rows]):
            before = _no_tokens(len(self)) if self._recent is None else self._recent
            self._recent = mx.concatenate([before, _no_tokens(len(rows)) if recent is None else recent])
        self._rows += rows
        self._arrange()

    def keep(self, indices: Rows[int]) -> None:
        """Keep these rows, in this order, and forget the others."""
        self._rows = [self._rows[index] for index in indices]
        if self._recent is not None:
            self._recent = self._recent[mx.array(list(indices))] if _any_penalties(self._rows) else None
        self._arrange()

    def _arrange(self) -> None:
        """What depends on the rows alone, once for all their steps."""
        self._groups = None
        self._penalties = _column(row.repetition_penalty for row in self._rows)
        grammars = [row.obeys_a_grammar for row in self._rows]
        self._held = mx.array(grammars)[:, None] if any(grammars) else None
        self._asking = [index for index, row in enumerate(self._rows) if row.top_logprobs is not None]
        self._most_top = max((row.top_logprobs or 0 for row in self._rows), default=0)

    def choose(self, logits: mx.array, masks: mx.array | None = None) -> Chosen:
        """The next token of each row.

        Args:
            logits: (rows, vocabulary) as the model gives them, of any floating type.
            masks: (rows, words) int32, a bit for each token as llguidance lays them out, set where
                it is allowed. Only rows whose request has a grammar are held to theirs; for these,
                tokens beyond the mask are forbidden too.
        """
        assert logits.shape[0] == len(self) > 0, "as many rows of logits as of settings"
        allowed = self._masked(self._penalised(logits), masks)
        if self._groups is None:
            self._groups = _grouped(self._rows, logits.shape[-1])
        tokens = _chosen(allowed, self._groups)
        if self._recent is not None:
            self._recent = mx.concatenate([self._recent[:, 1:], tokens[:, None].astype(mx.int32)], axis=1)
        return self._reported(logits, tokens)

    def _penalised(self, logits: mx.array) -> mx.array:
        if self._recent is None:
            return logits
        newest = self._recent[:, -1:]
        # A window that is not full repeats its newest token; one that is empty changes nothing.
        tokens = mx.maximum(mx.where(self._recent == NO_TOKEN, newest, self._recent), 0)
        penalties = mx.where(newest == NO_TOKEN, 1.0, self._penalties)
        values = mx.take_along_axis(logits, tokens, axis=-1).astype(mx.float32)
        lowered = mx.where(values < 0, values * penalties, values / penalties)
        return mx.put_along_axis(logits, tokens, lowered.astype(logits.dtype), axis=-1)

    def _masked(self, logits: mx.array, masks: mx.array | None) -> mx.array:
        if masks is None or self._held is None:
            return logits
        masks = mx.where(self._held, padded(masks, -(-logits.shape[-1] // 32), 0), ANYTHING)
        return mx.minimum(logits, _ceilings(masks)[:, : logits.shape[-1]])

    def _reported(self, logits: mx.array, tokens: mx.array) -> Chosen:
        if not self._asking:
            return Chosen(tokens)
        rows = mx.array(self._asking)
        values = logits[rows].astype(mx.float32)
        whole = log_sum(values)
        own = mx.take_along_axis(values, tokens[rows][:, None], axis=-1) - whole
        logprobs = _spread(own[:, 0], rows, len(self), mx.nan)
        if self._most_top == 0:
            return Chosen(tokens, logprobs)
        # Always as many as any row may ask for: in other company, equals would be told apart otherwise.
        top, top_tokens = (found[:, : self._most_top] for found in likeliest(values, MAX_TOP_LOGPROBS))
        return Chosen(
            tokens,
            logprobs,
            _spread(top_tokens.astype(mx.uint32), rows, len(self), 0),
            _spread(top - whole, rows, len(self), mx.nan),
        )


def _any_penalties(rows: Rows[RowSampling]) -> bool:
    return any(row.repetition_penalty != 1.0 for row in rows)


def _no_tokens(rows: int) -> mx.array:
    return mx.full((rows, REPETITION_CONTEXT_TOKENS), NO_TOKEN, mx.int32)


def _column(values: Iterable[float]) -> mx.array:
    """(rows, 1)"""
    return mx.array(list(values))[:, None]


def _window(tokens: Rows[int]) -> list[int]:
    window = list(tokens[-REPETITION_CONTEXT_TOKENS:])
    return [NO_TOKEN] * (REPETITION_CONTEXT_TOKENS - len(window)) + window


def _spread(values: mx.array, places: mx.array, rows: int, filler: float) -> mx.array:
    """`values` at these rows, `filler` at all others."""
    whole = mx.full((rows, *values.shape[1:]), filler, values.dtype)
    whole[places] = values
    return whole


def _ceilings(masks: mx.array) -> mx.array:
    """How high each logit may be, (rows, 32 * words): inf or -inf. The smaller of two is quicker than a choice."""
    return _BYTE_CEILINGS[masks.view(mx.uint8)].reshape(masks.shape[0], -1)


_BYTE_CEILINGS = mx.array(
    [[float("inf") if byte >> bit & 1 else float("-inf") for bit in range(8)] for byte in range(256)]
)


class _Group:
    """Rows that are computed alike.

    Args:
        rows: their settings.
        places: where they are in the batch; None: they are all of it.
        kind: how they are computed.
    """

    def __init__(self, rows: list[RowSampling], places: mx.array | None, kind: "_Kind") -> None:
        self._rows = rows
        self._choose = kind.choose
        self.places = places
        self.width = kind.width
        self.temperature = _column(max(row.temperature, LEAST_TEMPERATURE) for row in rows)
        self.top_k = _column(row.top_k for row in rows)
        self.top_p = _column(row.top_p for row in rows)
        self.min_p = _column(row.min_p for row in rows)

    def choose(self, logits: mx.array) -> mx.array:
        return self._choose(logits if self.places is None else logits[self.places], self)

    def scaled(self, logits: mx.array) -> mx.array:
        return logits.astype(mx.float32) / self.temperature

    def draws(self) -> mx.array:
        """(rows, 1)"""
        return _column(row.draw() for row in self._rows)


class _Kind(NamedTuple):
    """A way to compute rows. `width`: among how many of the likeliest tokens; 0: all."""

    choose: Callable[[mx.array, _Group], mx.array]
    width: int = 0


def _grouped(rows: Rows[RowSampling], vocabulary: int) -> list[_Group]:
    places: dict[_Kind, list[int]] = {}
    for index, row in enumerate(rows):
        places.setdefault(_kind(row, vocabulary), []).append(index)
    parts = [(kind, few) for kind, members in places.items() for few in _parted(members, kind, vocabulary)]
    return [
        _Group([rows[index] for index in members], mx.array(members) if len(parts) > 1 else None, kind)
        for kind, members in parts
    ]


def _parted(members: list[int], kind: _Kind, vocabulary: int) -> list[list[int]]:
    if kind.choose not in (_choose_of_all, _choose_of_the_nucleus):
        return [members]
    size = rows_at_once(vocabulary)
    return [members[start : start + size] for start in range(0, len(members), size)]


def _kind(row: RowSampling, vocabulary: int) -> _Kind:
    if row.is_greedy:
        return _Kind(_choose_greedily)
    if 0 < row.top_k < vocabulary:
        return _Kind(_choose_of_the_likeliest, min(_width(row.top_k), vocabulary))
    return _Kind(_choose_of_the_nucleus) if row.top_p < 1.0 else _Kind(_choose_of_all)


def _width(top_k: int) -> int:
    """One of few sizes, so that most rows share theirs. The most of any row would be its neighbours' doing."""
    width = 64
    while width < top_k:
        width *= 4
    return width


def _chosen(logits: mx.array, groups: list[_Group]) -> mx.array:
    if len(groups) == 1:
        return groups[0].choose(logits)
    order = mx.argsort(mx.concatenate([group.places for group in groups if group.places is not None]))
    return mx.concatenate([group.choose(logits) for group in groups])[order]


def _choose_greedily(logits: mx.array, group: _Group) -> mx.array:
    return mx.argmax(logits, axis=-1).astype(mx.uint32)


def _choose_of_all(logits: mx.array, group: _Group) -> mx.array:
    found = masses(group.scaled(logits))
    return token_at(found * (found >= least_of(found, group.min_p)), group.draws())


def _choose_of_the_nucleus(logits: mx.array, group: _Group) -> mx.array:
    found = masses(group.scaled(logits))
    return nucleus_token_at(found, group.top_p, least_of(found, group.min_p), group.draws())


def _choose_of_the_likeliest(logits: mx.array, group: _Group) -> mx.array:
    values, tokens = likeliest(logits, group.width)
    found = masses(mx.where(mx.arange(group.width) < group.top_k, group.scaled(values), -mx.inf))
    before = mx.cumsum(found, axis=-1) - found
    belongs = before < part(found.sum(axis=-1, keepdims=True), group.top_p)
    kept = found * (belongs & (found >= least_of(found, group.min_p)))
    return mx.take_along_axis(tokens, place_at(kept, group.draws()), axis=-1)[:, 0].astype(mx.uint32)
