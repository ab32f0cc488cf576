"""The square network against exact rational arithmetic and its two wirings against each other."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from torchstone.approximation import SquareNetwork
from torchstone.errors import SettingError

WIRINGS = [False, True]


def grid(level: int) -> Tensor:
    return torch.arange(2**level + 1, dtype=torch.float64) / 2**level


def interpolant(x: Fraction, pieces: int) -> Fraction:
    """The piecewise linear interpolant of x^2 at j / pieces, in exact arithmetic."""
    j = min(int(x * pieces), pieces - 1)
    left, right = Fraction(j, pieces), Fraction(j + 1, pieces)
    return left**2 + (x - left) * (left + right)


@pytest.mark.parametrize("skip", WIRINGS)
@pytest.mark.parametrize("depth", range(1, 11))
def test_largest_error_is_two_to_the_minus_2m_minus_2(depth, skip):
    network = SquareNetwork(depth, skip=skip, dtype=torch.float64)
    x = grid(depth + 3)  # holds the knots and the middles of the pieces, where the error is largest
    error = (network(x) - x**2).detach()
    assert abs(float(error.abs().max()) - 2.0 ** (-2 * depth - 2)) < 1e-12
    assert float(error.min()) > -1e-12


@pytest.mark.parametrize("skip", WIRINGS)
@pytest.mark.parametrize("depth", [1, 2, 5, 9])
def test_is_the_interpolant_at_dyadic_points(depth, skip):
    network = SquareNetwork(depth, skip=skip, dtype=torch.float64)
    numerators = torch.randint(0, 3001, (50,), generator=torch.Generator().manual_seed(0)).tolist()
    points = [Fraction(n, 3000) for n in [*numerators, 0, 3000]]
    exact = [float(interpolant(x, 2**depth)) for x in points]
    found = network(torch.tensor([float(x) for x in points], dtype=torch.float64)).tolist()
    assert found == pytest.approx(exact, abs=1e-13)


@pytest.mark.parametrize("skip", WIRINGS)
def test_units_grow_linearly_and_are_counted_rightly(skip):
    for depth in range(1, 12):
        network = SquareNetwork(depth, skip=skip)
        counted = sum(layer.out_features for layer in network.hidden if isinstance(layer, nn.Linear))
        assert network.units == counted == (2 * depth if skip else 3 * depth - 1)


def test_without_skip_is_an_ordinary_dense_network():
    network = SquareNetwork(6, dtype=torch.float64)
    layers = [*network.hidden, network.output]
    stack = nn.Sequential(*[piece for layer in layers[:-1] for piece in (layer, nn.ReLU())], layers[-1])
    x = torch.rand(64, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(stack(x)[:, 0], network(x[:, 0]))


def test_works_elementwise_in_single_precision_and_can_be_trained():
    network = SquareNetwork(4, dtype=torch.float32)
    x = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(2))
    out = network(x)
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert float((out - x**2).detach().abs().max()) <= network.error_bound + 1e-6
    out.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_survives_a_state_dict_round_trip():
    network, other = SquareNetwork(3, dtype=torch.float64), SquareNetwork(3, dtype=torch.float64)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(grid(5)), network(grid(5)))


def test_leaves_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    SquareNetwork(5)
    assert torch.equal(before, torch.get_rng_state())


def test_refuses_depth_zero():
    with pytest.raises(SettingError, match=r"depth of at least 1; got 0. Pass depth=5"):
        SquareNetwork(0)
