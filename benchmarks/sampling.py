"""What choosing tokens costs a step (`python -m benchmarks.sampling`), as a Markdown table.

Milliseconds of processor time on a CPU, so that other programs disturb little; of the clock on a GPU.
The best of several steps, for random logits: nothing that is measured here depends on their values.
"""

import time
from typing import Any

import mlx.core as mx

from mlx_websockets.engine.worker.batch.sampler import BatchSampler, RowSampling
from mlx_websockets.generation import Choice

ROWS = (1, 4, 16)
VOCABULARIES = (49_152, 262_144)
STEPS = 10
KINDS: dict[str, dict[str, Any]] = {
    "`temperature` 0": {"temperature": 0.0},
    "... and a repetition penalty": {"temperature": 0.0, "repetition_penalty": 1.3},
    "... and 5 log probabilities": {"temperature": 0.0, "logprobs": 5},
    "... and a JSON schema's mask": {"temperature": 0.0, "json_schema": "{}"},
    "`topK` 50 (as set at first)": {"top_k": 50},
    "`topK` 50, `topP` 0.9": {"top_k": 50, "top_p": 0.9},
    "`topK` 1000": {"top_k": 1000},
    "all tokens": {},
    "all tokens, `minP` 0.05": {"min_p": 0.05},
    "all tokens, `topP` 0.95": {"top_p": 0.95},
}


def milliseconds(rows: int, vocabulary: int, settings: dict[str, Any]) -> float:
    """The best of several steps."""
    logits = mx.random.normal((rows, vocabulary)) * 3
    masks = mx.full((rows, vocabulary // 32), -1, mx.int32)
    mx.eval(logits, masks)
    sampler = BatchSampler()
    choice = Choice(max_tokens=1, **{"temperature": 0.7, **settings})
    sampler.extend([RowSampling(choice) for _ in range(rows)], [list(range(20))] * rows)
    return min(_step(sampler, logits, masks) for _ in range(STEPS)) * 1000


def _step(sampler: BatchSampler, logits: mx.array, masks: mx.array) -> float:
    clock = time.process_time if mx.default_device().type == mx.DeviceType.cpu else time.perf_counter
    before = clock()
    mx.eval([each for each in sampler.choose(logits, masks) if each is not None])
    return clock() - before


def main() -> None:
    columns = [(vocabulary, rows) for vocabulary in VOCABULARIES for rows in ROWS]
    print("| settings |", " | ".join(f"{rows} x {vocabulary // 1000}k" for vocabulary, rows in columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for name, settings in KINDS.items():
        figures = [milliseconds(rows, vocabulary, settings) for vocabulary, rows in columns]
        print(f"| {name} |", " | ".join(f"{figure:.1f}" for figure in figures), "|", flush=True)


if __name__ == "__main__":
    main()
