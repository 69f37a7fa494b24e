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
    """

    def __init__(self, language_model: Any, prompts: Rows[Prompt], row_caches: Rows[Caches], remaining: int) -> None:
        self._model = language_model
        self._prompts = prompts
        padding = [max(0, remaining - len(prompt.tokens)) for prompt in prompts]
        self.caches = caches.padded(caches.joined(row_caches), padding)
        self.remaining = remaining
        self._most_at_the_end = max(1, MOST_LOGITS // len(prompts))
        self._may_be_cut = len(prompts) > 1 or may_be_cut(language_model, prompts[0])

    def ends_within(self, most: int) -> bool:
        """What remains is one last pass of no more than `most` tokens; or it can't be cut."""
        return self.remaining <= min(self._most_at_the_end, most) or not self._may_be_cut

    def advance(self, most: int) -> int:
        """Compute up to `most` tokens of each row, but not the last one. Returns how many of each."""
        tokens = min(most, self.remaining - 1)
        self._forward(tokens, n_to_process=tokens)
        mx.eval(caches.arrays(self.caches))
        return tokens

    def finish(self) -> mx.array:
        """Compute what remains. Returns the logits of each row's next token, (rows, vocabulary), lazily."""
        output = self._forward(self.remaining, logits_to_keep=1)
        logits: mx.array = getattr(output, "logits", output)
        return logits[:, -1, :]

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
