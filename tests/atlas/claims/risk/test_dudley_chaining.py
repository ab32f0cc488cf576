"""Dudley: ten finite classes against all sign vectors, at most 12 times Massart, and the integral to 1e-8."""

import pytest
import torch
from scipy.integrate import quad

from torchstone.atlas.claims.risk import dudley_chaining as module
from torchstone.atlas.conformance import ClaimConformance


class TestDudleyChaining(ClaimConformance):
    id = "dudley_chaining"

    def test_ten_finite_classes(self):
        names = list(module.finite_classes(50, torch.Generator().manual_seed(0)))
        assert len(names) == 10
        for name in names:
            assert 0 < self.measured(f"Dudley / Massart, {name}") <= 12

    def test_the_integral_to_1e_8(self):
        found = quad(
            lambda e: (7 * torch.log(torch.tensor(3 / e).double()).item()) ** 0.5,
            0,
            1,
            epsabs=1e-9,
            epsrel=0,
            limit=400,
        )[0]
        assert self.measured("integral of sqrt(7 ln(3/eps)) on [0, 1]") == pytest.approx(found, abs=1e-8)

    def test_the_chain_stays_where_massart_rises(self):
        lines = {
            line.name: line.y
            for figure in self.result.evidence.figures
            for line in getattr(figure, "lines", ())
        }
        assert lines["Massart"][-1] > 2 * lines["Massart"][0]
        assert lines["best chain"][-1] < 1.02 * lines["best chain"][-2]
