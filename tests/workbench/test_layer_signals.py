"""Signals at weighted layers, against plain forward passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import NotApplicableError
from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.testing.zoo import zoo
from torchstone.workbench.layer_signals import layer_signals

ZOO = {case.name: case for case in zoo(hugging_face=False)}


def specimen(model: nn.Module, batch_size: int = 7) -> Specimen:
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = Specimen(model.double(), Classification(), (x, x[:, :3].argmax(1)), batch_size=batch_size)
    return one.prepared()


def test_numbers_against_plain_passes() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    one, rows = specimen(model), torch.arange(3, 17)
    first, last = layer_signals(one, rows)
    x = torch.cat([batch[0] for batch in one.batches()])[rows]
    with torch.no_grad():
        z = model[0](x)
        out = model(x)
    for found, entering, leaving in ((first, x, z), (last, torch.tanh(z), out)):
        cosine = nn.functional.normalize(leaving) @ nn.functional.normalize(leaving).T
        pairs = cosine[~torch.eye(len(rows), dtype=torch.bool)]
        assert found.input_square == pytest.approx(float(entering.square().mean()))
        assert found.variance == pytest.approx(float(leaving.square().mean()))
        assert found.correlation == pytest.approx(float(pairs.mean()))
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    assert first.weight_variance == pytest.approx(5 * float(weight.detach().square().mean()))
    assert (first.activation, first.plain) == ("tanh", True)
    assert (last.activation, last.plain) == ("", False)


@pytest.mark.parametrize("size", [3, 20])
def test_the_batch_size_does_not_matter(size: int) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    found = layer_signals(specimen(model, size), torch.arange(20))
    other = layer_signals(specimen(model, 7), torch.arange(20))
    for a, b in zip(found, other, strict=True):
        assert (a.variance, a.correlation) == pytest.approx((b.variance, b.correlation), rel=1e-12)


@pytest.mark.parametrize(
    ("between", "plain"),
    [
        ([nn.ReLU(inplace=True)], True),
        ([nn.ReLU(), nn.Dropout(0.5)], True),
        ([], True),
        ([nn.LayerNorm(8), nn.ReLU()], False),
        ([nn.ReLU(), nn.LayerNorm(8)], False),
    ],
)
def test_what_lies_between_two_layers(between: list[nn.Module], plain: bool) -> None:
    found = layer_signals(
        specimen(nn.Sequential(nn.Linear(5, 8), *between, nn.Linear(8, 3))), torch.arange(20)
    )
    assert found[0].plain is plain


def test_shortcuts_and_pooling_are_not_plain() -> None:
    assert not any(
        one.plain for one in layer_signals(ZOO["reused_submodule"].specimen().prepared(), torch.arange(9))
    )


def test_sequences_padded_batch_by_batch_are_refused() -> None:
    with pytest.raises(NotApplicableError, match="one shape"):
        layer_signals(ZOO["padded_batches"].specimen().prepared(), torch.arange(24))
    assert layer_signals(ZOO["no_parameters"].specimen().prepared(), torch.arange(4)) == []
