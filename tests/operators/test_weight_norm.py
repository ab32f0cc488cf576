"""Weight normalisation, whose fused kernel has a wrong second derivative in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import NumericalError
from torchstone.objectives import Classification
from torchstone.operators.hessian import Hessian
from torchstone.operators.trace import hessian_trace
from torchstone.specimen import Specimen
from torchstone.testing import dense_hessian


class ByHand(nn.Module):
    """tanh and a head on x (g v / |v|)^T + b, with v and g in the order in which PyTorch registers them."""

    def __init__(self, b: Tensor, g: Tensor, v: Tensor, head: nn.Module) -> None:
        super().__init__()
        self.b, self.g, self.v = (nn.Parameter(one.detach().clone()) for one in (b, g, v))
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        weight = self.v * self.g / self.v.square().sum(1, keepdim=True).sqrt()
        return self.head(torch.tanh(x @ weight.T + self.b))


def old_way(layer: nn.Linear) -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


def specimens(normalise: Callable[[nn.Linear], nn.Module]) -> tuple[Specimen, Specimen]:
    """The same network with PyTorch's weight normalisation and with the formula written out."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    first = normalise(nn.Linear(4, 5).double())
    model = nn.Sequential(first, nn.Tanh(), nn.Linear(5, 3).double())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(draw(*parameter.shape))
    data = draw(20, 4), torch.arange(20) % 3
    b, g, v = first.parameters()
    by_hand = ByHand(b, g, v, model[2])
    return tuple(Specimen(one, Classification(), data, batch_size=7) for one in (model, by_hand))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("normalise", [nn.utils.parametrizations.weight_norm, old_way])
def test_products_and_trace_are_those_of_the_formula(normalise: Callable[[nn.Linear], nn.Module]) -> None:
    normalised, by_hand = specimens(normalise)
    exact = dense_hessian(by_hand)
    hessian = Hessian(normalised)
    assert torch.allclose(hessian @ torch.eye(len(exact), dtype=torch.float64), exact, atol=1e-12)
    assert hessian.how == "double backward"
    found = hessian_trace(normalised, generator=torch.Generator().manual_seed(0))
    assert float(found.value) == pytest.approx(float(exact.trace()), rel=1e-10)


def test_pytorchs_own_second_derivative_is_still_wrong() -> None:
    """When this fails, PyTorch has mended it and the detour can go."""
    normalised, _ = specimens(nn.utils.parametrizations.weight_norm)
    with pytest.raises(NumericalError, match="must be symmetric"):
        dense_hessian(normalised)
