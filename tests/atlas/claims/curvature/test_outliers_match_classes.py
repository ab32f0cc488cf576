"""Outliers and the Lipschitz constant: gates, and the parts against closed forms."""

import math

import pytest
import torch
from torch.func import grad

from torchstone.atlas.claims.curvature import outliers_match_classes as claim
from torchstone.atlas.conformance import ClaimConformance


class TestOutliersMatchClasses(ClaimConformance):
    id = "outliers_match_classes"

    @pytest.mark.parametrize("classes", [3, 5, 10])
    def test_there_are_as_many_as_classes_or_one_less(self, classes):
        assert self.measured(f"outliers of the Hessian, {classes} classes") in (classes - 1, classes)

    def test_the_largest_eigenvalue_is_at_most_the_supremum(self):
        assert (
            self.measured("lambda_max less the largest difference quotient of the gradient, along training")
            <= 1e-6
        )


def test_the_weakest_combination_leaves_one_less_than_the_classes():
    """The matrix of the explanation, with features that share a mean: K - 1 equal large eigenvalues, then the rest."""
    classes, width, error = 5, 20, 0.1
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(width, classes + 1, generator=generator, dtype=torch.float64)).Q
    features = basis[:, :classes] + basis[:, classes:]  # cosine 1/2 between any two classes
    total = torch.zeros(classes * width, classes * width, dtype=torch.float64)
    for c in range(classes):
        p = torch.full((classes,), error / (classes - 1), dtype=torch.float64)
        p[c] = 1 - error
        h = features[:, c : c + 1]
        total += torch.kron(torch.diag(p) - torch.outer(p, p), h @ h.T) / classes
    values = torch.linalg.eigvalsh(total).flip(0)
    assert values[: classes - 1].std() < 1e-9
    assert float(values[classes - 2] / values[classes - 1]) > 1.5
    ratios = values[: 3 * classes] / values[1 : 3 * classes + 1]
    assert int(ratios.argmax()) + 1 == classes - 1


def test_quotients_of_a_quadratic_are_lengths_of_products():
    matrix = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    slope = grad(lambda w: w @ matrix @ w / 2)
    at, direction = torch.ones(2, dtype=torch.float64), torch.tensor([0.6, 0.8], dtype=torch.float64)
    assert claim.quotient(slope, at, direction, 1e-3) == pytest.approx(math.hypot(1.8, 0.8), rel=1e-9)


def test_the_hessian_of_the_smooth_network_is_that_of_its_gradient():
    slope, curvature, weights = claim.smooth_problem(torch.Generator().manual_seed(0))
    columns = torch.func.jacrev(slope)(weights)
    assert torch.allclose(columns, curvature(weights), atol=1e-12)
    assert len(weights) == 16 * 6 + 6 + 6 * 3 + 3
