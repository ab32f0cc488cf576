"""The shallow interpolant against NumPy's, and its price in units."""

import numpy as np
import pytest
import torch
from torch import nn

from torchstone.approximation import dense_layer, shallow_interpolant
from torchstone.errors import SettingError


def generator():
    return torch.Generator().manual_seed(0)


def test_equals_numpy_on_uneven_knots():
    knots = torch.rand(30, generator=generator(), dtype=torch.float64).sort().values
    values = torch.randn(30, generator=generator(), dtype=torch.float64)
    x = torch.linspace(float(knots[0]), float(knots[-1]), 999, dtype=torch.float64)
    found = shallow_interpolant(knots, values)(x[:, None]).detach()[:, 0]
    np.testing.assert_allclose(found, np.interp(x, knots, values), atol=1e-10)


def test_continues_flat_on_the_left_and_straight_on_the_right():
    knots = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    network = shallow_interpolant(knots, knots**2)
    found = network(torch.tensor([[-5.0], [4.0]], dtype=torch.float64)).flatten().tolist()
    assert found == [0.0, 10.0]  # slope 3 beyond 2


def test_one_unit_a_piece_and_the_square_needs_pieces_not_places():
    for pieces in (1, 7, 8, 16):
        knots = torch.linspace(0, 1, pieces + 1, dtype=torch.float64)
        network = shallow_interpolant(knots, knots**2)
        assert isinstance(network[0], nn.Linear)
        assert network[0].out_features == pieces
        x = torch.linspace(0, 1, 16 * pieces + 1, dtype=torch.float64)
        error = (network(x[:, None])[:, 0] - x**2).detach().abs().max()
        assert float(error) == pytest.approx(1 / (4 * pieces**2), rel=1e-12)


@pytest.mark.parametrize(
    ("knots", "values", "message"),
    [
        ([0.0], [0.0], "vectors of n \\+ 1 >= 2 knots"),
        ([0.0, 1.0], [0.0], "Pass one value a knot"),
        ([0.0, 0.0, 1.0], [0.0, 1.0, 2.0], "Knots must increase; got a step of 0.0. Sort them"),
        ([0.0, float("nan")], [0.0, 1.0], "Knots must increase"),
    ],
)
def test_refuses_what_is_no_interpolation_problem(knots, values, message):
    with pytest.raises(SettingError, match=message):
        shallow_interpolant(torch.tensor(knots), torch.tensor(values))


def test_dense_layer_copies_its_weights_and_draws_nothing():
    before = torch.get_rng_state()
    weight = torch.ones(2, 3)
    layer = dense_layer(weight, torch.zeros(2))
    weight.zero_()
    assert torch.equal(layer(torch.ones(3)), torch.full((2,), 3.0))
    assert torch.equal(before, torch.get_rng_state())
