"""Larger steps with batch normalisation: gates, and the law of lengths by hand."""

import pytest
import torch

from torchstone.atlas import Scale
from torchstone.atlas.claims.signal import _tails
from torchstone.atlas.claims.signal import batch_norm_allows_larger_steps as module
from torchstone.atlas.claims.signal._normalised import Kind, dense
from torchstone.atlas.conformance import ClaimConformance
from torchstone.atlas.run import generator_for
from torchstone.details import Curve, Table


class TestBatchNormAllowsLargerSteps(ClaimConformance):
    id = "batch_norm_allows_larger_steps"

    def test_the_largest_stable_rate_is_three_times_as_large(self):
        name = "largest stable rate, batch normalisation over plain, ten layers, every seed"
        assert self.measured(name) >= 3

    def test_squared_lengths_grow_by_the_squared_step(self):
        assert self.measured("largest relative error of |w|^2 + eta^2 |g|^2") < 1e-13

    def test_tails_of_gradients_and_activations_are_shown_layer_by_layer(self):
        curve, table = self.result.evidence.figures[2:]
        assert isinstance(curve, Curve)
        assert isinstance(table, Table)
        assert [line.name for line in curve.lines] == [
            f"{what}, {kind}"
            for what in ("gradients", "activations")
            for kind in ("plain", "batch normalisation")
        ]
        assert all(len(line.x) == module.DEPTH - 1 == len(table.rows) for line in curve.lines)
        share = {
            kind: [
                float(str(row[table.columns.index(f"share of the units' means in the mean square, {kind}")]))
                for row in table.rows[1:]
            ]
            for kind in ("plain", "batch normalisation")
        }
        # Means pile up over the depth without normalisation, and only there.
        assert share["plain"][-1] > 0.6 > 0.4 > max(share["batch normalisation"])

    def test_the_counterexample_is_refuted(self):
        # In all of its checks.
        evidence = self.claim.counterexample(Scale.QUICK, generator_for(self.id, 0))
        assert len(evidence.refuted) == len(evidence.checks) == 4


def test_lengths_never_fall_behind_normalisation_and_do_elsewhere():
    lengths, _, _ = module.squared_lengths(Kind.BATCH, 1.0, torch.Generator().manual_seed(0))
    assert bool((lengths.diff(dim=0) > 0).all())
    lengths, _, cosine = module.squared_lengths(Kind.PLAIN, 0.01, torch.Generator().manual_seed(0))
    assert bool((lengths.diff(dim=0) < 0).any())
    assert cosine > 1e-3


def test_tails_are_scipys_kurtosis_of_outputs_and_weight_gradients():
    from scipy.stats import kurtosis

    model = dense(Kind.BATCH, 3, 5, torch.Generator().manual_seed(0), inputs=4)
    x, y = torch.randn(7, 4, generator=torch.Generator().manual_seed(1)), torch.arange(7) % 10
    found = _tails.tails_of(model, x, y)
    loss = torch.nn.functional.cross_entropy(model(x), y)
    (gradient,) = torch.autograd.grad(loss, [model.get_parameter("3.weight")])
    outputs = model[:1](x).detach().double()
    assert float(found.activations[0]) == pytest.approx(kurtosis(outputs.flatten(), fisher=False), rel=1e-6)
    assert float(found.gradients[1]) == pytest.approx(kurtosis(gradient.flatten(), fisher=False), rel=1e-6)
    means, square = outputs.mean(0), outputs.square().mean()
    assert float(found.share[0]) == pytest.approx(float(means.square().mean() / square))
    assert float(found.largest[0]) == pytest.approx(float(means.abs().max() / square.sqrt()))


def test_the_largest_stable_rate_of_each_seed():
    guess = 2.3
    losses = torch.tensor([[0.5, 0.1, guess, 10.0, 10.0], [guess] * 5, [guess, guess, guess, guess, 1.0]])
    assert module.largest_stable(losses).tolist() == pytest.approx(
        [module.RATES[1], float("nan"), module.RATES[4]], rel=1e-6, nan_ok=True
    )
