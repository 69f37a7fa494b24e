"""Rows beneath those that are wanted, where more rows are computed sooner."""

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from mlx_websockets.engine.worker.products import Seconds, better_rows, fill_up


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.inner = [nn.Linear(24, 40), nn.Linear(40, 24, bias=False)]

    def __call__(self, tokens: mx.array) -> mx.array:
        x = self.embed(tokens)
        for layer in self.inner:
            x = layer(x)
        return self.embed.as_linear(x)


def _times(changed: Seconds | None = None) -> Seconds:
    """Rows in proportion to their number, but for 8, which take no longer than one."""
    return {rows: float(rows) for rows in range(1, 17)} | {8: 1.0} | dict(changed or {})


def test_rows_are_filled_up_to_whole_blocks_that_take_less_time():
    assert better_rows([_times()] * 6) == dict.fromkeys(range(2, 8), 8)
    assert better_rows([_times({8: 8.0})] * 6) == {}
    assert better_rows([_times({8: 1.8})] * 6) == dict.fromkeys(range(3, 8), 8), "two rows: not for so little"
    assert better_rows([_times({8: 8.0, 7: 0.1})] * 6) == {}, "seven are no block"


def test_the_quickest_of_several_blocks_is_taken():
    assert better_rows([_times({16: 0.5})] * 6) == dict.fromkeys(range(1, 16), 16)


def test_a_disturbed_round_changes_no_choice():
    held_up = _times({8: 90.0}), _times({3: 90.0, 9: 90.0})

    assert better_rows([_times(), *held_up[:1], _times(), _times(), *held_up[1:], _times()]) == dict.fromkeys(
        range(2, 8), 8
    )


def test_nothing_is_chosen_by_chance():
    sooner_and_later = [_times(), _times({8: 20.0})] * 4

    assert better_rows(sooner_and_later) == {}
    assert better_rows([_times()] * 5) == {}, "too few rounds to tell"


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 3), (2, 3), (8, 1), (1, 7)])
def test_what_is_computed_stays_what_it_was(shape: tuple[int, int]):
    model, tokens = Layers(), mx.random.randint(0, 50, shape)
    plain = np.array(model(tokens))

    fill_up(model, dict.fromkeys((1, 3, 6, 7), 16))

    found = model(tokens)
    assert found.shape == (*shape, 50)
    np.testing.assert_allclose(np.array(found), plain, rtol=1e-4, atol=1e-5)


def test_only_layers_of_32_bit_floats_are_filled_up():
    model = Layers()
    model.inner[0].set_dtype(mx.bfloat16)

    fill_up(model, {1: 2})

    assert type(model.inner[0]) is nn.Linear
    assert type(model.inner[1]) is not nn.Linear


def test_a_models_weights_keep_their_names():
    model = Layers()
    names = {name for name, _ in tree_flatten(model.parameters())}

    fill_up(model, {1: 2})

    assert {name for name, _ in tree_flatten(model.parameters())} == names
