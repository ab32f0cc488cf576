"""Vanishing and exploding gradients: gates, the known eigenvalues, and the fitted slope."""

import math

import pytest
import torch

from torchstone.atlas.claims.signal import vanishing_gradients
from torchstone.atlas.conformance import ClaimConformance


class TestVanishingGradients(ClaimConformance):
    id = "vanishing_gradients"

    @pytest.mark.parametrize(
        ("name", "modulus"),
        [("negative leading eigenvalue", 1.5), ("complex leading pair", 0.7), ("leading eigenvalue 1", 1.0)],
    )
    def test_growth_of_powers(self, name, modulus):
        assert self.measured(f"(1/L) log |A^L u| at L = 2000, {name}") == pytest.approx(
            math.log(modulus), abs=1e-3
        )

    @pytest.mark.parametrize("name", ["ordered", "chaotic"])
    def test_gradient_factor_is_chi_within_5_percent(self, name):
        expected = vanishing_gradients.log_chi(*vanishing_gradients.NETWORKS[name])
        found = self.measured(f"log factor of the squared gradient a layer, {name} tanh network")
        assert found == pytest.approx(expected, rel=0.05)
        assert (expected < 0) == (name == "ordered")


def test_matrices_have_the_eigenvalues_they_say():
    made = vanishing_gradients.matrix("any", [-1.5, 1.2, 0.8, 0.3], 0.9, torch.Generator().manual_seed(0))
    found = torch.linalg.eigvals(made.a)
    distances = (found[:, None] - made.eigenvalues[None]).abs()
    assert float(distances.amin(0).max()) < 1e-10
    assert float(distances.amin(1).max()) < 1e-10
    assert not torch.allclose(made.a @ made.a.T, made.a.T @ made.a)  # not normal


def test_log_norms_are_those_of_explicit_powers():
    made = vanishing_gradients.matrix("any", [1.3, 0.5, 0.2, -0.1], 0.4, torch.Generator().manual_seed(1))
    logs = vanishing_gradients.log_norms(made)
    for power in (1, 5, 40):
        explicit = (torch.linalg.matrix_power(made.a, power) @ made.u).norm().log()
        assert float(logs[power - 1]) == pytest.approx(float(explicit), abs=1e-10)


def test_the_slope_is_that_of_a_straight_line():
    back = torch.arange(vanishing_gradients.DEPTH - 1, -1, -1, dtype=torch.float64)
    assert vanishing_gradients.slope(4 - 0.3 * back[None]).tolist() == pytest.approx([-0.3])
