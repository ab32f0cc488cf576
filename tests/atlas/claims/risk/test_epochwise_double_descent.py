"""Epoch-wise double descent: the closed form against dense matrix powers, and the shape of the curve."""

from __future__ import annotations

import pytest
import torch

from torchstone.atlas.claims.risk import epochwise_double_descent as subject
from torchstone.atlas.conformance import ClaimConformance


class TestEpochwiseDoubleDescent(ClaimConformance):
    id = "epochwise_double_descent"

    def test_the_second_minimum_is_the_lower_one(self) -> None:
        assert self.measured("risk at the end over that of the first minimum") < 0.9
        assert self.measured("largest rise of a training loss at a step") <= 1e-12


def test_the_closed_form_is_the_mean_of_dense_gradient_descent() -> None:
    source = torch.Generator().manual_seed(0)
    law = subject.Law.made(alike=False, generator=source)
    count, n = len(law.squares), subject.EXAMPLES
    x = (
        torch.linalg.qr(torch.randn(n, count, generator=source, dtype=torch.float64)).Q
        * (n * law.squares).sqrt()
    )
    moments, unit = x.T @ x / n, torch.eye(count, dtype=torch.float64)
    for steps in (0, 1, 7, 300):
        left = torch.linalg.matrix_power(unit - subject.RATE * moments, steps)
        learned = (unit - left) @ torch.linalg.inv(moments)
        covariance = subject.NOISE * learned @ moments @ learned.T / n
        mean = -left @ law.truth
        exact = (law.squares * (mean.square() + covariance.diagonal())).sum()
        assert float(law.risk(torch.tensor([float(steps)]))) == pytest.approx(float(exact), rel=1e-9)


def test_turning_points() -> None:
    assert subject.turning_points(torch.tensor([3.0, 2.0, 1.0, 1.5, 2.5, 0.5])) == (2, 4)


def test_rates_that_learn_all_alike_leave_one_minimum() -> None:
    risks, _ = subject.descended(
        subject.Law.made(alike=True, generator=torch.Generator().manual_seed(1)),
        4,
        torch.Generator().manual_seed(2),
    )
    changes = risks.mean(0).diff()[:60].sign()
    assert int((changes.diff() != 0).sum()) == 1
