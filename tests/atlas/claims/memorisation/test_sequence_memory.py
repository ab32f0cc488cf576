"""Sequences as limit cycles: gates, and the polygon by hand."""

import pytest
import torch

from torchstone.atlas.claims.memorisation import sequence_memory as module
from torchstone.atlas.conformance import ClaimConformance


class TestSequenceMemory(ClaimConformance):
    id = "sequence_memory"

    def test_disturbed_starts_return_to_the_cycle(self):
        name = f"largest distance to the cycle after {module.ROUNDS} rounds, period 3"
        assert self.measured(name) < 1e-3

    def test_the_cycle_is_stable(self):
        assert self.measured("largest Floquet multiplier, period 3") < 1
        assert self.measured("mean squared error of the transitions, period 3") < 1e-10


def test_the_points_are_a_regular_polygon():
    points = module.circle(5)
    assert points.norm(dim=1).tolist() == pytest.approx([1] * 5)
    sides = (points - points.roll(-1, 0)).norm(dim=1)
    assert float(sides.max() - sides.min()) < 1e-12


def test_errors_fall_by_the_contraction_each_round():
    """A map that turns by a third and halves the distance to the circle."""
    cycle = module.circle(3)
    turn = torch.linalg.lstsq(cycle, cycle.roll(-1, 0)).solution

    def halving(states: torch.Tensor) -> torch.Tensor:
        turned = states @ turn
        near = cycle[torch.cdist(turned, cycle).argmin(1)]
        return near + (turned - near) / 2

    model = torch.nn.Module()
    model.forward = halving
    errors = module.errors_by_round(model, cycle + 0.1, cycle)
    assert errors[:4] == pytest.approx([0.1 * 2**0.5 / 8**k for k in range(4)])
