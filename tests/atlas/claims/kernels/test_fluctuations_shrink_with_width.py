"""Fluctuations over widths: the gate, the exponent of planted spreads, and the parameterisation."""

from typing import ClassVar

import pytest
import torch

from torchstone.atlas.claims.kernels import fluctuations_shrink_with_width as module
from torchstone.atlas.conformance import ClaimConformance


class TestFluctuationsShrinkWithWidth(ClaimConformance):
    id = "fluctuations_shrink_with_width"
    seconds: ClassVar[float] = 120.0

    def test_the_exponent_is_a_quarter_within_8_hundredths(self):
        assert self.measured("exponent of the fluctuations in N") == pytest.approx(-0.25, abs=0.08)

    def test_twenty_of_moderate_width_are_not_worse_than_one_of_the_largest(self):
        checks = {check.name: check for check in self.result.evidence.checks}
        assert module.MEMBERS == 20
        check = checks["test error of the mean of 20 networks of width 64"]
        assert check.measured <= check.expected


def test_the_exponent_over_widths_16_to_512() -> None:
    """All widths of the gate, with 10 members and 20 examples; the quick run has 20 and 60 and stops at width 128."""
    train_x, train_y, test_x, test_y = module.two_classes(20)
    found = []
    for size, steps in {16: 300, 32: 200, 64: 80, 128: 60, 256: 60, 512: 50}.items():
        models = [
            module.Dense(size, module.DEPTH, torch.Generator().manual_seed(1000 + k)) for k in range(10)
        ]
        found.append(module.trained(models, train_x, train_y, test_x[:400], test_y[:400], steps))
    assert max(one.loss for one in found) < 0.02  # of 1 at the start
    slope, error = module.exponent(found)
    assert slope == pytest.approx(-0.25, abs=0.08)
    assert error < 0.03


def width(parameters: int, spread: float, seed: int) -> module.Width:
    outputs = spread * torch.randn(
        20, 3000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return module.Width(parameters, outputs, torch.zeros(20), 0.0)


def test_planted_spreads_have_their_exponent_and_an_error_bar() -> None:
    sizes = (10**3, 10**4, 10**5)
    slope, error = module.exponent([width(n, 2 * n**-0.4, k) for k, n in enumerate(sizes)])
    assert slope == pytest.approx(-0.4, abs=0.01)
    assert abs(slope + 0.4) < 4 * error < 0.02


def test_outputs_are_of_order_one_at_every_width() -> None:
    x = torch.randn(200, module.INPUTS, generator=torch.Generator().manual_seed(0))
    for size in (32, 512):
        found = torch.stack(
            [module.Dense(size, 3, torch.Generator().manual_seed(k))(x).detach() for k in range(60)]
        )
        assert float(found.square().mean()) == pytest.approx(1.0, rel=0.2)


def test_the_initial_function_is_subtracted_and_the_loss_is_hinge() -> None:
    model = module.Dense(8, 3, torch.Generator().manual_seed(0))
    x = torch.randn(5, module.INPUTS, generator=torch.Generator().manual_seed(1))
    targets = torch.stack([torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]), model(x).detach()], 1)
    assert torch.equal(module.hinge(model, x, targets), torch.ones(5))
    train_x, train_y, test_x, test_y = module.two_classes(60)
    before = module.trained([model], train_x[:1], train_y[:1], test_x, test_y, steps=1)
    assert before.parameters == sum(p.numel() for p in model.parameters())
    assert set(train_y.tolist()) == {-1.0, 1.0}
    assert float(train_x.square().mean()) == pytest.approx(1.0, rel=1e-5)
