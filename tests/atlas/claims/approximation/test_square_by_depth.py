"""Squaring with depth: the gate on a grid of its own."""

import pytest
import torch

from torchstone.approximation import SquareNetwork
from torchstone.atlas.claims.approximation import square_by_depth
from torchstone.atlas.conformance import ClaimConformance


class TestSquareByDepth(ClaimConformance):
    id = "square_by_depth"

    def test_the_error_is_two_to_the_minus_2m_minus_2(self):
        assert list(square_by_depth.DEPTHS) == list(range(1, 11))
        assert self.measured("largest deviation of the error from 2^(-2m-2), m = 1..10") <= 1e-12
        assert self.measured("the same with connections that skip layers") <= 1e-12

    def test_a_shallow_interpolant_needs_every_piece(self):
        assert self.measured("deviation of the interpolant on 2^m pieces, m = 1..10") <= 1e-12
        assert self.measured("error of the interpolant on 2^10 - 1 pieces over 2^(-2m-2)") > 1


@pytest.mark.parametrize("skip", [False, True])
def test_the_largest_error_is_found_by_a_search_that_knows_nothing(skip):
    """Golden-section search of the error on every piece finds no more than the grid of knots and middles."""
    from scipy.optimize import minimize_scalar

    m = 4
    network = SquareNetwork(m, skip=skip, dtype=torch.float64)

    def minus_error(x: float) -> float:
        with torch.no_grad():
            return -abs(float(network(torch.tensor(x, dtype=torch.float64))) - x * x)

    pieces = [(j / 2**m, (j + 1) / 2**m) for j in range(2**m)]
    worst = max(
        -float(minimize_scalar(minus_error, bounds=piece, method="bounded", options={"xatol": 1e-9}).fun)  # pyright: ignore[reportAttributeAccessIssue]
        for piece in pieces
    )
    assert worst == pytest.approx(square_by_depth.largest_error(network, 1.0, m), rel=1e-9)


def test_pieces_are_counted_on_the_deep_network():
    for m in (1, 3, 6):
        assert square_by_depth.pieces(SquareNetwork(m, dtype=torch.float64), 1.0, m) == 2**m
