"""A drafted reply is no other, only its passes are fewer: a Qwen 3.5 and heads for it, weights of chance."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_websockets.engine.worker.batch.batcher import Batcher, RowToken
from mlx_websockets.engine.worker.batch.drafting import Drafter
from mlx_websockets.engine.worker.batch.prefixes import KeptPrefixes
from mlx_websockets.engine.worker.sequence import Prompt
from mlx_websockets.generation import Choice
from tiny_models.tiny_qwen3_5 import PLACE, START, tiny_head, tiny_qwen3_5

GREEDY = Choice(max_tokens=40, temperature=0.0)
SAMPLED = Choice(max_tokens=40, temperature=1.0, seed=5)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_qwen3_5()


@pytest.fixture
def drafter() -> Drafter:
    return Drafter(tiny_head(), "mtp")


def never(token: int) -> bool:
    return False


def new_batcher(model: Any, drafter: Drafter | None = None, is_end: Any = never, **options: Any) -> Batcher:
    return Batcher(model, is_end, **({"rows": 16, "prefill_chunk": 64} | options), drafter=drafter)


def prompt(model: Any, number: int, length: int | None = None, *, sees: bool = False) -> Prompt:
    made = np.random.default_rng(number)
    tokens = made.integers(10, 500, length or 12 + 7 * number).tolist()
    inputs: dict[str, Any] = {}
    if sees:
        tokens[3:3] = [START, *[PLACE] * 16]
        pixels = made.normal(size=(64, 3 * 2 * 4**2)).astype(np.float32)
        inputs = {"pixel_values": mx.array(pixels), "image_grid_thw": mx.array([[1, 8, 8]])}
    return prompt_of(model, tokens, **inputs)


def prompt_of(model: Any, tokens: list[int], **inputs: Any) -> Prompt:
    embedded = model.get_input_embeddings(mx.array([tokens]), **inputs).to_dict()
    embedded = {key: value for key, value in embedded.items() if value is not None}
    return Prompt(tokens=tokens, keys=tokens, inputs=embedded)


def told_by(batcher: Batcher) -> list[RowToken]:
    """All that is still to come."""
    told = []
    while len(batcher):
        told += batcher.step()
    return told


def replies(told: list[RowToken]) -> list[list[int]]:
    """Of every request, in the order of their ids."""
    said: dict[int, list[int]] = {}
    for each in told:
        said.setdefault(each.request, []).append(each.token)
    return [said[id] for id in sorted(said)]


def reply(batcher: Batcher, prompt: Prompt, choice: Choice = GREEDY) -> list[int]:
    batcher.insert(1, prompt, choice)
    return replies(told_by(batcher))[0]


def is_drafting(drafter: Drafter) -> bool:
    """It has made guesses since it was loaded."""
    return len(drafter.model.draft_lens) > 0


def test_greedy_replies_are_the_same_token_for_token(model: Any, drafter: Drafter):
    for number in range(20):
        asked = prompt(model, number, sees=number % 4 == 3)

        assert reply(new_batcher(model, drafter), asked) == reply(new_batcher(model), asked)
        assert is_drafting(drafter)


def test_a_drafter_that_knows_the_model_saves_two_passes_of_three():
    model, drafter = tiny_qwen3_5(is_predictable=True), Drafter(tiny_head(knows=True), "mtp")
    asked = prompt(model, 1)

    said = reply(new_batcher(model, drafter), asked)

    assert said == reply(new_batcher(model), asked)
    assert len(set(said)) > 3
    assert sum(drafter.model.accept_lens) == sum(drafter.model.draft_lens)
    assert len(drafter.model.accept_lens) == 13  # one token with the prompt, three with each pass


def test_guesses_of_chance_are_hardly_ever_right_and_do_no_harm(model: Any, drafter: Drafter):
    asked = prompt(model, 2)

    said = reply(new_batcher(model, drafter), asked)

    assert said == reply(new_batcher(model), asked)
    assert sum(drafter.model.accept_lens) < sum(drafter.model.draft_lens) / 10


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6])
def test_a_reply_is_as_long_as_it_may_be_wherever_a_pass_ends(tokens: int):
    model, drafter = tiny_qwen3_5(is_predictable=True), Drafter(tiny_head(knows=True), "mtp")
    asked = prompt(model, 3)
    batcher = new_batcher(model, drafter)
    batcher.insert(1, asked, Choice(max_tokens=tokens, temperature=0.0))

    told = told_by(batcher)

    assert [each.end for each in told] == [None] * (tokens - 1) + ["length"]
    assert [each.token for each in told] == reply(new_batcher(model), asked)[:tokens]


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
def test_a_reply_ends_with_the_token_that_says_so_wherever_a_pass_ends(at: int):
    model, drafter = tiny_qwen3_5(is_predictable=True), Drafter(tiny_head(knows=True), "mtp")
    asked = prompt(model, 3)
    said = reply(new_batcher(model), asked)
    end = said[at]
    first = said.index(end)
    batcher = new_batcher(model, drafter, is_end=lambda token: token == end)
    batcher.insert(1, asked, GREEDY)

    told = told_by(batcher)

    assert [each.token for each in told] == said[: first + 1]
    assert told[-1].end == "stop"


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 7])
def test_a_reply_can_be_given_up_at_any_token_and_the_next_one_is_whole(steps: int):
    model, drafter = tiny_qwen3_5(is_predictable=True), Drafter(tiny_head(knows=True), "mtp")
    first, second = prompt(model, 1), prompt(model, 2)
    batcher = new_batcher(model, drafter)
    batcher.insert(7, first, GREEDY)
    for _ in range(steps):
        batcher.step()

    batcher.remove(7)

    assert len(batcher) == 0
    assert batcher.free_rows == 16
    assert reply(batcher, second) == reply(new_batcher(model), second)


@pytest.mark.parametrize("sees", [False, True])
def test_others_that_come_later_run_beside_it_and_change_nothing(model: Any, drafter: Drafter, sees: bool):
    asked = [prompt(model, number, 200, sees=sees is (number % 2 == 0)) for number in range(4)]
    choices = [GREEDY, GREEDY, SAMPLED, GREEDY]
    alone = [reply(new_batcher(model), *each) for each in zip(asked, choices, strict=True)]
    batcher, told = new_batcher(model, drafter), []

    for number, each in enumerate(asked):
        batcher.insert(number, each, choices[number])
        for _ in range(6):
            told += batcher.step()

    assert replies(told + told_by(batcher)) == alone
    assert is_drafting(drafter)


def test_who_comes_while_a_reply_is_drafted_has_the_first_token_before_that_ends(model: Any, drafter: Drafter):
    batcher = new_batcher(model, drafter)
    batcher.insert(1, prompt(model, 1), GREEDY)
    told = [*batcher.step(), *batcher.step(), *batcher.step()]

    batcher.insert(2, prompt(model, 2), GREEDY)
    told += told_by(batcher)

    order = [each.request for each in told]
    assert order.index(2) < len(order) - 1 - order[::-1].index(1)


@pytest.mark.parametrize(
    "choice",
    [
        SAMPLED,
        Choice(max_tokens=8, temperature=0.0, repetition_penalty=1.2),
        Choice(max_tokens=8, temperature=0.0, candidates=2),
        Choice(max_tokens=8, temperature=0.0, logprobs=2),
    ],
)
def test_what_has_more_to_it_than_the_likeliest_token_is_not_drafted(model: Any, drafter: Drafter, choice: Choice):
    asked = prompt(model, 1)

    assert reply(new_batcher(model, drafter), asked, choice) == reply(new_batcher(model), asked, choice)
    assert not is_drafting(drafter)


def test_two_that_come_together_are_computed_together(model: Any, drafter: Drafter):
    asked = [prompt(model, number) for number in range(2)]
    batcher = new_batcher(model, drafter)
    for number, each in enumerate(asked):
        batcher.insert(number, each, GREEDY)

    assert replies(told_by(batcher)) == [reply(new_batcher(model), each) for each in asked]
    assert not is_drafting(drafter)


def test_what_is_kept_of_a_prompt_serves_drafted_replies_too(model: Any, drafter: Drafter):
    kept = KeptPrefixes(10**8)
    first = prompt(model, 3, 100)
    longer = prompt_of(model, [*first.tokens, *prompt(model, 4, 60).tokens])
    reply(new_batcher(model, drafter, kept=kept), first)
    batcher = new_batcher(model, drafter, kept=kept)
    batcher.insert(1, longer, GREEDY)

    told = told_by(batcher)

    assert {each.cached_tokens for each in told} == {100}
    assert [each.token for each in told] == reply(new_batcher(model), longer)
