"""A greedy reply that runs alone, several tokens a pass: a drafter guesses them and the model looks them over.

A drafter is a small head that was trained for one model and reads that model's hidden states.
What it guesses wrong is taken out of the model's caches again, so the reply is the one that the
model would have given by itself. All of that is mlx-vlm's; here it gets a prompt and is asked
for a token at a time, beside the replies of `decoding.py`.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_vlm.speculative.utils import SpeculativePrefill, run_speculative_rounds, speculative_prefill_kwargs

from mlx_websockets.engine.worker.batch import caches
from mlx_websockets.engine.worker.batch.caches import Caches
from mlx_websockets.engine.worker.batch.decoding import Left, Row, Token
from mlx_websockets.engine.worker.batch.prefill import Prefill, may_be_cut
from mlx_websockets.engine.worker.sequence import Prompt
from mlx_websockets.generation import Choice


@dataclass(frozen=True, slots=True)
class Drafter:
    """A loaded head and how it guesses, as mlx-vlm names it: "dflash", "mtp" or "eagle3"."""

    model: Any
    kind: str


class DraftedPrefill(Prefill):
    """The computation of one prompt that also gathers what a drafter reads.

    Attributes:
        output: of the model, once the last piece is computed, with the hidden states of all that the drafter reads.
    """

    def __init__(self, drafter: Drafter, language_model: Any, prompt: Prompt, row: Caches, remaining: int) -> None:
        super().__init__(language_model, [prompt], [row], remaining)
        self._may_be_cut = _may_be_cut(drafter, language_model, prompt)
        self._tokens = prompt.tokens
        self._last_options = speculative_prefill_kwargs(drafter.kind, drafter.model)
        self._gathered = SpeculativePrefill(drafter.kind, drafter.model)
        self.output: Any = None

    def tokens(self) -> mx.array:
        """Those that the hidden states are of, (1, tokens)."""
        return mx.array([self._tokens[-self.output.hidden_states[-1].shape[1] :]])

    def _forward(self, tokens: int, **options: Any) -> Any:
        if tokens < self.remaining:
            output = super()._forward(tokens, **options, **self._gathered.kwargs)
            self._gathered.append(output)
            return output
        self.output = self._gathered.finish(super()._forward(tokens, **options, **self._last_options))
        return self.output


class Drafting:
    """Runs one reply, or none: a drafter follows one at a time.

    Args:
        model: of mlx-vlm.
        drafter: None: no reply is ever taken.
        longest_piece: prompt tokens that may be computed in one piece.
    """

    def __init__(self, model: Any, drafter: Drafter | None, longest_piece: int) -> None:
        self._model = model
        self._language_model = model.language_model
        self._drafter = drafter
        self._longest_piece = longest_piece
        self._rounds: Iterator[tuple[int, Any]] = iter(())
        self._caches: Caches = []
        self._rope_deltas: mx.array | None = None
        self.rows: list[Row] = []

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Of keys and values."""
        return caches.bytes_of(self._caches)

    def takes(self, prompt: Prompt, choice: Choice, remaining: int) -> bool:
        """Whether a reply can be drafted: it has to be greedy, with nothing between the logits and the choice.

        Where the prompt has to be computed in one piece, that must not be too long for others to wait for.
        """
        return (
            self._drafter is not None
            and not self.rows
            and choice.temperature == 0.0
            and choice.repetition_penalty == 1.0
            and choice.candidates == 1
            and choice.logprobs is None
            and choice.json_schema is None
            and (remaining <= self._longest_piece or _may_be_cut(self._drafter, self._language_model, prompt))
        )

    def prefill(self, prompt: Prompt, row: Caches, remaining: int) -> DraftedPrefill:
        """Begin on a prompt that it takes; see `Prefill`."""
        assert self._drafter is not None
        return DraftedPrefill(self._drafter, self._language_model, prompt, row, remaining)

    def begin(self, row: Row, prefill: DraftedPrefill, logits: mx.array) -> None:
        """Let a reply run after its prompt. `logits` (1, vocabulary) are of its first token."""
        assert self._drafter is not None
        self.rows = [row]
        self._caches = prefill.caches
        self._rope_deltas = prefill.rope_deltas()
        first_token = _greedy(logits)
        caches.set_going(first_token)
        self._rounds = run_speculative_rounds(
            self._model,
            self._drafter.model,
            self._caches,
            prefill.tokens(),
            first_token,
            logits,
            prefill.output,
            draft_kind=self._drafter.kind,
            max_tokens=row.left,
            sampler=_greedy,
            sampler_is_greedy=True,
        )

    def step(self) -> tuple[list[Token], list[Left]]:
        """The reply's next token, computed or only handed out, and the row if that was its last."""
        [row] = self.rows
        if self._rope_deltas is not None:
            # The model remembers positions for whoever came last, and the rounds have no other way to be told.
            self._language_model._rope_deltas = self._rope_deltas
        token = int(next(self._rounds)[0])
        row.said.append(token)
        row.left -= 1
        return [Token(row, token, None, ())], self.remove([row]) if row.left == 0 else []

    def remove(self, rows: Rows[Row]) -> list[Left]:
        """Compute the reply no further, if it is among these. Nobody gets its caches: they may be ahead of it."""
        if not self.rows or self.rows[0] not in rows:
            return []
        [row] = self.rows
        self._rounds, self._caches, self._rope_deltas, self.rows = iter(()), [], None, []
        return [Left(row, None, len(row.said))]


def _may_be_cut(drafter: Drafter, language_model: Any, prompt: Prompt) -> bool:
    """The model can compute the prompt in pieces, and so that the drafter can read it."""
    options = speculative_prefill_kwargs(drafter.kind, drafter.model)
    return may_be_cut(language_model, prompt, draft_model=drafter.model, draft_kind=drafter.kind, **options)


def _greedy(logits: mx.array) -> mx.array:
    return mx.argmax(logits, axis=-1)
