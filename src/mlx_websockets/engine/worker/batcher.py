"""Rows that are computed together: our seam to mlx-vlm's `BatchGenerator`.

Only its public calls are used: `insert`, `next`, `remove`, `has_work`. It decodes first and
prefills one chunk after that, so a running reply waits for no more than a chunk. One prompt
is prefilled at a time: prompts of several models can't be padded together (Gemma 3's masks),
and a prompt computed alone gives what it gives alone.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
from mlx_vlm.generate.ar import BatchGenerator

from mlx_websockets.engine.worker.sampler import RepetitionPenalty, RowSampling, choose
from mlx_websockets.engine.worker.sequence import Prompt
from mlx_websockets.generation import Choice


@dataclass(frozen=True, slots=True)
class RowToken:
    """One row's next token. `end`: "stop" (the token says so itself), "length", or None."""

    row: int
    token: int
    end: Literal["stop", "length"] | None


@dataclass(frozen=True, slots=True)
class CacheQuantization:
    """How the keys and values that are kept lose precision; see mlx-vlm's KV cache quantisation."""

    bits: float
    group_size: int
    scheme: str

    def arguments(self) -> dict[str, Any]:
        return {
            "kv_bits": self.bits,
            "kv_group_size": self.group_size,
            "kv_quant_scheme": self.scheme,
            "quantized_kv_start": 0,
        }


class Batcher:
    """Prompts in, tokens out, one step at a time. A row is named by the number that `insert` gave it.

    Args:
        model: what `mlx_vlm.load` returned.
        processor: likewise.
        rows: how many may be decoded together.
        prefill_chunk: prompt tokens computed between two decode steps.
        quantization: of the keys and values that are kept; None: they are kept as they are computed.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        rows: int,
        prefill_chunk: int,
        quantization: CacheQuantization | None = None,
    ) -> None:
        self._rows = rows
        self._generator = BatchGenerator(
            model.language_model,
            processor,
            sampler=self._sample,
            completion_batch_size=rows,
            prefill_batch_size=1,
            prefill_step_size=prefill_chunk,
            compute_logprobs=False,
            **(quantization.arguments() if quantization is not None else {}),
        )
        if mx.metal.is_available():
            # The generator raises the wired limit for as long as it lives; that has brought down whole Macs.
            mx.set_wired_limit(0)
        self._sampling: dict[int, RowSampling] = {}
        self._prefilling: int | None = None
        self._decoding: list[int] = []  # in the order of the batch
        self._to_sample: list[list[int]] = []  # the rows of each sampler call of the step under way

    def __len__(self) -> int:
        return len(self._sampling)

    @property
    def takes_a_prompt(self) -> bool:
        """No prompt is being prefilled, and a row is free."""
        return self._prefilling is None and len(self._decoding) < self._rows

    def insert(self, prompt: Prompt, choice: Choice) -> int:
        """Begin on a prompt; ask `takes_a_prompt` first. Returns its row."""
        penalties = [RepetitionPenalty(choice.repetition_penalty)] if choice.repetition_penalty != 1.0 else None
        [row] = self._generator.insert(
            [prompt.tokens], [choice.max_tokens], prompt_kwargs=[prompt.inputs], logits_processors=[penalties]
        )
        self._sampling[row] = RowSampling(choice)
        self._prefilling = row
        return int(row)

    def step(self) -> list[RowToken]:
        """Decode one token for every running row, then prefill one chunk."""
        prefilling = [] if self._prefilling is None else [self._prefilling]
        self._to_sample = [rows for rows in (self._decoding, prefilling) if rows]
        prefilled, responses = self._generator.next()
        tokens = [RowToken(each.uid, each.token, each.finish_reason) for each in responses]
        for token in tokens:
            if token.end is not None:
                self._forget(token.row)
        if prefilled:
            assert self._prefilling is not None
            self._decoding.append(self._prefilling)
            self._prefilling = None
        return tokens

    def remove(self, row: int) -> None:
        """Give a row up, wherever it is. Nothing of it comes any more."""
        if row in self._sampling:
            self._generator.remove(row)
            self._forget(row)

    def close(self) -> None:
        self._generator.close()

    def _forget(self, row: int) -> None:
        del self._sampling[row]
        if row == self._prefilling:
            self._prefilling = None
        else:
            self._decoding.remove(row)

    def _sample(self, logprobs: mx.array) -> mx.array:
        """Called once for the rows that decode, and once for the row whose prompt has just ended."""
        rows: Rows[int] = self._to_sample.pop(0)
        assert len(rows) == logprobs.shape[0], "the generator's order of rows is not the one kept here"
        return choose(logprobs, [self._sampling[row] for row in rows])
