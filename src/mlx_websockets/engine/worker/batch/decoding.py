"""The rows whose replies run, a token each a step.

A step sets the computation of the next tokens going and only then reads the last ones, so
the device works while they are handled. A row that gets its last token is not computed any
further.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_websockets.engine.worker.batch import caches
from mlx_websockets.engine.worker.batch.caches import Caches
from mlx_websockets.engine.worker.batch.sampler import BatchSampler, Chosen, RowSampling


class Grammar(Protocol):
    """What a row may say next; see `grammar.py`."""

    def fill(self, mask: npt.NDArray[np.int32]) -> None: ...

    def accept(self, token: int) -> None: ...


@dataclass(slots=True, eq=False)
class Row:
    """One reply in the making.

    Attributes:
        owner: whose it is; nothing here looks at it.
        sampling: how its tokens are chosen.
        left: tokens that it may still get.
        grammar: what it may say; None: anything.
        serves_others: its caches are wanted when it leaves.
        said: its tokens so far.
        is_gone: it was given up; a token under way is nobody's.
    """

    owner: Any
    sampling: RowSampling
    left: int
    grammar: Grammar | None = None
    serves_others: bool = False
    said: list[int] = field(default_factory=list)
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """What a row got: a token and, where it was asked for, how likely it and others were (natural logarithms)."""

    row: Row
    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Left:
    """A row that is not computed any further. `caches` hold its prompt and the first `said` of its tokens.

    They are None where nobody wants them, or the model's kind of caches can't give a single row.
    """

    row: Row
    caches: Caches | None
    said: int


class Decoding:
    """Runs rows together. They have the same order everywhere: in the caches, in the sampler, in every array.

    Args:
        language_model: of an mlx-vlm model.
    """

    def __init__(self, language_model: Any) -> None:
        self._model = language_model
        self.rows: list[Row] = []
        self._caches: Caches = []
        self._rope_deltas: mx.array | None = None
        self._sampler = BatchSampler()
        self._tokens: mx.array | None = None  # (rows,), under way
        self._unread: list[tuple[Chosen, list[Row]]] = []  # the same, as they were chosen

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Of keys and values."""
        return caches.bytes_of(self._caches)

    def extend(
        self,
        rows: Rows[Row],
        row_caches: Caches,
        logits: mx.array,
        recent: Rows[Rows[int]],
        rope_deltas: mx.array | None,
    ) -> None:
        """Take rows in after their prompts.

        Args:
            row_caches: of all of them, in this order.
            logits: (rows, vocabulary), of their first tokens.
            recent: the last tokens of each row's prompt.
            rope_deltas: see `Prefill.rope_deltas`.
        """
        newcomers = BatchSampler()
        newcomers.extend([row.sampling for row in rows], recent)
        chosen = self._choose(newcomers, logits, rows)
        self._tokens = _concatenated(self._tokens, chosen.tokens)
        self._rope_deltas = _concatenated(self._rope_deltas, rope_deltas)
        self._sampler.join(newcomers)
        self._caches = caches.extended(self._caches, row_caches)
        self.rows = [*self.rows, *rows]

    def step(self) -> tuple[list[Token], list[Left]]:
        """The tokens that were under way, and the rows that thereby got their last; the next ones are set going."""
        left = self._drop([index for index, row in enumerate(self.rows) if row.left == 1 and self._is_under_way(row)])
        unread, self._unread = self._unread, []
        if not self.rows:
            return _read(unread), left
        logits = self._forward()
        if any(row.grammar is not None for row in self.rows):
            # What may come next depends on the tokens under way. The device computes the logits meanwhile.
            caches.set_going(logits)
            tokens = _read(unread)
            self._tokens = self._choose(self._sampler, logits, self.rows).tokens
        else:
            self._tokens = self._choose(self._sampler, logits, self.rows).tokens
            tokens = _read(unread)
        return tokens, left

    def read(self) -> tuple[list[Token], list[Left]]:
        """The tokens that are under way, as soon as they are there; nothing is set going."""
        unread, self._unread = self._unread, []
        tokens = _read(unread)
        return tokens, self._drop([index for index, row in enumerate(self.rows) if row.left == 0])

    def wait(self) -> None:
        """Until the tokens under way are there."""
        if self._tokens is not None:
            mx.eval(self._tokens)

    def remove(self, rows: Rows[Row]) -> list[Left]:
        """Compute these no further, whatever is under way for them."""
        for row in rows:
            row.is_gone = True
        return self._drop([index for index, row in enumerate(self.rows) if row in rows])

    def _drop(self, indices: Rows[int]) -> list[Left]:
        if not indices:
            return []
        left = [self._left(index) for index in indices]
        kept = [index for index in range(len(self.rows)) if index not in indices]
        self.rows = [self.rows[index] for index in kept]
        self._caches = caches.filtered(self._caches, kept)
        self._sampler.keep(kept)
        self._tokens = _filtered(self._tokens, kept)
        self._rope_deltas = _filtered(self._rope_deltas, kept)
        return left

    def _left(self, index: int) -> Left:
        row = self.rows[index]
        # The newest token is in the caches once the one after it is under way.
        said = len(row.said) if self._is_under_way(row) else len(row.said) - 1
        return Left(row, caches.row_of(self._caches, index) if row.serves_others else None, said)

    def _is_under_way(self, row: Row) -> bool:
        return any(row in rows for _, rows in self._unread)

    def _forward(self) -> mx.array:
        assert self._tokens is not None
        options = {} if self._rope_deltas is None else {"rope_deltas": self._rope_deltas}
        output = self._model(self._tokens[:, None], cache=self._caches, **options)
        logits: mx.array = getattr(output, "logits", output)
        return logits[:, -1, :]

    def _choose(self, sampler: BatchSampler, logits: mx.array, rows: Rows[Row]) -> Chosen:
        chosen = sampler.choose(logits, _masks(rows, logits.shape[-1]))
        caches.set_going([each for each in chosen if each is not None])
        self._unread.append((chosen, list(rows)))
        return chosen


def _masks(rows: Rows[Row], vocabulary: int) -> mx.array | None:
    """A bit for each token that a row may say, (rows, vocabulary / 32); None: all of them may say anything."""
    if all(row.grammar is None for row in rows):
        return None
    masks = np.full((len(rows), -(-vocabulary // 32)), -1, dtype=np.int32)
    for row, mask in zip(rows, masks, strict=True):
        if row.grammar is not None:
            row.grammar.fill(mask)
    return mx.array(masks)


def _read(unread: Rows[tuple[Chosen, Rows[Row]]]) -> list[Token]:
    """Wait for tokens that were chosen, and tell their rows."""
    read: list[Token] = []
    for chosen, rows in unread:
        tokens: Any = chosen.tokens.tolist()
        logprobs: Any = None if chosen.logprobs is None else chosen.logprobs.tolist()
        tops = _tops(chosen)
        for index, row in enumerate(rows):
            if row.is_gone:
                continue
            row.said.append(tokens[index])
            row.left -= 1
            if row.grammar is not None:
                row.grammar.accept(tokens[index])
            logprob = logprobs[index] if logprobs is not None and row.sampling.top_logprobs is not None else None
            top = tuple(tops[index][: row.sampling.top_logprobs or 0]) if tops is not None else ()
            read.append(Token(row, tokens[index], logprob, top))
    return read


def _tops(chosen: Chosen) -> list[list[tuple[int, float]]] | None:
    if chosen.top_tokens is None or chosen.top_logprobs is None:
        return None
    tokens: Any = chosen.top_tokens.tolist()
    logprobs: Any = chosen.top_logprobs.tolist()
    return [list(zip(*row, strict=True)) for row in zip(tokens, logprobs, strict=True)]


def _concatenated(one: mx.array | None, other: mx.array | None) -> mx.array | None:
    if one is None or other is None:
        return other if one is None else one
    return mx.concatenate([one, other])


def _filtered(array: mx.array | None, kept: Rows[int]) -> mx.array | None:
    return array[mx.array(list(kept))] if array is not None and kept else None
