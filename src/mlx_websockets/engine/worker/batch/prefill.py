"""The computation of prompts, in pieces, up to the logits of their first tokens."""

from collections.abc import Sequence as Rows
from typing import Any

import mlx.core as mx
from mlx_vlm.generate.ar import (
    PromptProcessingBatch,
    _is_sequence_aligned_prompt_kwarg,
    _slice_sequence_aligned_prompt_kwarg,
)
from mlx_vlm.generate.common import _chunked_prefill_enabled

from mlx_websockets.engine.worker.batch import caches
from mlx_websockets.engine.worker.batch.caches import Caches
from mlx_websockets.engine.worker.sequence import Prompt

MOST_LOGITS = 64
"""Positions, over all rows, for which logits are computed at most. Most models give them for every position of a
pass, which costs, and yet less than a pass of its own for the last token: so few tokens are one pass, and of more
the last is left for a second, which computes no more than a reply's step does."""

SAME_FOR_ALL = frozenset({"inputs_embeds", "attention_mask", "pixel_attention_mask"})
"""A prompt with no other inputs can be computed together with others: these mean nothing to a language model that gets
embeddings without padding."""


class Prefill:
    """Prompts of which the same number of tokens is still to be computed: one prompt, or rows of one shape.

    A row whose prompt is shorter than that begins with padding.

    Args:
        language_model: of an mlx-vlm model.
        prompts: a row each.
        row_caches: of each row, holding what is computed already: all but the last `remaining` tokens.
        remaining: at least 1.

    Attributes:
        logits: of each row's next token, (rows, vocabulary), lazily; None until the last tokens are begun on.
    """

    def __init__(self, language_model: Any, prompts: Rows[Prompt], row_caches: Rows[Caches], remaining: int) -> None:
        self._model = language_model
        self._prompts = prompts
        padding = [max(0, remaining - len(prompt.tokens)) for prompt in prompts]
        self.caches = caches.padded(caches.joined(row_caches), padding)
        self.remaining = remaining
        self._most_at_the_end = max(1, MOST_LOGITS // len(prompts))
        self._may_be_cut = len(prompts) > 1 or may_be_cut(language_model, prompts[0])
        self.logits: mx.array | None = None
        self._planned: list[list[Any]] = []  # of each layer, what is to be computed

    @property
    def layers(self) -> int:
        """Of the model."""
        return len(self.caches)

    def plan(self, most: int) -> None:
        """Begin on up to `most` tokens of each row. Nothing is computed until `compute` is called.

        Once these are the last ones, `logits` are set.
        """
        if self._ends_within(most):
            output = self._forward(self.remaining, logits_to_keep=1)
            self.logits = getattr(output, "logits", output)[:, -1, :]
        else:
            tokens = min(most, self.remaining - 1)
            self._forward(tokens, n_to_process=tokens)
        self._planned = [caches.arrays([each]) for each in self.caches]

    @property
    def is_planned(self) -> bool:
        """Some layers of the tokens that were begun on are still to be computed."""
        return bool(self._planned)

    def compute(self, layers: int) -> int:
        """Compute up to so many layers of what is planned. Returns how many."""
        now, self._planned = self._planned[:layers], self._planned[layers:]
        mx.eval(now)  # MLX computes what these need, which is the layers before, and no more
        return len(now)

    def _ends_within(self, most: int) -> bool:
        """What remains is one last pass of no more than `most` tokens; or it can't be cut."""
        return self.remaining <= min(self._most_at_the_end, most) or not self._may_be_cut

    def rope_deltas(self) -> mx.array | None:
        """Where positions go on after pictures that are counted in three dimensions, (rows, 1); None: they are not."""
        deltas: mx.array | None = PromptProcessingBatch._capture_rope_deltas_from_prompt_kwargs(
            self._prompts[0].inputs, self._model, len(self._prompts)
        )
        return deltas

    def _forward(self, tokens: int, **options: Any) -> Any:
        starts = [len(prompt.tokens) - self.remaining for prompt in self._prompts]
        spans = [(prompt, start, start + tokens) for prompt, start in zip(self._prompts, starts, strict=True)]
        output = self._model(
            mx.array([_tokens_of(*span) for span in spans]),
            cache=self.caches,
            inputs_embeds=mx.concatenate([_embeddings_of(*span) for span in spans]),
            **options,
            **(_inputs_of(*spans[0]) if len(spans) == 1 else {}),
        )
        self.remaining -= tokens
        return output


def may_be_cut(
    language_model: Any, prompt: Prompt, *, draft_model: Any = None, draft_kind: str | None = None, **options: Any
) -> bool:
    """The model can take the prompt in pieces, so also from a place that is known.

    `options` are what it is told beside the prompt's inputs where a drafter reads along.
    """
    enabled: bool = _chunked_prefill_enabled(
        language_model,
        input_ids=mx.array([prompt.tokens]),
        inputs_embeds=prompt.inputs["inputs_embeds"],
        draft_model=draft_model,
        draft_kind=draft_kind,
        prefill_kwargs={**prompt.inputs, **options},
    )
    return enabled


def goes_with_others(prompt: Prompt) -> bool:
    """The prompt can be a row among others while it is computed."""
    return prompt.inputs.keys() <= SAME_FOR_ALL


def _tokens_of(prompt: Prompt, start: int, stop: int) -> list[int]:
    """Places before the prompt are padding."""
    return [0] * (min(stop, 0) - min(start, 0)) + prompt.tokens[max(start, 0) : max(stop, 0)]


def _embeddings_of(prompt: Prompt, start: int, stop: int) -> mx.array:
    embeddings: mx.array = prompt.inputs["inputs_embeds"][:, max(start, 0) : max(stop, 0)]
    padding = min(stop, 0) - min(start, 0)
    return mx.pad(embeddings, [(0, 0), (padding, 0), (0, 0)]) if padding else embeddings


def _inputs_of(prompt: Prompt, start: int, stop: int) -> dict[str, Any]:
    """What a model wants to know beside the embeddings, of these tokens."""
    length = len(prompt.tokens)
    return {
        key: _slice_sequence_aligned_prompt_kwarg(key, value, start=start, stop=stop)
        if isinstance(value, mx.array) and _is_sequence_aligned_prompt_kwarg(key, value, length)
        else value
        for key, value in prompt.inputs.items()
        if key != "inputs_embeds"
    }
