"""What prompts share is computed once, and the replies are the same as if nothing were shared.

A small llama with weights of chance: its layers keep all, as most models' do.
"""

from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map
from mlx_vlm.models.llama import Model, ModelConfig

from mlx_websockets.engine.worker.batch.batcher import Batcher
from mlx_websockets.engine.worker.batch.caches import CacheQuantization
from mlx_websockets.engine.worker.batch.prefixes import KeptPrefixes
from mlx_websockets.engine.worker.room import LEAST_MARGIN_BYTES, Room
from mlx_websockets.engine.worker.sequence import Prompt
from mlx_websockets.errors import EngineError
from mlx_websockets.generation import Choice

SYSTEM = list(range(10, 40))
VOCABULARY = 128


@pytest.fixture(scope="module")
def model() -> Any:
    mx.random.seed(7)
    config = ModelConfig(
        model_type="llama",
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        rms_norm_eps=1e-5,
        vocab_size=VOCABULARY,
        tie_word_embeddings=False,
    )
    made = Model(config)
    # Large weights: what is said depends strongly on all that was said before.
    made.update(tree_map(lambda weight: mx.random.normal(weight.shape) * 0.4, made.parameters()))
    mx.eval(made.parameters())
    return made


def new_batcher(model: Any, *, keeps: bool, rows: int = 16) -> Batcher:
    kept = KeptPrefixes(10**8) if keeps else None
    return Batcher(model, lambda token: False, rows=rows, prefill_chunk=128, kept=kept)


def prompt(model: Any, tokens: list[int]) -> Prompt:
    embedded = model.get_input_embeddings(mx.array([tokens])).to_dict()
    return Prompt(tokens=tokens, keys=tokens, inputs={"inputs_embeds": embedded["inputs_embeds"]})


def replies(
    model: Any, batcher: Batcher, prompts: list[list[int]], choice: Choice | None = None
) -> tuple[list[list[int]], list[int]]:
    """What each prompt gets, all computed together, and how many of its tokens were there already."""
    choice = choice or Choice(max_tokens=8)
    for number, tokens in enumerate(prompts):
        batcher.insert(number, prompt(model, tokens), choice)
    said: list[list[int]] = [[] for _ in prompts]
    cached = [0] * len(prompts)
    while len(batcher):
        for token in batcher.step():
            said[token.request].append(token.token)
            cached[token.request] = token.cached_tokens
    return said, cached


def alone(model: Any, tokens: list[int], choice: Choice | None = None) -> list[int]:
    return replies(model, new_batcher(model, keeps=False), [tokens], choice)[0][0]


def test_the_model_says_different_things(model: Any):
    assert len({tuple(alone(model, [*SYSTEM, number])) for number in range(50, 60)}) > 5


def test_prompts_with_the_same_system_line_compute_it_once(model: Any):
    prompts = [[*SYSTEM, *range(50 + number, 55 + 2 * number)] for number in range(8)]

    said, cached = replies(model, new_batcher(model, keeps=True), prompts)

    assert said == [alone(model, tokens) for tokens in prompts]
    # The rows of one pass compute alike many tokens: a shorter one takes a little less than there is.
    assert cached[0] == 0
    assert min(cached[1:]) >= len(SYSTEM) - 16


def test_the_next_turn_of_a_conversation_computes_only_what_is_new(model: Any):
    batcher = new_batcher(model, keeps=True)
    dialogue = [*SYSTEM, 50, 51, 52]
    [[*reply]], _ = replies(model, batcher, [dialogue])

    next_turn = [*dialogue, *reply, 60, 61, 62, 63]
    said, [cached] = replies(model, batcher, [next_turn])

    assert said == [alone(model, next_turn)]
    assert cached == len(dialogue) + len(reply) - 1  # the last token of a reply is never computed any further


def test_the_same_prompt_again_computes_its_last_token_only(model: Any):
    batcher = new_batcher(model, keeps=True)

    (first, *_), _ = replies(model, batcher, [SYSTEM])
    (second, *_), [cached] = replies(model, batcher, [SYSTEM])

    assert second == first
    assert cached == len(SYSTEM) - 1


def test_short_prompts_of_any_lengths_are_computed_together_and_get_what_they_get_alone(model: Any):
    batcher = new_batcher(model, keeps=True)
    replies(model, batcher, [SYSTEM])
    prompts = [[*SYSTEM, *range(60, 61 + length)] for length in range(12)]

    said, _ = replies(model, batcher, prompts)

    assert said == [alone(model, tokens) for tokens in prompts]


def test_prompts_that_share_nothing_are_computed_together_whatever_their_lengths(model: Any):
    prompts = [[(7 * start + 3 * place) % 100 for place in range(5 + 2 * start)] for start in range(12)]

    said, cached = replies(model, new_batcher(model, keeps=True), prompts)

    assert said == [alone(model, tokens) for tokens in prompts]
    assert cached == [0] * 12


def test_a_long_prompt_goes_in_pieces_among_short_ones_and_replies(model: Any):
    long = [number % 100 for number in range(300)]
    prompts = [long, [*SYSTEM, 1], [*SYSTEM, 2], long[:150], [*SYSTEM, 3]]

    said, _ = replies(model, new_batcher(model, keeps=True), prompts)

    assert said == [alone(model, tokens) for tokens in prompts]


def test_a_short_prompt_does_not_wait_for_a_long_one(model: Any):
    batcher = new_batcher(model, keeps=False)
    batcher.insert(0, prompt(model, [number % 100 for number in range(2000)]), Choice(max_tokens=1))
    batcher.step()
    batcher.insert(1, prompt(model, SYSTEM), Choice(max_tokens=1))

    first = next(token for _ in range(100) for token in batcher.step())

    assert first.request == 1


def test_candidates_share_the_prompt_and_draw_for_themselves(model: Any):
    batcher = new_batcher(model, keeps=False)
    choice = Choice(max_tokens=6, temperature=1.0, seed=5, candidates=4)
    batcher.insert(0, prompt(model, SYSTEM), choice)
    assert batcher.free_rows == 12

    said: list[list[int]] = [[], [], [], []]
    while len(batcher):
        for token in batcher.step():
            said[token.candidate].append(token.token)

    assert [len(tokens) for tokens in said] == [6, 6, 6, 6]
    assert said[0] == alone(model, SYSTEM, Choice(max_tokens=6, temperature=1.0, seed=5))
    assert len({tuple(tokens) for tokens in said}) > 1
    assert batcher.free_rows == 16


def test_one_candidate_can_be_given_up_while_the_others_go_on(model: Any):
    batcher = new_batcher(model, keeps=False)
    batcher.insert(0, prompt(model, SYSTEM), Choice(max_tokens=6, candidates=3))
    while not batcher.step():
        pass

    batcher.remove(0, candidate=1)

    assert {token.candidate for token in batcher.step()} == {0, 2}
    batcher.remove(0)
    assert len(batcher) == 0


def test_log_probabilities_are_the_model_s_own_for_those_who_asked(model: Any):
    batcher = new_batcher(model, keeps=False)
    batcher.insert(0, prompt(model, SYSTEM), Choice(max_tokens=3, logprobs=2))
    batcher.insert(1, prompt(model, SYSTEM), Choice(max_tokens=3))
    tokens = []
    while len(batcher):
        tokens += batcher.step()

    logits = model.language_model(mx.array([SYSTEM])).logits[0, -1]
    expected = (logits - mx.logsumexp(logits)).max().item()
    asked = [token for token in tokens if token.request == 0]
    assert asked[0].logprob == pytest.approx(expected, abs=1e-4)
    assert [len(token.top) for token in asked] == [2, 2, 2]
    assert all(token.top[0] == (token.token, pytest.approx(token.logprob)) for token in asked)
    assert all(token.logprob is None and not token.top for token in tokens if token.request == 1)


def test_the_memory_of_rows_is_known_also_where_they_have_few_bits(model: Any):
    few = CacheQuantization(bits=8, group_size=32, scheme="uniform")
    batcher = Batcher(model, lambda token: False, rows=16, prefill_chunk=128, quantization=few)
    batcher.insert(0, prompt(model, SYSTEM), Choice(max_tokens=50))
    while not batcher.step():
        pass

    Room(lambda: 10**12, device_bytes=0, kept=KeptPrefixes(0)).check(batcher, tokens=100, rows=1)


def test_there_is_room_until_what_all_may_grow_to_does_not_fit(model: Any):
    kept = KeptPrefixes(10**8)
    batcher = Batcher(model, lambda token: False, rows=16, prefill_chunk=128, kept=kept)
    replies(model, batcher, [SYSTEM])
    bytes_of_a_token = batcher.growth_bytes(1, 1)
    free = LEAST_MARGIN_BYTES + 250 * bytes_of_a_token
    room = Room(lambda: free - kept.nbytes, device_bytes=0, kept=kept)

    room.check(batcher, tokens=100, rows=2)
    assert len(kept) == 1
    room.check(batcher, tokens=250, rows=1)
    assert len(kept) == 0, "what is kept gives way"
    batcher.insert(0, prompt(model, SYSTEM), Choice(max_tokens=100))
    batcher.step()
    batcher.step()
    with pytest.raises(EngineError) as refused:
        room.check(batcher, tokens=400, rows=1)
    assert refused.value.code == "overloaded"
    assert refused.value.retryable
    assert refused.value.retry_after_ms is not None
    batcher.remove(0)
    with pytest.raises(EngineError) as too_much:
        room.check(batcher, tokens=300, rows=1)
    assert (too_much.value.code, too_much.value.retryable) == ("out_of_memory", False)


def test_what_was_computed_for_a_reply_that_was_given_up_serves_the_next_turn(model: Any):
    batcher = new_batcher(model, keeps=True)
    batcher.insert(0, prompt(model, SYSTEM), Choice(max_tokens=50))
    said = []
    while len(said) < 5:
        said += [token.token for token in batcher.step()]
    batcher.remove(0)

    _, [cached] = replies(model, batcher, [[*SYSTEM, *said, 7, 7]])

    # The newest token is computed only where the one after it is under way already.
    assert len(SYSTEM) + len(said) - cached in (0, 1)


def test_a_prompt_that_comes_as_another_has_just_begun_to_be_answered_finds_it(model: Any):
    """What that one computed is kept only after its first token is told, which is no loss to who came in between."""
    batcher = new_batcher(model, keeps=True)
    batcher.insert(0, prompt(model, [*SYSTEM, 50]), Choice(max_tokens=20))
    told = batcher.step()
    assert [token.request for token in told] == [0]

    batcher.insert(1, prompt(model, [*SYSTEM, 51]), Choice(max_tokens=1))

    told = [token for _ in range(3) for token in batcher.step() if token.request == 1]
    assert [token.cached_tokens for token in told] == [len(SYSTEM)]


def test_while_more_short_prompts_wait_than_replies_run_the_replies_wait(model: Any):
    batcher = new_batcher(model, keeps=False)
    batcher.insert(0, prompt(model, [50, 51, 52]), Choice(max_tokens=8))
    batcher.step()
    for number, length in ((1, 20), (2, 60), (3, 100)):  # so different that each is a pass of its own
        batcher.insert(number, prompt(model, [number + 60, *range(1, length)]), Choice(max_tokens=8))

    steps = [{token.request for token in batcher.step()} for _ in range(4)]

    assert [0 in told for told in steps] == [False, True, True, True]
    assert steps[-1] == {0, 1, 2, 3}


def test_a_reply_does_not_wait_for_as_few_prompts_as_there_are_replies(model: Any):
    batcher = new_batcher(model, keeps=False)
    batcher.insert(0, prompt(model, [50, 51, 52]), Choice(max_tokens=8))
    batcher.step()
    batcher.insert(1, prompt(model, [61, *range(1, 20)]), Choice(max_tokens=8))

    assert 0 in {token.request for token in batcher.step()}


def test_prompts_do_not_wait_for_one_that_would_save_them_little(model: Any):
    batcher = new_batcher(model, keeps=True)
    beginning = SYSTEM[:10]
    for number in range(3):
        batcher.insert(number, prompt(model, [*beginning, 50 + number, 60]), Choice(max_tokens=8))

    first_told = batcher.step() or batcher.step()

    assert {token.request for token in first_told} == {0, 1, 2}
