"""The invariant of backpropagation: gates."""

from torchstone.atlas.conformance import ClaimConformance


class TestBackpropagationInvariant(ClaimConformance):
    id = "backpropagation_invariant"

    def test_every_layer_and_localisation(self):
        assert self.measured("Lambda_0 minus the Jacobian by PyTorch, largest entry") < 1e-10
        assert self.measured("Lambda_i minus forward mode from step i, largest entry of all i") < 1e-10
        assert self.measured("share of planted wrong derivatives that are localised") == 1
