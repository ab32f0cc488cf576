"""Training examples as attractors: gates, and that the initial weights decide."""

from typing import Any

import pytest
import torch

from torchstone.atlas.claims.memorisation import autoencoder_attractors as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.details import Table


class TestAutoencoderAttractors(ClaimConformance):
    id = "autoencoder_attractors"

    def test_it_interpolates_and_every_radius_is_below_one(self):
        assert self.measured("largest mean squared error left") < 1e-8
        assert self.measured("largest spectral radius at a training example") < 1

    def test_nine_of_ten_random_starts_end_at_a_training_example(self):
        assert self.measured("least share of random starts that end at an example") > 0.9

    def test_every_example_has_its_row_and_the_basins_add_up(self):
        [table] = [figure for figure in self.result.evidence.figures if isinstance(figure, Table)]
        assert len(table.rows) == module.EXAMPLES
        assert sum(float(row[4] or 0) for row in table.rows) == pytest.approx(
            self.measured("least share of random starts that end at an example")
        )


def test_the_initial_weights_have_the_variance_that_is_claimed():
    generator = torch.Generator().manual_seed(0)
    layers: list[Any] = [*module.relu_map(40, 300, 2, 0.6, generator)]
    weight = layers[2].weight
    assert weight.shape == (300, 300)
    assert float(weight.detach().var()) * 300 == pytest.approx(0.36, rel=0.02)
    assert not bool(layers[0].bias.any())
