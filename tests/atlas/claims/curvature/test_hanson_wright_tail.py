"""The Hanson-Wright tail: no violation among 1e5 draws, and budgets kept in 500 repeats."""

import math

import pytest
import torch

from torchstone.atlas.claims.curvature import hanson_wright_tail as module
from torchstone.atlas.conformance import ClaimConformance

NAMES = ["rank one", "projection on half the space", "eigenvalues 1/i"]


class TestHansonWrightTail(ClaimConformance):
    id = "hanson_wright_tail"

    @pytest.mark.parametrize("name", NAMES)
    def test_no_violation_among_100_000_draws(self, name):
        assert module.DRAWS == 100_000
        for t in (1, 2, 4, 6):
            error = math.sqrt(math.exp(-t) * (1 - math.exp(-t)) / 100_000)
            assert self.measured(f"tail at t = {t}, {name}") <= math.exp(-t) + 3 * error

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("kind", ["knowing the spectrum", "for any spectrum"])
    def test_budgets_are_kept_in_500_repeats(self, name, kind):
        assert module.REPEATS == 500
        assert self.measured(f"share of estimates within 30%, {name}, {kind}") >= 0.9


@pytest.mark.parametrize("rank", [1, 2, 6, 12])
def test_the_bound_holds_exactly_over_all_sign_vectors(rank):
    """All 4096 of them instead of a sample, for matrices whose vectors lie along the axes and across them."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 12).double()
    for seed in range(30):
        factor = torch.randn(12, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        factor = factor.round() if seed % 2 else factor
        matrix = factor @ factor.T
        forms = (signs @ matrix * signs).sum(1)
        trace, root, norm = matrix.trace(), float(matrix.norm()), float(torch.linalg.matrix_norm(matrix, 2))
        for t in (0.1, 0.5, 1.0, 2.0, 4.0, 8.0):
            reach = 2 * root * math.sqrt(t) + 2 * norm * t
            assert float((forms > trace + reach).double().mean()) <= math.exp(-t)
