"""Rows beneath those that are wanted, where more rows are computed sooner."""

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from mlx_websockets.engine.worker.products import better_rows, fill_up


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


def test_rows_are_filled_up_where_more_take_less_time():
    assert better_rows({1: 1.0, 2: 1.5, 3: 3.0, 4: 1.6}) == {3: 4}
    assert better_rows({1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}) == {}
    assert better_rows({1: 1.0, 2: 0.9}) == {}, "not for so little"


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
