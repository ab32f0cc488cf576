"""Internal covariate shift: gates, and what noisy normalisation does to moments."""

import pytest
import torch

from torchstone.atlas import Scale
from torchstone.atlas.claims.signal import _normalised as networks
from torchstone.atlas.claims.signal import internal_covariate_shift as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.atlas.run import generator_for
from torchstone.details import Table

TRAINING = (
    "mean loss over training, plain less noisy normalisation, best rates, lower end of the 95% interval"
)


class TestInternalCovariateShift(ClaimConformance):
    id = "internal_covariate_shift"

    def test_the_shift_is_zero_behind_frozen_layers(self):
        assert self.measured("largest |G - G'| behind 3 frozen layers, three kinds of network") <= 1e-12

    def test_noisy_normalisation_trains_faster_than_none(self):
        assert self.measured(TRAINING) > 0

    def test_both_halves_of_the_counterexample_fail(self):
        evidence = self.claim.counterexample(Scale.QUICK, generator_for(self.id, 0))
        assert len(evidence.refuted) == len(evidence.checks) == 2

    def test_the_table_has_all_three_kinds_with_intervals(self):
        table = self.result.evidence.figures[0]
        assert isinstance(table, Table)
        assert [row[0] for row in table.rows] == [kind.value for kind in networks.Kind]
        assert all("±" in str(cell) for row in table.rows for cell in row[2:])


def test_noise_moves_moments_at_every_step_and_stays_between_steps():
    layer = networks.Noisy(4, 0.5, seed=3).double().train()
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, again = layer(x).detach(), layer(x).detach()
    assert torch.equal(first, again)
    networks.next_step(layer)
    second = layer(x).detach()
    moved = (second.mean(0) - first.mean(0)).abs()
    assert float(moved.min()) > 1e-3
    assert float(first.mean(0).abs().max()) < 0.5 + 1e-12
    assert torch.equal(layer.eval()(x), layer.norm(x))


def test_intervals_are_students():
    values = torch.tensor([1.0, 2.0, 3.0])
    assert module.half_width(values) == pytest.approx(4.303 / 3**0.5)
