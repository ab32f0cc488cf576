"""Surrogate calibration: 2000 laws, all classifiers of 4 atoms, and the example with one error more."""

import pytest
import torch

from torchstone.atlas import Scale
from torchstone.atlas.claims.risk import surrogate_calibration as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.bounds.surrogate import MARGIN_LOSSES

NAMES = [loss.name for loss in MARGIN_LOSSES]


class TestSurrogateCalibration(ClaimConformance):
    id = "surrogate_calibration"

    @pytest.mark.parametrize("name", NAMES)
    def test_no_violation_on_2000_laws_with_4_atoms(self, name):
        assert (module.LAWS, module.ATOMS) == (2000, 4)
        assert self.measured(f"laws and classifiers that violate it, {name}") == 0

    @pytest.mark.parametrize("name", NAMES)
    def test_the_optimum_of_the_surrogate_makes_exactly_one_error_more(self, name):
        for n in module.EXAMPLES:
            assert self.measured(f"errors above the least, n = {n}, {name}") == 1

    def test_the_counterexample_violates_the_inequality_itself(self):
        evidence = module.counterexample(Scale.QUICK, torch.Generator().manual_seed(0))
        assert "laws and classifiers that violate it, perceptron" in [
            check.name for check in evidence.refuted
        ]


def test_all_16_classifiers_are_tried():
    gap, _ = module.inequality(MARGIN_LOSSES[0], MARGIN_LOSSES[0].psi, 5, torch.Generator().manual_seed(0))
    assert gap.shape == (5, 2, 16)


@pytest.mark.parametrize("n", module.EXAMPLES)
def test_the_logistic_optimum_by_newton(n):
    x, y = module.example(n)
    w = torch.zeros((), dtype=torch.float64)
    for _ in range(60):
        p = torch.sigmoid(-w * y * x)
        w = w + (p * y * x).sum() / (p * (1 - p) * x * x).sum()
    assert abs(float((torch.sigmoid(-w * y * x) * y * x).sum())) < 1e-10
    errors = int((y * w * x <= 0).sum())
    assert errors / n - min(int((y > 0).sum()), int((y < 0).sum())) / n == pytest.approx(1 / n, abs=1e-15)
