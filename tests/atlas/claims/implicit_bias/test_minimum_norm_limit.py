"""The minimum-norm limit: gates, and the prediction as the solution of a constrained problem."""

import pytest
import torch

from torchstone.atlas.claims.implicit_bias import minimum_norm_limit
from torchstone.atlas.conformance import ClaimConformance


class TestMinimumNormLimit(ClaimConformance):
    id = "minimum_norm_limit"

    @pytest.mark.parametrize("way", ["gradient descent", "one example a step"])
    @pytest.mark.parametrize("start", ["0", "elsewhere"])
    def test_limit_and_row_space(self, way, start):
        assert self.measured(f"limit of {way} from {start}: relative distance") < 1e-6
        assert self.measured(f"component outside the row space, every step of {way} from {start}") < 1e-12


def test_the_shifted_formula_is_the_nearest_interpolating_solution():
    """Lagrange: minimise |w - w0|^2 subject to X w = y."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 15, generator=generator, dtype=torch.float64)
    y, start = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (6, 15))
    system = torch.cat(
        [
            torch.cat([torch.eye(15, dtype=x.dtype), x.T], 1),
            torch.cat([x, torch.zeros(6, 6, dtype=x.dtype)], 1),
        ]
    )
    nearest = torch.linalg.solve(system, torch.cat([start, y]))[:15]
    path = minimum_norm_limit.descend(x, y, start, nearest, 600)
    assert float((path.end - nearest).norm() / nearest.norm()) < 1e-6


def test_leaving_the_row_space_is_noticed():
    x = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    basis = minimum_norm_limit.row_space(x)
    assert minimum_norm_limit.outside(
        torch.tensor([2.0, 0.0, 3e-9], dtype=torch.float64), basis
    ) == pytest.approx(3e-9)
