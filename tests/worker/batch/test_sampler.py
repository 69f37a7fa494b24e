"""Each row's token depends on its own logits, settings and seed, and on nothing else."""

from collections.abc import Sequence
from typing import Any

import llguidance.numpy
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_websockets.engine.worker.batch.sampler import BatchSampler, Chosen, RowSampling
from mlx_websockets.generation import Choice

GRAMMAR = "{}"  # any: the sampler only looks whether there is one


class DrawOf(RowSampling):
    """A row whose chance is known."""

    def __init__(self, choice: Choice, draw: float) -> None:
        super().__init__(choice)
        self._draw = draw

    def draw(self) -> float:
        return self._draw


def choice_of(**settings: Any) -> Choice:
    return Choice(max_tokens=1, **settings)


def sampler_of(*choices: dict[str, Any], recent: Sequence[Sequence[int]] | None = None) -> BatchSampler:
    sampler = BatchSampler()
    sampler.extend([RowSampling(choice_of(**each)) for each in choices], recent or [[]] * len(choices))
    return sampler


def tokens_of(chosen: Chosen) -> list[int]:
    return np.array(chosen.tokens).tolist()


def one_token(logits: Sequence[float], **settings: Any) -> int:
    return tokens_of(sampler_of(settings).choose(mx.array([logits])))[0]


def shares(logits: np.ndarray, points: int = 400, **settings: Any) -> np.ndarray:
    """How many of evenly spread draws get each token, as a share of one."""
    rows = [DrawOf(choice_of(**settings), (point + 0.5) / points) for point in range(points)]
    sampler = BatchSampler()
    sampler.extend(rows, [[]] * points)
    tokens = tokens_of(sampler.choose(mx.repeat(mx.array(logits)[None], points, axis=0)))
    return np.bincount(tokens, minlength=len(logits)) / points


def reference(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """The distribution, by sorting doubles."""
    falling = np.argsort(-logits, kind="stable")
    kept = falling[: top_k or None]
    scaled = logits[kept].astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    before = probabilities.cumsum() - probabilities
    belongs = (before < top_p) & (probabilities >= min_p * probabilities[0])
    belongs[0] = True
    whole = np.zeros(len(logits))
    whole[kept] = np.where(belongs, probabilities, 0)
    return whole / whole.sum()


def by_value(logits: np.ndarray, shares: np.ndarray) -> dict[float, float]:
    """Which of equal tokens a filter leaves out is its own affair; how much they have together is not."""
    return {float(value): float(shares[logits == value].sum()) for value in np.unique(logits)}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([2, 40, 64, 65, 130]),
    st.integers(0, 2**32),
    st.sampled_from([0.01, 0.3, 1.0, 2.0]),
    st.sampled_from([0, 1, 5, 39, 64, 1000]),
    st.sampled_from([0.0, 0.31, 0.77, 0.93, 1.0]),
    st.sampled_from([0.0, 0.05, 0.6, 1.0]),
)
def test_tokens_come_as_often_as_their_settings_say(
    size: int, seed: int, temperature: float, top_k: int, top_p: float, min_p: float
):
    source = np.random.default_rng(seed)
    logits = source.normal(0, 3, size).round(source.integers(0, 4)).astype(np.float32)
    logits[source.random(size) < 0.2] = -np.inf
    logits[source.integers(size)] = 1.0

    seen = shares(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)

    expected = by_value(logits, reference(logits, temperature, top_k, top_p, min_p))
    for value, share in by_value(logits, seen).items():
        # Even points miss or hit the ends of each token's stretch.
        assert abs(share - expected[value]) <= (np.count_nonzero(logits == value) + 1) / 400


@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16, mx.float16])
def test_temperature_zero_takes_the_likeliest_token(kind: mx.Dtype):
    assert tokens_of(sampler_of({}).choose(mx.array([[1.0, 5.0, 2.0]]).astype(kind))) == [1]


@pytest.mark.parametrize("filters", [{}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_a_temperature_near_zero_overflows_nothing(filters: dict[str, Any]):
    assert one_token([-1e4, 3e4, 2.9e4, 0.0], temperature=1e-45, **filters) == 1


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 1.0}])
def test_tokens_out_of_the_question_are_never_taken(filters: dict[str, Any]):
    logits = np.full(500, -np.inf, np.float32)
    logits[321] = -50.0

    assert shares(logits, points=50, temperature=2.0, **filters)[321] == 1.0


@pytest.mark.parametrize("filters", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}])
def test_a_row_that_may_say_nothing_still_gets_a_token_of_the_vocabulary(filters: dict[str, Any]):
    assert 0 <= one_token([-float("inf")] * 100, **{"temperature": 1.0, **filters}) < 100


def test_top_p_zero_and_min_p_one_keep_the_likeliest_alone():
    for filters in ({"top_p": 0.0}, {"min_p": 1.0}, {"top_k": 50, "min_p": 1.0}):
        assert shares(np.array([1, 1, 5, 3], np.float32), temperature=1.0, **filters).tolist() == [0, 0, 1, 0]


def test_real_chance_comes_as_often_as_it_should():
    sampler = sampler_of({"temperature": 1.0, "seed": 1})
    logits = mx.log(mx.array([[1.0, 2.0, 5.0]]))

    seen = np.bincount([tokens_of(sampler.choose(logits))[0] for _ in range(1000)]) / 1000

    assert seen.tolist() == pytest.approx([0.125, 0.25, 0.625], abs=0.05)


def twenty_of(row: RowSampling) -> list[int]:
    sampler = BatchSampler()
    sampler.extend([row], [[]])
    return [tokens_of(sampler.choose(mx.zeros((1, 40))))[0] for _ in range(20)]


def test_a_seed_repeats_and_its_absence_does_not():
    def twenty(seed: int | None) -> list[int]:
        return twenty_of(RowSampling(choice_of(temperature=1.0, seed=seed)))

    assert twenty(7) == twenty(7)
    assert twenty(7) != twenty(8)
    assert twenty(None) != twenty(None)


def test_each_candidate_of_a_seed_has_a_repeatable_stream_of_its_own():
    def twenty(candidate: int) -> tuple[int, ...]:
        return tuple(twenty_of(RowSampling(choice_of(temperature=1.0, seed=7), candidate)))

    assert twenty(0) == tuple(twenty_of(RowSampling(choice_of(temperature=1.0, seed=7))))
    assert len({twenty(candidate) for candidate in range(8)}) == 8
    assert [twenty(candidate) for candidate in range(8)] == [twenty(candidate) for candidate in range(8)]


@st.composite
def choices(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "temperature": draw(st.sampled_from([0.0, 0.3, 1.0, 2.0])),
        "top_k": draw(st.sampled_from([0, 1, 5, 70, 299, 1000])),
        "top_p": draw(st.sampled_from([0.0, 0.5, 0.95, 1.0])),
        "min_p": draw(st.sampled_from([0.0, 0.1])),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.5])),
        "logprobs": draw(st.sampled_from([None, 0, 3, 20])),
        "json_schema": draw(st.sampled_from([None, GRAMMAR])),
        "seed": draw(st.integers(0, 2**63 - 1)),
    }


def told(chosen: Chosen, row: int, top: int | None) -> list[Any]:
    """All of what a row that asked for this many likely tokens reads of a step, bit for bit."""
    read: list[Any] = [np.array(chosen.tokens)[row]]
    if top is not None:
        read.append(np.array(chosen.logprobs)[row].tobytes())
    if top:
        read += [np.array(each)[row, :top].tobytes() for each in (chosen.top_tokens, chosen.top_logprobs)]
    return read


@settings(max_examples=60, deadline=None)
@given(st.lists(choices(), min_size=1, max_size=16), st.sampled_from([mx.float32, mx.bfloat16]), st.integers(0, 2**32))
def test_a_row_gets_among_any_neighbours_what_it_gets_alone(rows: list[dict[str, Any]], kind: mx.Dtype, key: int):
    steps = (mx.random.normal((3, len(rows), 301), key=mx.random.key(key)) * 3).astype(kind)
    masks = mx.random.randint(-(2**31), 2**31 - 1, (3, len(rows), 10), mx.int32, key=mx.random.key(key + 1))
    recent = [[index, 2 * index] for index in range(len(rows))]

    together = sampler_of(*rows, recent=recent)
    seen = [together.choose(logits, mask) for logits, mask in zip(steps, masks, strict=True)]

    for index, each in enumerate(rows):
        alone = sampler_of(each, recent=[recent[index]])
        own = slice(index, index + 1)
        for step, chosen in enumerate(seen):
            single = alone.choose(steps[step, own], masks[step, own])
            assert told(single, 0, each["logprobs"]) == told(chosen, index, each["logprobs"])


def test_rows_that_come_and_go_take_nothing_of_the_others_with_them():
    settings = [{"temperature": 1.0, "seed": number, "repetition_penalty": 1.5} for number in range(4)]
    logits = mx.random.normal((4, 90), key=mx.random.key(0))
    alone = []
    for number, each in enumerate(settings):
        sampler = sampler_of(each, recent=[[number]])
        alone.append([tokens_of(sampler.choose(logits[number : number + 1]))[0] for _ in range(4)])

    sampler = sampler_of(*settings[:3], recent=[[0], [1], [2]])
    first = tokens_of(sampler.choose(logits[:3]))
    sampler.keep([2, 0])
    second = tokens_of(sampler.choose(logits[mx.array([2, 0])]))
    newcomer = sampler_of(settings[3], recent=[[3]])
    its_first = tokens_of(newcomer.choose(logits[3:]))
    sampler.join(newcomer)
    third = tokens_of(sampler.choose(logits[mx.array([2, 0, 3])]))

    assert first == [each[0] for each in alone[:3]]
    assert second == [alone[2][1], alone[0][1]]
    assert its_first == [alone[3][0]]
    assert third == [alone[2][2], alone[0][2], alone[3][1]]
    sampler.keep([])
    assert len(sampler) == 0


@pytest.mark.parametrize("penalties", [(1.0, 1.0), (1.5, 1.0), (1.0, 1.5)])
def test_rows_that_come_and_go_for_long_leave_nothing_behind(penalties: tuple[float, float]):
    staying, passing = ({"repetition_penalty": penalty} for penalty in penalties)
    sampler = sampler_of(staying, recent=[[1]])

    def pass_by(times: int) -> int:
        for _ in range(times):
            sampler.join(sampler_of(passing, recent=[[2]]))
            mx.eval(sampler.choose(mx.zeros((2, 40))).tokens)
            sampler.keep([0])
            mx.eval(sampler.choose(mx.zeros((1, 40))).tokens)
        return mx.get_active_memory()

    assert pass_by(3) == pass_by(50)


def test_a_penalty_lowers_what_was_said_lately_and_nothing_else():
    sampler = sampler_of({"repetition_penalty": 2.0}, recent=[[0, 1]])

    assert tokens_of(sampler.choose(mx.array([[4.0, -4.0, 1.0, 2.1]]))) == [3]  # 4 has become 2
    assert tokens_of(sampler.choose(mx.array([[-8.0, -4.0, -7.0, -3.6]]))) == [2]  # -3.6 has become -7.2


def test_a_penalty_counts_a_token_once_however_often_it_was_said():
    sampler = sampler_of({"repetition_penalty": 2.0}, recent=[[0, 0, 0]])

    assert tokens_of(sampler.choose(mx.array([[4.0, 1.9]]))) == [0]


def test_a_penalty_forgets_after_twenty_tokens():
    sampler = sampler_of({"repetition_penalty": 2.0}, recent=[[7, *range(10, 29)]])
    logits = mx.zeros((1, 30))
    logits[0, 7], logits[0, 3] = 4.0, 3.0

    assert [tokens_of(sampler.choose(logits))[0] for _ in range(2)] == [3, 7]


def test_a_row_without_a_past_is_not_penalised():
    assert tokens_of(sampler_of({"repetition_penalty": 2.0}).choose(mx.array([[4.0, 3.0]]))) == [0]


def test_masks_are_read_as_llguidance_writes_them():
    allowed = [3, 31, 32, 64, 99]
    mask = np.zeros((1, 4), np.int32)
    for token in allowed:
        mask[0, token // 32] |= np.array(1 << token % 32, np.uint32).view(np.int32)
    logits = np.zeros((1, 100), np.float32)
    llguidance.numpy.apply_token_bitmask_inplace(logits, mask)

    sampler = BatchSampler()
    sampler.extend(
        [DrawOf(choice_of(temperature=1.0, json_schema=GRAMMAR), (i + 0.5) / 50) for i in range(50)], [[]] * 50
    )
    seen = tokens_of(sampler.choose(mx.zeros((50, 100)), mx.repeat(mx.array(mask), 50, axis=0)))

    assert sorted(set(seen)) == allowed == np.flatnonzero(np.isfinite(logits[0])).tolist()


def test_tokens_beyond_the_mask_are_forbidden_to_a_grammar_and_free_to_others():
    logits = mx.zeros((2, 70))
    logits[:, 69] = 9.0
    logits[:, 40] = 5.0

    chosen = sampler_of({"json_schema": GRAMMAR}, {}).choose(logits, mx.full((2, 2), -1, mx.int32))

    assert tokens_of(chosen) == [40, 69]


def test_log_probabilities_are_the_model_s_own():
    logits = np.random.default_rng(0).normal(0, 3, (1, 500)).astype(np.float32)
    mask = mx.full((1, 16), 0b1010, mx.int32)
    settings = {"temperature": 2.0, "top_k": 9, "repetition_penalty": 1.5, "json_schema": GRAMMAR, "logprobs": 4}

    chosen = sampler_of(settings, recent=[[1, 2, 3]]).choose(mx.array(logits), mask)

    own = logits[0] - np.log(np.exp(logits[0].astype(np.float64)).sum())
    falling = np.argsort(-own)[:4]
    assert np.array(chosen.logprobs).tolist() == pytest.approx([own[tokens_of(chosen)[0]]], abs=1e-5)
    assert np.array(chosen.top_tokens).tolist() == [falling.tolist()]
    assert np.array(chosen.top_logprobs)[0].tolist() == pytest.approx(own[falling].tolist(), abs=1e-5)


def test_what_nobody_asked_for_is_not_computed():
    logits = mx.zeros((2, 50))

    nothing = sampler_of({}, {}).choose(logits)
    no_top = sampler_of({"logprobs": 0}, {}).choose(logits)
    some = sampler_of({"logprobs": 2}, {"logprobs": 5}).choose(logits)

    assert nothing[1:] == (None, None, None)
    assert no_top[2:] == (None, None)
    assert np.isfinite(np.array(no_top.logprobs)).tolist() == [True, False]
    assert some.top_tokens is not None
    assert some.top_tokens.shape == (2, 5)


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.1}, {"repetition_penalty": 1.5}])
def test_choosing_waits_for_no_value(settings: dict[str, Any]):
    sampler = sampler_of({"temperature": 1.0, "logprobs": 2, "json_schema": GRAMMAR, **settings}, recent=[[1]])

    # While a function is being traced, MLX refuses to compute anything.
    traced = mx.compile(lambda logits, masks: list(sampler.choose(logits, masks)))(
        mx.zeros((1, 64)), mx.full((1, 2), -1, mx.int32)
    )

    assert [each.shape for each in traced] == [(1,), (1,), (1, 2), (1, 2)]
