"""A prompt that is computed in parts is the prompt that is computed at once: a real model."""

from pathlib import Path

import mlx.core as mx
import mlx_vlm
import numpy as np
import pytest

from mlx_websockets.engine.worker.batch import caches
from mlx_websockets.engine.worker.batch.prefill import Prefill
from mlx_websockets.engine.worker.prompting.prompts import Prompts
from mlx_websockets.engine.worker.sequence import Prompt
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest


class Model:
    def __init__(self, folder: Path) -> None:
        model, processor = mlx_vlm.load(str(folder))
        self.language_model = model.language_model
        prompts = Prompts(model, processor, processor.tokenizer, sees=True, context_tokens=8192)
        message = ChatMessage("user", "What? " * 50)
        request = GenerationRequest(id=1, messages=(message,), choice=Choice(max_tokens=1))
        self.prompt: Prompt = prompts.prompt(request)[0]

    def prefill(self) -> Prefill:
        row = caches.new_caches(self.language_model, None)
        return Prefill(self.language_model, [self.prompt], [row], len(self.prompt.tokens))


@pytest.fixture(scope="module")
def model(tiny_gemma3: Path) -> Model:
    return Model(tiny_gemma3)


def computed(prefill: Prefill, chunk: int, layers: int) -> mx.array:
    while prefill.logits is None:
        prefill.plan(chunk)
        while prefill.is_planned:
            assert 1 <= prefill.compute(layers) <= layers
    return prefill.logits


@pytest.mark.parametrize("layers", [1, 2, 100])
@pytest.mark.parametrize("chunk", [1, 24, 1000])
def test_chunks_and_layers_change_nothing(model: Model, chunk: int, layers: int):
    whole = model.prefill()
    wanted = np.array(computed(whole, 1000, whole.layers))

    found = np.array(computed(model.prefill(), chunk, layers))

    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.argmax(found) == np.argmax(wanted)


def test_what_is_planned_is_computed_layer_by_layer(model: Model):
    prefill = model.prefill()
    prefill.plan(24)

    assert prefill.is_planned
    assert prefill.logits is None
    assert [prefill.compute(1) for _ in range(prefill.layers)] == [1] * prefill.layers
    assert not prefill.is_planned
    assert prefill.remaining == len(model.prompt.tokens) - 24
