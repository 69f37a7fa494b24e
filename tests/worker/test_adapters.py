"""LoRA adapters and quantised caches: real tiny models in a real worker, or in a start of one."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.worker.starting import refusal_here

from mlx_websockets.engine.client import Engine
from mlx_websockets.engine.messages import ModelSpec
from mlx_websockets.errors import ModelBroken, StartError, UsageError
from mlx_websockets.generation import ChatMessage, Choice, Delta, Failed, Finished, GenerationRequest, Image, Update
from tiny_models.tiny_gemma3 import write_tiny_gemma3

TRAIN = """
import sys
import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_vlm import load
from mlx_vlm.trainer.peft.utils import get_peft_model, save_adapter

model, _ = load(sys.argv[1])
model = get_peft_model(model, rank=4, alpha=8.0, dropout=0.0, verbose=False)
mx.random.seed(1)
trained = [(name, mx.random.normal(array.shape) * 0.5) for name, array in tree_flatten(model.trainable_parameters())]
model.update(tree_unflatten(trained))
save_adapter(model, sys.argv[2])
"""


@pytest.fixture(scope="module")
def adapter(tiny_gemma3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA weights for the tiny Gemma, as mlx-vlm's trainer writes them."""
    folder = tmp_path_factory.mktemp("adapter")
    command = [sys.executable, "-c", TRAIN, str(tiny_gemma3), str(folder / "adapters.safetensors")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def wide_gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma whose heads are wide enough for a group of 32."""
    folder = tmp_path_factory.mktemp("wide-gemma3")
    write_tiny_gemma3(folder, head_width=64)
    return folder


def replies(spec: ModelSpec, *questions: str, picture: bool = False) -> list[str]:
    """What the model says to each question, all asked at once."""
    images = (Image(64, 64, bytes([200, 30, 30]) * (64 * 64)),) if picture else ()

    async def story() -> list[str]:
        engine, said = Engine(spec), [""] * len(questions)
        ended = [asyncio.Event() for _ in questions]

        def listener(at: int):
            def hear(update: Update) -> None:
                assert not isinstance(update, Failed), update
                if isinstance(update, Delta):
                    said[at] += update.text
                if isinstance(update, Finished):
                    ended[at].set()

            return hear

        try:
            await engine.start()
            for at, question in enumerate(questions):
                messages = (ChatMessage("user", question, images),)
                engine.submit(
                    GenerationRequest(id=at + 1, messages=messages, choice=Choice(max_tokens=24)), listener(at)
                )
            async with asyncio.timeout(60):
                for each in ended:
                    await each.wait()
            return said
        finally:
            await engine.stop()

    return asyncio.run(story())


def refusal(spec: ModelSpec) -> StartError:
    with pytest.raises(StartError) as refused:
        replies(spec, "Hello")
    return refused.value


# --- adapters -------------------------------------------------------------------------


def test_an_adapter_changes_what_the_model_says(tiny_gemma3: Path, adapter: Path):
    plain = replies(ModelSpec(model=str(tiny_gemma3)), "Tell me a story.", "What do you see?")
    tuned = replies(ModelSpec(model=str(tiny_gemma3), adapter=str(adapter)), "Tell me a story.", "What do you see?")
    again = replies(
        ModelSpec(model=str(tiny_gemma3), adapter=str(adapter / "adapters.safetensors")),
        "Tell me a story.",
        "What do you see?",
    )

    assert all(tuned)
    assert plain != tuned
    assert tuned == again


@pytest.mark.parametrize("missing", ["adapters.safetensors", "adapter_config.json"])
def test_half_an_adapter_is_refused_with_the_name_of_what_is_missing(
    tiny_gemma3: Path, adapter: Path, tmp_path: Path, missing: str
):
    half = tmp_path / "half"
    shutil.copytree(adapter, half)
    (half / missing).unlink()

    error = refusal_here(ModelSpec(model=str(tiny_gemma3), adapter=str(half)))

    assert isinstance(error, ModelBroken)
    assert missing in error.reason


def test_an_adapter_that_was_cut_off_is_refused(tiny_gemma3: Path, adapter: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    weights = broken / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    assert "is cut off" in refusal_here(ModelSpec(model=str(tiny_gemma3), adapter=str(broken))).reason


def test_an_adapter_of_another_model_is_refused_and_not_the_model_blamed(
    tiny_gemma3: Path, adapter: Path, tmp_path: Path
):
    foreign = tmp_path / "foreign"
    shutil.copytree(adapter, foreign)
    config = foreign / "adapter_config.json"
    kept = json.loads(config.read_text())
    config.write_text(
        json.dumps({name: value for name, value in kept.items() if "lora" not in name and name != "rank"})
    )

    error = refusal(ModelSpec(model=str(tiny_gemma3), adapter=str(foreign)))

    assert "The adapter" in error.reason
    assert error.hint


# --- quantised caches -----------------------------------------------------------------


def test_replies_work_with_eight_bits_for_keys_and_values_side_by_side_and_with_pictures(wide_gemma3: Path):
    questions = ["Tell me a story about dogs and cats.", "Hello", "How many shapes do you see?"]

    spec = ModelSpec(model=str(wide_gemma3), kv_bits=8, kv_group_size=32)

    assert all(replies(spec, *questions))
    assert all(replies(spec, *questions, picture=True))


def test_replies_work_with_turboquant(wide_gemma3: Path):
    spec = ModelSpec(model=str(wide_gemma3), kv_bits=3.5, kv_scheme="turboquant")

    assert all(replies(spec, "Tell me a story about dogs and cats.", "Hello"))


def test_few_bits_change_replies_and_many_hardly_do(wide_gemma3: Path):
    question = "Tell me a story about dogs and cats, and say what happened, why, and what to do next."
    exact, eight, two = (
        replies(ModelSpec(model=str(wide_gemma3), kv_bits=bits, kv_group_size=32), question)[0] for bits in (None, 8, 2)
    )

    assert eight[:8] == exact[:8]
    assert two != exact


def test_a_model_that_can_t_have_its_cache_quantised_says_so_at_the_start(tiny_gemma3: Path):
    error = refusal_here(ModelSpec(model=str(tiny_gemma3), kv_bits=8))

    assert isinstance(error, UsageError)
    assert "--kv-bits" in error.reason
