"""A known picture gives the very numbers that a look at it gives, and no look is taken."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_vlm
import pytest

from mlx_websockets.engine.worker.prompting.embedding import Embedded, Embedder, Processed
from mlx_websockets.engine.worker.prompting.prompts import Prompts
from mlx_websockets.engine.worker.sequence import Prompt
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest, Image
from tiny_models import tiny_qwen_vl
from tiny_models.tiny_qwen_vl import PLACE, tiny_qwen2_vl, tiny_qwen3_vl

PICTURES = [Image(width, height, os.urandom(width * height * 3)) for width, height in ((100, 80), (64, 200), (300, 90))]
PLENTY = 2**20


# --- whole models, with their processors ------------------------------------------------


class Loaded:
    def __init__(self, folder: Path) -> None:
        self.model, self.processor = mlx_vlm.load(str(folder))
        self.tokenizer: Any = getattr(self.processor, "tokenizer", self.processor)

    def prompts(self, picture_bytes: int = PLENTY, pixel_bytes: int = 0) -> Prompts:
        return Prompts(
            self.model,
            self.processor,
            self.tokenizer,
            sees=True,
            context_tokens=8192,
            picture_bytes=picture_bytes,
            pixel_bytes=pixel_bytes,
        )


@pytest.fixture(scope="module", params=["demo_model", "tiny_gemma3"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return Loaded(request.getfixturevalue(request.param))


def asked(prompts: Prompts, *images: Image, text: str = "What is it?") -> tuple[Prompt, float]:
    message = ChatMessage("user", text, images)
    return prompts.prompt(GenerationRequest(id=1, messages=(message,), choice=Choice(max_tokens=8)))


def same(one: Any, other: Any) -> bool:
    """Bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, mx.array):
        return one.dtype == other.dtype and bool(mx.array_equal(one, other))
    return bool(one == other)


def test_known_pictures_in_any_order_and_number_give_the_numbers_of_a_first_look(loaded: Loaded):
    warm = loaded.prompts(pixel_bytes=PLENTY)
    for picture in PICTURES[:2]:  # the third is met among others
        asked(warm, picture)

    first, second, third = PICTURES
    for pictures in ([first], [second, first], [third, second, first]):
        known, cold = asked(warm, *pictures)[0], asked(loaded.prompts(0), *pictures)[0]

        assert same(known.inputs, cold.inputs)
        assert (known.tokens, known.keys) == (cold.tokens, cold.keys)


def test_the_model_s_vision_takes_no_time_for_a_known_picture(loaded: Loaded):
    prompts = loaded.prompts()

    seconds = [
        asked(prompts, PICTURES[0])[1],
        asked(prompts, PICTURES[0], text="And now?")[1],
        asked(prompts, PICTURES[1], PICTURES[0])[1],
        asked(prompts, PICTURES[0], PICTURES[1], PICTURES[1])[1],
    ]

    assert [each > 0 for each in seconds] == [True, False, True, False]


def test_pictures_are_looked_at_one_by_one_ahead_of_a_prompt(loaded: Loaded):
    request = GenerationRequest(
        id=1, messages=(ChatMessage("user", "?", tuple(PICTURES)),), choice=Choice(max_tokens=8)
    )
    prompts = loaded.prompts()
    assert prompts.look_at_one(request) == 0, "before a first prompt it isn't known whether they can be"
    asked(prompts, PICTURES[1])

    looks = [prompts.look_at_one(request) > 0 for _ in range(3)]

    assert looks == [True, True, False]
    ahead, vision_seconds = prompts.prompt(request)
    assert same(ahead.inputs, loaded.prompts(0).prompt(request)[0].inputs)
    assert vision_seconds > 0, "several are compared once with a look at all of them"
    assert prompts.prompt(request)[1] == 0


def test_no_look_ahead_is_taken_that_can_not_be_kept(loaded: Loaded):
    request = GenerationRequest(
        id=1, messages=(ChatMessage("user", "?", tuple(PICTURES)),), choice=Choice(max_tokens=8)
    )
    one = loaded.prompts()
    asked(one, PICTURES[0])
    prompts = loaded.prompts(picture_bytes=one.nbytes)
    asked(prompts, PICTURES[0])

    assert prompts.look_at_one(request) == 0


def test_one_picture_gives_the_library_s_numbers_and_several_do_up_to_rounding(loaded: Loaded):
    prompts, embed = loaded.prompts(), loaded.model.get_input_embeddings

    for count in (1, 2, 3):
        made = asked(prompts, *PICTURES[:count])[0]
        pixels, *rest = library_s_pixels(loaded, PICTURES[:count])
        expected = embed(mx.array([made.tokens]), pixels, mask=mx.ones((1, len(made.tokens))), **rest[0])

        difference = mx.abs(made.inputs["inputs_embeds"] - expected.inputs_embeds).max().item()
        assert difference <= (0 if count == 1 else 1e-6 * mx.abs(expected.inputs_embeds).max().item())


def library_s_pixels(loaded: Loaded, images: list[Image]) -> tuple[Any, dict[str, Any]]:
    from mlx_vlm.prompt_utils import apply_chat_template
    from mlx_vlm.utils import prepare_inputs
    from PIL import Image as Pillow

    rendered = apply_chat_template(loaded.processor, loaded.model.config, "What is it?", num_images=len(images))
    opened = [Pillow.frombytes("RGB", (each.width, each.height), each.pixels) for each in images]
    inputs = prepare_inputs(loaded.processor, images=opened, prompts=rendered)
    rest = {key: inputs[key] for key in inputs if key not in ("input_ids", "attention_mask", "pixel_values")}
    return inputs["pixel_values"], rest


def test_what_is_kept_is_counted_and_given_back(loaded: Loaded):
    prompts = loaded.prompts()
    asked(prompts, *PICTURES)
    width = asked(prompts)[0].inputs["inputs_embeds"].shape[-1]
    expected = asked(prompts, *PICTURES)[0].image_tokens * width * 4

    kept = prompts.nbytes
    prompts.clear()

    assert (kept, prompts.nbytes) == (expected, 0)
    assert asked(prompts, PICTURES[0])[1] > 0


def test_processed_pictures_are_counted_and_given_back(loaded: Loaded):
    prompts = loaded.prompts(picture_bytes=0, pixel_bytes=8 * PLENTY)
    asked(prompts, PICTURES[0])
    once = prompts.nbytes
    asked(prompts, PICTURES[0], text="And now?")
    twice = prompts.nbytes

    prompts.clear()

    assert 0 < once == twice
    assert prompts.nbytes == 0


def test_a_kept_picture_does_not_keep_its_prompt_in_memory(loaded: Loaded):
    prompts = loaded.prompts()
    asked(prompts, PICTURES[0])
    prompts.clear()
    before = mx.get_active_memory()

    asked(prompts, PICTURES[0], text="word " * 2000)

    assert mx.get_active_memory() - before < prompts.nbytes + 4096


# --- other ways to place a picture ------------------------------------------------------

SMALL, TALL, WIDE = (1, 4, 4), (2, 8, 4), (3, 4, 8)


def processed(*pictures: tuple[int, int, int]) -> Processed:
    return Processed(*tiny_qwen_vl.prompt_of(*pictures), tuple(bytes([seed]) for seed, _, _ in pictures))


def embedded(embedder: Embedder, *pictures: tuple[int, int, int]) -> Embedded:
    return embedder.embed(processed(*pictures), lambda number: processed(pictures[number]))


@pytest.mark.parametrize("new_model", [tiny_qwen2_vl, tiny_qwen3_vl])
def test_pictures_of_different_sizes_are_put_in_with_positions_and_deeper_features(new_model: Callable[[], Any]):
    model = new_model()
    embedder = Embedder(model, {PLACE}, PLENTY)
    embedded(embedder, SMALL)

    for pictures in ([SMALL], [TALL, SMALL], [WIDE, SMALL, TALL], [TALL, WIDE]):
        known, cold = embedded(embedder, *pictures), embedded(Embedder(model, {PLACE}, 0), *pictures)

        assert same(known.inputs, cold.inputs)
        assert known.places == cold.places == [rows * columns // 4 for _, rows, columns in pictures]
        assert ("deepstack_visual_embeds" in known.inputs) == (new_model is tiny_qwen3_vl)


class LooksAlways:
    """A model that takes no features, as some of mlx-vlm's do."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.looks = 0

    def get_input_embeddings(self, tokens: mx.array, pixels: Any, mask: mx.array, **inputs: Any) -> Any:
        self.looks += 1
        inputs.pop("cached_image_features", None)
        return self._model.get_input_embeddings(tokens, pixels, mask=mask, **inputs)


def test_a_model_that_takes_no_features_looks_anew_and_says_so():
    model = LooksAlways(tiny_qwen2_vl())
    embedder = Embedder(model, {PLACE}, PLENTY)
    embedded(embedder, SMALL)
    model.looks = 0

    again = [embedded(embedder, SMALL), embedded(embedder, SMALL, TALL), embedded(embedder, TALL, SMALL)]

    assert [each.vision_seconds > 0 for each in again] == [True] * 3
    assert [each.places for each in again] == [[4], None, None]
    assert (model.looks, embedder.nbytes) == (3, 0)


class SeesNeighbours(LooksAlways):
    """A model in which a picture's features depend on the pictures beside it."""

    def get_input_embeddings(self, tokens: mx.array, pixels: Any, mask: mx.array, **inputs: Any) -> Any:
        return self._model.get_input_embeddings(tokens, pixels + len(pixels) / 16, mask=mask, **inputs)


def test_pictures_that_depend_on_their_neighbours_are_kept_for_prompts_of_one_alone():
    model = SeesNeighbours(tiny_qwen2_vl())
    embedder = Embedder(model, {PLACE}, PLENTY)
    plain = Embedder(LooksAlways(model), {PLACE}, 0)

    results = [embedded(embedder, *pictures) for pictures in ([SMALL], [SMALL], [SMALL, TALL], [SMALL, TALL])]

    assert [each.vision_seconds > 0 for each in results] == [True, False, True, True]
    assert same(results[-1].inputs, embedded(plain, SMALL, TALL).inputs)
