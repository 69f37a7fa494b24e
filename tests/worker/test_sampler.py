"""Each row's token depends on its own logits, settings and seed, and on nothing else."""

import math
from collections import Counter

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_websockets.engine.worker.sampler import RepetitionPenalty, RowSampling, choose
from mlx_websockets.generation import Choice

VOCABULARY = 40


def logprobs_of(*weights: float) -> mx.array:
    total = sum(weights)
    return mx.array([[math.log(weight / total) if weight else -1e9 for weight in weights]])


def row(**choice: object) -> RowSampling:
    return RowSampling(Choice(max_tokens=1, **choice))  # type: ignore[arg-type]


def draws(logprobs: mx.array, count: int = 2000, **choice: object) -> Counter[int]:
    one = row(seed=1, **choice)
    return Counter(choose(logprobs, [one]).item() for _ in range(count))


def test_temperature_zero_takes_the_likeliest_token():
    assert choose(logprobs_of(1, 5, 2), [row(temperature=0.0)]).item() == 1


def test_tokens_come_as_often_as_they_are_likely():
    seen = draws(logprobs_of(1, 2, 5), temperature=1.0)

    assert [seen[token] / 2000 for token in range(3)] == pytest.approx([0.125, 0.25, 0.625], abs=0.05)


def test_top_k_keeps_that_many_of_the_likeliest():
    assert set(draws(logprobs_of(1, 2, 5, 3), 300, temperature=1.5, top_k=2)) == {2, 3}


def test_top_p_keeps_the_likeliest_until_their_share_is_reached():
    assert set(draws(logprobs_of(1, 1, 5, 3), 300, temperature=1.0, top_p=0.6)) == {2, 3}


def test_top_p_zero_still_keeps_one_token():
    assert set(draws(logprobs_of(1, 1, 5, 3), 50, temperature=1.0, top_p=0.0)) == {2}


def test_a_seed_repeats_and_its_absence_does_not():
    logprobs = mx.zeros((1, VOCABULARY)) - math.log(VOCABULARY)

    def twenty(seed: int | None) -> list[int]:
        one = row(temperature=1.0, seed=seed)
        return [choose(logprobs, [one]).item() for _ in range(20)]

    assert twenty(7) == twenty(7)
    assert twenty(7) != twenty(8)
    assert twenty(None) != twenty(None)


@st.composite
def choices(draw: st.DrawFn) -> dict[str, object]:
    return {
        "temperature": draw(st.sampled_from([0.0, 0.3, 1.0, 2.0])),
        "top_k": draw(st.sampled_from([0, 1, 5, 39, 40, 1000])),
        "top_p": draw(st.sampled_from([0.0, 0.5, 0.95, 1.0])),
        "seed": draw(st.integers(0, 2**63 - 1)),
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(choices(), min_size=1, max_size=9), st.integers(0, 2**32))
def test_a_row_gets_among_any_neighbours_what_it_gets_alone(rows: list[dict[str, object]], key: int):
    logits = mx.random.normal((len(rows), VOCABULARY), key=mx.random.key(key)) * 3
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)

    together_rows = [row(**each) for each in rows]
    together = [choose(logprobs, together_rows).tolist() for _ in range(3)]

    for index, each in enumerate(rows):
        alone = row(**each)
        assert [choose(logprobs[index : index + 1], [alone]).item() for _ in range(3)] == [t[index] for t in together]


def test_a_penalty_lowers_what_was_said_lately_and_nothing_else():
    penalty = RepetitionPenalty(2.0)
    logits = mx.array([[4.0, -4.0, 1.0, 0.5]])

    first = penalty(mx.array([0, 1]), logits).tolist()[0]
    second = penalty.process_last_token(2, logits).tolist()[0]

    assert first == [2.0, -8.0, 1.0, 0.5]
    assert second == [2.0, -8.0, 0.5, 0.5]


def test_a_penalty_forgets_after_twenty_tokens():
    penalty = RepetitionPenalty(2.0)
    penalty(mx.array([0]), mx.zeros((1, 30)))

    for token in range(1, 21):
        lowered = penalty.process_last_token(token, mx.ones((1, 30)))

    assert lowered[0, 0].item() == pytest.approx(1.0)
    assert lowered[0, 1].item() == pytest.approx(0.5)
