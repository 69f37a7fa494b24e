"""Whole-number probabilities: sums are exact, and what is found by them is what sorting would find."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_websockets.engine.worker.batch.masses import (
    WHOLE,
    edge_by_bits,
    edge_by_sorting,
    likeliest,
    log_sum,
    masses,
    nucleus_token_at,
    token_at,
)

SIZES = [1, 2, 40, 63, 64, 65, 130, 1000, 5000]


def rows_of(rows: int, size: int, seed: int) -> np.ndarray:
    """Logits with equals among them, and tokens out of the question."""
    source = np.random.default_rng(seed)
    values = source.normal(0, 3, (rows, size)).round(source.integers(0, 4)).astype(np.float32)
    values[source.random((rows, size)) < 0.2] = -np.inf
    values[:, source.integers(size)] = 2.0
    return values


def column(*values: float) -> mx.array:
    return mx.array(values)[:, None]


def points_at(draws: np.ndarray, total: np.integer) -> np.ndarray:
    """In 32-bit floats, as they are computed: their rounding decides on which side of a border a point lies."""
    return (draws.astype(np.float32) * np.float32(total)).astype(np.uint64)


@pytest.mark.parametrize("size", SIZES)
def test_masses_are_the_probabilities(size: int):
    logits = rows_of(3, size, seed=size)

    found = np.array(masses(mx.array(logits))).astype(np.float64) / WHOLE

    expected = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    expected /= expected.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_a_lone_token_has_all_of_the_mass():
    logits = mx.full((1, 300), -mx.inf)
    logits[0, 123] = -40.0

    found = masses(logits)

    assert found[0, 123].item() == WHOLE
    assert found.sum().item() == WHOLE


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 2**32), st.floats(0, 1))
def test_the_edge_is_where_the_falling_sum_reaches_what_is_wanted(size: int, seed: int, share: float):
    found = masses(mx.array(rows_of(2, size, seed)))
    wanted = [max(1, int(total * share)) for total in np.array(found).sum(axis=-1, dtype=np.uint64)]

    by_bits, by_sorting = (
        find(found, mx.array(wanted, mx.uint32)[:, None]) for find in (edge_by_bits, edge_by_sorting)
    )

    for row, least, *edges in zip(np.array(found), wanted, np.array(by_bits), np.array(by_sorting), strict=True):
        falling = np.sort(row)[::-1].astype(np.uint64)
        reached = falling[np.searchsorted(falling.cumsum(), least)]
        assert edges == [reached, reached]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 2**32), st.sampled_from([1, 5, 20, 64]))
def test_the_likeliest_are_those_that_sorting_finds(size: int, seed: int, width: int):
    logits = rows_of(3, size, seed)

    values, tokens = (np.array(found) for found in likeliest(mx.array(logits), min(width, size)))

    np.testing.assert_array_equal(values, -np.sort(-logits, axis=-1)[:, :width])
    np.testing.assert_array_equal(values, np.take_along_axis(logits, tokens, axis=-1))
    possible = [row[np.isfinite(found)].tolist() for row, found in zip(tokens, values, strict=True)]
    assert all(len(set(row)) == len(row) for row in possible)


@pytest.mark.parametrize("size", SIZES)
def test_each_token_has_the_stretch_of_draws_that_its_mass_is(size: int):
    found = masses(mx.array(rows_of(1, size, seed=size)))
    draws = (np.arange(500) + 0.5) / 500

    tokens = token_at(mx.repeat(found, 500, axis=0), column(*draws))

    ends = np.array(found)[0].astype(np.uint64).cumsum()
    assert np.array(tokens).tolist() == np.searchsorted(ends, points_at(draws, ends[-1]), "right").tolist()


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0 - 2**-53])
def test_a_token_without_mass_is_never_taken(draw: float):
    logits = mx.full((1, 200), -mx.inf)
    logits[0, 77] = 0.0

    assert token_at(masses(logits), column(draw)).item() == 77


def test_of_equals_at_the_edge_the_first_ones_belong_to_the_nucleus():
    found = masses(mx.zeros((100, 10)))
    draws = column(*((np.arange(100) + 0.5) / 100))

    tokens = nucleus_token_at(found, mx.full((100, 1), 0.45), mx.zeros((100, 1), mx.uint32), draws)

    assert np.array(tokens).tolist() == np.repeat(np.arange(5), 20).tolist()


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 2**32), st.sampled_from([0.0, 0.31, 0.77, 0.93, 0.9999999]))
@example(1000, 1_101_199_962, 0.9999999)
def test_the_nucleus_is_drawn_from_likeliest_first(size: int, seed: int, top_p: float):
    found = masses(mx.array(rows_of(1, size, seed)))
    draws = (np.arange(50) + 0.5) / 50
    rows = mx.repeat(found, 50, axis=0)

    tokens = nucleus_token_at(rows, column(*[top_p] * 50), mx.zeros((50, 1), mx.uint32), column(*draws))

    falling = np.argsort(-np.array(found)[0].astype(np.int64), kind="stable")
    ends = np.array(found)[0, falling].astype(np.uint64).cumsum()
    belong = np.searchsorted(ends, max(1, np.ceil(np.float32(top_p) * np.float32(ends[-1])))) + 1
    points = points_at(draws, ends[:belong][-1])
    assert np.array(tokens).tolist() == falling[np.searchsorted(ends, points, "right")].tolist()


@pytest.mark.parametrize("size", SIZES)
def test_the_log_of_a_sum_is_that_of_doubles(size: int):
    logits = rows_of(3, size, seed=size)

    found = np.array(log_sum(mx.array(logits)))[:, 0]

    np.testing.assert_allclose(found, np.log(np.exp(logits.astype(np.float64)).sum(axis=-1)), atol=2e-6)
