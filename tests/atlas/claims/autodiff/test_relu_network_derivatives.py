"""Derivatives of ReLU networks in closed form: gates."""

import pytest

from torchstone.atlas.conformance import ClaimConformance


class TestReluNetworkDerivatives(ClaimConformance):
    id = "relu_network_derivatives"

    @pytest.mark.parametrize(
        "formula", ["Jacobian in the input", "derivative in weight columns", "squared loss in weight columns"]
    )
    def test_every_layer_and_column(self, formula):
        assert self.measured(f"{formula}, largest error") < 1e-10
