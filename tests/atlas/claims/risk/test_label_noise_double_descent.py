"""Double descent of trained networks, and the trick by which all widths train as one."""

from __future__ import annotations

import torch

from torchstone.atlas.claim import Scale
from torchstone.atlas.claims.risk import label_noise_double_descent as subject
from torchstone.atlas.conformance import ClaimConformance


class TestLabelNoiseDoubleDescent(ClaimConformance):
    id = "label_noise_double_descent"
    seconds = 60.0

    def test_the_peak_is_neither_the_narrowest_nor_the_widest(self) -> None:
        assert self.measured("test error at the peak minus at the widest") > 0.3
        assert self.measured("test error at the peak minus at the narrowest") > 1


def test_masked_networks_are_narrow_ones() -> None:
    wide = subject.Masked(3, 8, torch.Generator().manual_seed(0))
    x = torch.randn(6, subject.INPUTS, generator=torch.Generator().manual_seed(1))
    narrow = (x @ wide.inner[:, :3] + wide.bias[:3]).relu() @ wide.outer[:3]
    assert torch.allclose(wide(x), narrow, atol=1e-6)


def test_widths_span_the_threshold() -> None:
    for scale in Scale:
        shares = [width * (subject.INPUTS + 2) / subject.EXAMPLES for width in subject.WIDTHS[scale]]
        assert shares[0] < 0.2
        assert shares[-1] > 10
