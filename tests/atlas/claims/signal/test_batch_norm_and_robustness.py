"""Batch normalisation and robustness: the attack's sanity, and what is reported."""

import torch
from torch import nn

from torchstone.atlas import Scale
from torchstone.atlas.claims.signal import batch_norm_and_robustness as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.atlas.run import generator_for
from torchstone.details import Table


class TestBatchNormAndRobustness(ClaimConformance):
    id = "batch_norm_and_robustness"

    def test_accuracy_falls_with_eps_and_reaches_zero(self):
        assert self.measured("largest rise of accuracy from one radius to the next") <= 0
        assert self.measured("largest accuracy at eps = 3") == 0

    def test_clean_accuracies_are_matched(self):
        assert abs(self.measured("clean test accuracy, normalised less plain")) <= 0.05

    def test_the_difference_is_reported_with_its_interval(self):
        table = self.result.evidence.figures[1]
        assert isinstance(table, Table)
        name, mean, low, high = table.rows[0]
        assert name == "accuracy at eps = 0.1, normalised less plain"
        assert isinstance(mean, float)
        assert isinstance(low, float)
        assert isinstance(high, float)
        assert low <= mean <= high
        assert low < high

    def test_the_counterexample_is_refuted(self):
        # Of the attack itself: what a masked gradient would pass for is robustness.
        evidence = self.claim.counterexample(Scale.QUICK, generator_for(self.id, 0))
        assert "largest accuracy at eps = 3" in [check.name for check in evidence.refuted]


def test_a_linear_classifier_breaks_where_its_margin_says():
    """Scores (z, -z, 0, ...), z = x_20 + 0.017: the label flips at eps = |z|, which projected ascent reaches exactly."""
    model = nn.Linear(64, 10)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
        model.weight[0, 20], model.weight[1, 20] = 1.0, -1.0
        model.bias[0], model.bias[1] = 0.017, -0.017
    data = module.digits_once()
    x, y = data.test_x[:200].flatten(1), data.test_y[:200]
    scores = model(x).detach()
    found = module.attacked(model, 200, 10, masked=False).accuracy
    right = (scores.argmax(1) == y).double().mean()
    assert float(found[0]) == float(right) > 0
    margin = (x[:, 20] + 0.017).abs()
    kept = [(scores.argmax(1) == y) & (margin > eps) for eps in module.RADII[1:]]
    assert torch.allclose(found[1:], torch.stack([one.double().mean() for one in kept]))
