"""Denoising and the score: gates, and the quadrature's law."""

import pytest
import torch

from torchstone.atlas.claims.memorisation import denoising_score as module
from torchstone.atlas.conformance import ClaimConformance


class TestDenoisingScore(ClaimConformance):
    id = "denoising_score"

    def test_the_trained_linear_denoiser_is_the_closed_form(self):
        name = "trained linear denoiser against Sigma (Sigma + s^2 I)^-1 of its data: distance"
        assert self.measured(name) < 1e-6

    def test_scores_are_within_two_percent(self):
        assert self.measured("relative error of the Gaussian score") < 0.02
        assert self.measured("relative error of the score of a mixture, learnt by a network") < 0.02


def test_nodes_have_the_moments_of_a_standard_normal_law():
    nodes, weights = module.normal_nodes(12)
    moments = [float((weights * nodes**k).sum()) for k in range(7)]
    assert moments == pytest.approx([1, 0, 1, 0, 3, 0, 15], abs=1e-10)


def test_the_error_is_relative_and_weighed_by_the_density():
    points = torch.zeros(2, 1)
    true, learnt = torch.tensor([[2.0], [5.0]]), torch.tensor([[1.0], [9.0]])
    density = torch.tensor([1.0, 0.0])
    assert module.Learnt(points, learnt, true, density).error == pytest.approx(0.5)
