"""A request inside the worker: what is known of it from arrival to its last update."""

import time
from dataclasses import dataclass, field
from typing import Any

from mlx_websockets.engine.worker.detokenizer import Detokenizer
from mlx_websockets.generation import Finished, FinishReason, GenerationRequest, Timings, Usage


@dataclass(slots=True, kw_only=True)
class Prompt:
    """A request as the model takes it.

    Attributes:
        tokens: ids, pictures' places included.
        image_tokens: how many of them are places of pictures.
        inputs: the keyword arguments of the prefill, with `inputs_embeds` (1, tokens, width).
        keys: a number for each token; prompts can share what was computed as far as these agree.
    """

    tokens: list[int]
    image_tokens: int = 0
    inputs: dict[str, Any] = field(default_factory=dict)
    keys: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Sequence:
    """A request that was tokenized and admitted. Times are of `time.perf_counter`, in seconds."""

    request: GenerationRequest
    detokenizer: Detokenizer
    arrived_at: float
    input_tokens: int = 0
    image_tokens: int = 0
    output_tokens: int = 0
    vision_seconds: float = 0.0
    prepared_at: float = 0.0
    first_token_at: float | None = None
    last_token_at: float = 0.0

    def count_token(self) -> None:
        self.output_tokens += 1
        self.last_token_at = time.perf_counter()
        if self.first_token_at is None:
            self.first_token_at = self.last_token_at

    def finished(self, reason: FinishReason) -> Finished:
        usage = Usage(input_tokens=self.input_tokens, image_tokens=self.image_tokens, output_tokens=self.output_tokens)
        return Finished(self.request.id, reason, usage, self._timings())

    def _timings(self) -> Timings:
        first = self.first_token_at if self.first_token_at is not None else time.perf_counter()
        decoding = self.last_token_at - first
        return Timings(
            vision_ms=_ms(self.vision_seconds),
            prefill_ms=_ms(first - self.prepared_at),
            first_token_ms=_ms(first - self.arrived_at),
            tokens_per_second=round((self.output_tokens - 1) / decoding, 2) if decoding > 0 else 0.0,
        )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
