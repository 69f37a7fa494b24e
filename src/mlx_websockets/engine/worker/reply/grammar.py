"""What a reply may say next, where it has to be JSON that meets a schema.

A `Grammar` is one reply's: it tells which tokens may come, and is told which one did. What a
tokenizer has besides its vocabulary proper (control tokens, stand-ins for the peer's words)
is never part of JSON. Nothing here knows about batches or logits.
"""

from collections import OrderedDict
from functools import cached_property
from typing import Any

import llguidance.hf
import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from mlx_websockets.engine.worker.reply.compiler import Rehearsal, compiled, too_complex
from mlx_websockets.errors import EngineError

MAX_KEPT = 32
"""Grammars that are kept made, and refusals."""

Bits = npt.NDArray[np.int32]
"""A bit for each token, 32 to a word, the first lowest."""


class Grammars:
    """Makes grammars for one loaded model.

    The tokenizer is looked through at the first schema: seconds, where it has a large vocabulary.

    Args:
        tokenizer: as mlx-vlm loaded it, with `stopping_criteria.eos_token_ids`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._kept: OrderedDict[str, LLMatcher | EngineError] = OrderedDict()

    def grammar(self, json_schema: str) -> "Grammar":
        """A reply's grammar, at its beginning.

        Args:
            json_schema: JSON text without line breaks, at most `MAX_SCHEMA_BYTES`.

        Raises:
            EngineError: `unsupported_schema`, `schema_too_complex`, `unsupported` where the
                model's tokenizer can't be looked into, `engine_failed` (retryable) where nothing
                could be found out.
        """
        made = self._kept.pop(json_schema, None) or self._made(json_schema)
        self._keep(json_schema, made)
        if isinstance(made, EngineError):
            raise made
        return Grammar(made.deep_copy(), self._sayable, self._ends)

    def close(self) -> None:
        """End the process in which schemas are tried out, if there is one."""
        if "_rehearse" in self.__dict__:
            self._rehearse.close()

    def _keep(self, json_schema: str, made: LLMatcher | EngineError) -> None:
        if isinstance(made, EngineError) and made.retryable:
            return
        self._kept[json_schema] = made
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    def _made(self, json_schema: str) -> LLMatcher | EngineError:
        try:
            rehearse, tokens = self._rehearse, self._tokens  # the one starts while the other is made
            rehearse(json_schema)
            return compiled(json_schema, tokens)
        except EngineError as error:
            return error

    @cached_property
    def _rehearse(self) -> Rehearsal:
        return Rehearsal()

    @cached_property
    def _tokens(self) -> LLTokenizer:
        try:
            return llguidance.hf.from_tokenizer(self._tokenizer, eos_token=self._end_ids)
        except ValueError as error:
            reason = "This model's tokenizer is of a kind that can't be held to a schema. Leave `response_format` out."
            raise EngineError("unsupported", reason) from error

    @property
    def _end_ids(self) -> list[int]:
        return sorted(set(self._tokenizer.stopping_criteria.eos_token_ids))

    @cached_property
    def _ends(self) -> Bits:
        return self._bits(self._end_ids)

    @cached_property
    def _sayable(self) -> Bits:
        """The vocabulary proper, and the tokens that end a reply."""
        added = set(self._tokenizer.added_tokens_decoder) - set(self._end_ids)
        return self._bits([id for id in range(len(self._tokenizer)) if id not in added])

    def _bits(self, ids: list[int]) -> Bits:
        words = -(-len(self._tokenizer) // 32)
        bits = np.zeros(words * 32, dtype=np.uint8)
        bits[ids] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)


class Grammar:
    """One reply's.

    Attributes:
        failure: why the schema could not be followed to the end; from then on the reply may only end.
    """

    def __init__(self, matcher: LLMatcher, sayable: Bits, ends: Bits) -> None:
        self._matcher = matcher
        self._sayable = sayable
        self._ends = ends
        self.failure: EngineError | None = None

    def fill(self, mask: Bits) -> None:
        """Set the bits of the tokens that may come next, clear the others.

        Args:
            mask: (the model's vocabulary / 32, rounded up,), of any content. Tokens that the
                tokenizer does not know may never come.
        """
        allowed = self._allowed()
        mask[:] = 0
        mask[: len(allowed)] = allowed[: len(mask)]

    def accept(self, token: int) -> None:
        """Go on behind a token that was allowed."""
        if self.failure is None and not self._matcher.is_stopped():
            self._matcher.consume_token(token)
            self._notice_failure()

    @property
    def is_finished(self) -> bool:
        """Nothing but the end may follow."""
        return self.failure is not None or self._matcher.is_stopped()

    def _allowed(self) -> Bits:
        if self.is_finished:
            return self._ends
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.int32)[: len(self._sayable)]
        self._notice_failure()
        allowed: Bits = bits & self._sayable
        if not allowed.any():
            self.failure = self.failure or too_complex()
        return self._ends if self.is_finished else allowed

    def _notice_failure(self) -> None:
        if self._matcher.is_error():
            self.failure = too_complex()
