"""Rows of different requests share a step and nothing else: real models, real batches."""

from pathlib import Path
from typing import Any

import mlx_vlm
import PIL.Image
import pytest
from mlx_vlm.prompt_utils import apply_chat_template

from mlx_websockets.engine.worker.batch.batcher import Batcher, RowToken
from mlx_websockets.engine.worker.prompting.prompts import Prompts
from mlx_websockets.generation import ChatMessage, Choice, GenerationRequest, Image

TOKENS = 24


class Worker:
    """A tiny model, its prompts and a batcher."""

    def __init__(self, folder: Path) -> None:
        self.model, self.processor = mlx_vlm.load(str(folder))
        self.tokenizer: Any = self.processor.tokenizer
        self.prompts = Prompts(self.model, self.processor, self.tokenizer, sees=True, context_tokens=8192)
        self.batcher = self.new_batcher()

    def new_batcher(self, **options: Any) -> Batcher:
        is_end = self.tokenizer.stopping_criteria
        return Batcher(self.model, is_end, **({"rows": 16, "prefill_chunk": 16} | options))

    def insert(self, request: GenerationRequest, batcher: Batcher | None = None) -> int:
        """Begin on a request; returns its id."""
        prompt = self.prompts.prompt(request)[0]
        (self.batcher if batcher is None else batcher).insert(
            request.id, prompt, request.choice, priority=request.priority
        )
        return request.id

    def replies(self, *requests: GenerationRequest, batcher: Batcher | None = None) -> list[list[int]]:
        """The tokens of each request's first candidate, all requests computed together."""
        batcher = self.batcher if batcher is None else batcher
        for request in requests:
            self.insert(request, batcher)
        said: dict[int, list[int]] = {request.id: [] for request in requests}
        while len(batcher):
            for token in batcher.step():
                if token.end != "stop" and token.candidate == 0:
                    said[token.request].append(token.token)
        return list(said.values())


@pytest.fixture(scope="module")
def worker(tiny_gemma3: Path) -> Worker:
    return Worker(tiny_gemma3)


def picture(number: int) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (64, 64), ((37 * number) % 256, (91 * number) % 256, (17 * number) % 256))


def request(number: int, *, sees: bool = True, **choice: Any) -> GenerationRequest:
    drawn = picture(number)
    images = (Image(64, 64, drawn.tobytes()),) if sees else ()
    message = ChatMessage("user", f"What is number {number}?", images)
    return GenerationRequest(id=number, messages=(message,), choice=Choice(max_tokens=TOKENS, **choice))


def library_reply(worker: Worker, number: int, sees: bool) -> list[int]:
    prompt = apply_chat_template(
        worker.processor, worker.model.config, f"What is number {number}?", num_images=1 if sees else 0
    )
    generated = mlx_vlm.stream_generate(
        worker.model,
        worker.processor,
        prompt,
        image=[picture(number)] if sees else None,
        max_tokens=TOKENS,
        temperature=0.0,
    )
    tokens = [each.token for each in generated if each.token is not None]
    stops = worker.tokenizer.stopping_criteria.eos_token_ids
    return [token for token in tokens if token not in stops][:TOKENS]


@pytest.mark.parametrize("sees", [True, False])
def test_a_greedy_reply_is_the_library_s_own(worker: Worker, sees: bool):
    for number in range(20):
        [reply] = worker.replies(request(number, sees=sees))

        assert reply == library_reply(worker, number, sees)


def test_text_and_picture_rows_are_computed_together(worker: Worker):
    mixed = [request(number, sees=number % 2 == 0) for number in range(8)]
    alone = [worker.replies(each)[0] for each in mixed]

    assert worker.replies(*mixed) == alone


def test_rows_with_different_settings_never_see_each_other_s(worker: Worker):
    requests = [
        request(
            number,
            temperature=0.1 * number,
            seed=number,
            top_k=(0, 5, 50)[number % 3],
            top_p=(1.0, 0.8)[number % 2],
            repetition_penalty=(1.0, 1.3)[number % 2],
        )
        for number in range(16)
    ]
    alone = [worker.replies(each)[0] for each in requests]

    assert worker.replies(*requests) == alone


def test_a_request_can_be_given_up_in_prefill_and_in_decode_while_the_others_go_on(worker: Worker):
    expected = worker.replies(request(1))[0]
    batcher = worker.batcher
    kept = worker.insert(request(1))
    said = [token.token for _ in range(8) for token in batcher.step() if token.request == kept]

    decoding = worker.insert(request(2))
    tokens: list[RowToken] = []
    while decoding not in {token.request for token in tokens}:
        tokens = batcher.step()
        said += [token.token for token in tokens if token.request == kept]
    batcher.remove(decoding)
    prefilling = worker.insert(request(3))
    said += [token.token for token in batcher.step() if token.request == kept]
    batcher.remove(prefilling)
    while len(batcher):
        tokens = batcher.step()
        assert {token.request for token in tokens} <= {kept}
        said += [token.token for token in tokens if token.end != "stop"]

    assert said == expected
    assert batcher.free_rows == 16


@pytest.mark.parametrize("words", [1, 60])
def test_prompts_of_different_lengths_are_computed_in_one_pass_where_layers_forget(worker: Worker, words: int):
    """As Gemma 3's do. `words`: so few that a window holds the prompt, or more."""

    def asked(number: int) -> GenerationRequest:
        drawn = picture(number)
        images = (Image(64, 64, drawn.tobytes()),) if number % 3 == 0 else ()
        message = ChatMessage("user", f"{number} is {'really ' * (words + 2 * number)}what number?", images)
        return GenerationRequest(id=number, messages=(message,), choice=Choice(max_tokens=TOKENS))

    requests = [asked(number) for number in range(8)]
    alone = [worker.replies(each)[0] for each in requests]
    batcher = worker.new_batcher(prefill_chunk=1024)
    for each in requests:
        worker.insert(each, batcher)

    first_told = batcher.step() or batcher.step()

    assert {token.request for token in first_told} == set(range(8))
    assert worker.replies(*requests, batcher=worker.new_batcher(prefill_chunk=1024)) == alone


def test_a_long_prompt_is_computed_some_layers_at_a_time_beside_a_reply(worker: Worker):
    def asked(number: int, tokens: int) -> GenerationRequest:
        message = ChatMessage("user", f"Is {number} {'really ' * 200}a number?")
        return GenerationRequest(id=number, messages=(message,), choice=Choice(max_tokens=tokens))

    first, second = asked(1, 400), asked(2, TOKENS)
    alone = [worker.replies(each)[0] for each in (first, second)]
    batcher = worker.new_batcher()
    worker.insert(first, batcher)
    while not (told := batcher.step()):
        pass
    said = {1: [token.token for token in told], 2: []}

    worker.insert(second, batcher)
    steps_until_the_second = 0
    while len(batcher):
        told = batcher.step()
        steps_until_the_second += not said[2]
        for token in told:
            if token.end != "stop":
                said[token.request].append(token.token)

    assert [said[1], said[2]] == alone
    assert steps_until_the_second > 200 // 16
