"""Twin networks on digits: the gate on the exponent, and the linear control."""

import pytest
import torch

from torchstone.atlas.claims.memorisation import twins_drift_sublinearly as module
from torchstone.atlas.conformance import ClaimConformance


class TestTwinsDriftSublinearly(ClaimConformance):
    id = "twins_drift_sublinearly"
    seconds = 60.0

    def test_five_pairs_grow_with_an_exponent_below_one(self):
        assert module.PAIRS == 5
        assert self.measured("upper 95% limit of the exponent") < 1

    def test_the_linear_control_has_exponent_one(self):
        assert self.measured("exponent of the linear control") == pytest.approx(1, abs=0.02)

    def test_it_is_labelled_as_a_stand_in(self):
        assert "stand-in" in self.claim.title
        assert any("stand in for ImageNet" in line for line in self.claim.assumptions)


def test_linear_twins_part_by_the_exchanged_images_alone():
    """|w - w'| after e epochs is e x rate / batch x the distance of the images' outer products with their labels."""
    control = module.twins(80, torch.Generator().manual_seed(3), linear=True)
    generator = torch.Generator().manual_seed(3)
    data = module.digits()
    order = torch.randperm(len(data.train_x), generator=generator)
    for pair in range(module.PAIRS):
        rows = order[pair], order[80 + pair]
        pulls = []
        for row in rows:
            pull = torch.zeros(10, 65)
            pull[data.train_y[row], :64], pull[data.train_y[row], 64] = data.train_x[row].flatten(), 1.0
            pulls.append(pull)
        drift = module.RATE / module.BATCH * float((pulls[0] - pulls[1]).norm())
        expected = drift * torch.arange(1, module.EPOCHS + 1)
        assert torch.allclose(control.distance[pair].float(), expected, rtol=1e-3)
