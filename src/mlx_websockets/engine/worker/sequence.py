"""A request inside the worker: what is known of it from arrival to its last update."""

import time
from dataclasses import dataclass, field
from typing import Any

from mlx_websockets.engine.worker.reply.detokenizer import Detokenizer
from mlx_websockets.engine.worker.reply.grammar import Grammar
from mlx_websockets.errors import EngineError
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


@dataclass(slots=True)
class Candidate:
    """One of a request's replies: its text so far, what it may say, and how it ended."""

    detokenizer: Detokenizer
    grammar: Grammar | None = None
    output_tokens: int = 0
    reason: FinishReason | None = None

    @property
    def is_whole(self) -> bool:
        """It said all that it was to say, whether or not it was allowed to go on."""
        is_whole_json = self.grammar is not None and self.grammar.is_finished
        return self.detokenizer.stopped or is_whole_json

    @property
    def failure(self) -> EngineError | None:
        """Why it can't be finished."""
        return self.grammar.failure if self.grammar is not None else None


@dataclass(slots=True, kw_only=True)
class Sequence:
    """A request that was tokenized and admitted. Times are of `time.perf_counter`, in seconds."""

    request: GenerationRequest
    candidates: list[Candidate]
    arrived_at: float
    input_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    vision_seconds: float = 0.0
    prepared_at: float = 0.0
    first_token_at: float | None = None
    last_token_at: float = 0.0

    def count_token(self, candidate: Candidate) -> None:
        candidate.output_tokens += 1
        self.last_token_at = time.perf_counter()
        if self.first_token_at is None:
            self.first_token_at = self.last_token_at

    @property
    def is_finished(self) -> bool:
        return all(each.reason is not None for each in self.candidates)

    def finished(self) -> Finished:
        usage = Usage(
            input_tokens=self.input_tokens,
            image_tokens=self.image_tokens,
            output_tokens=sum(each.output_tokens for each in self.candidates),
            cached_tokens=self.cached_tokens,
        )
        reasons = tuple(each.reason or "stop" for each in self.candidates)
        return Finished(self.request.id, reasons[0], usage, self._timings(), reasons if len(reasons) > 1 else ())

    def _timings(self) -> Timings:
        first = self.first_token_at if self.first_token_at is not None else time.perf_counter()
        decoding = self.last_token_at - first
        longest = max(each.output_tokens for each in self.candidates)
        return Timings(
            vision_ms=_ms(self.vision_seconds),
            prefill_ms=_ms(first - self.prepared_at),
            first_token_ms=_ms(first - self.arrived_at),
            tokens_per_second=round((longest - 1) / decoding, 2) if decoding > 0 else 0.0,
        )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
