"""Random labels cost complexity: the gate, with the formula of R_A written out again."""

import math

import pytest
import torch

from torchstone.atlas.claims.risk import random_labels_cost_complexity as claim
from torchstone.atlas.conformance import ClaimConformance
from torchstone.data.digits import digits


class TestRandomLabelsCostComplexity(ClaimConformance):
    id = "random_labels_cost_complexity"

    @pytest.mark.parametrize("reference", claim.REFERENCES)
    def test_random_labels_have_the_larger_normalised_complexity(self, reference):
        name = f"least excess of ln(complexity / median margin) for random labels, M = {reference}"
        assert self.measured(name) > math.log(2)

    def test_rescaling_and_one_layer(self):
        assert self.measured("relative change of R_A (M = zero, no biases) by rescaling layers") < 1e-9
        assert self.measured("R_A of one linear layer over its (2,1) norm") == pytest.approx(1, rel=1e-12)


def test_the_complexity_by_its_formula():
    data = digits()
    found = claim.measured(data.train_x[:60].flatten(1), data.train_y[:60], seed=3)
    maps = []
    for k, layer in enumerate(found.layers):
        assert layer.bias is not None
        maps.append((layer.weight.double(), layer.bias.double(), k == len(found.layers) - 1))
    # Norms of the augmented maps are bounded by those of the 2 x 2 matrices of their blocks' norms.
    norms, moves = [], []
    for (weight, bias, last), origin in zip(maps, found.start, strict=True):
        block = torch.tensor([[float(torch.linalg.matrix_norm(weight, 2)), float(bias.norm())], [0.0, 1.0]])
        norms.append(float(torch.linalg.matrix_norm((block[:1] if last else block).double(), 2)))
        assert origin.bias is not None
        step = torch.cat([weight - origin.weight.double(), (bias - origin.bias.double())[:, None]], 1)
        moves.append(float(step.norm(dim=1).sum()))
    total = sum((move / norm) ** (2 / 3) for move, norm in zip(moves, norms, strict=True)) ** 1.5
    expected = math.log(math.prod(norms) * total)
    assert found.log_complexity["initial weights"] == pytest.approx(expected, rel=1e-6)
