"""Networks for which formulas of our own would be wrong or refuse: they get PyTorch's, and exact products."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradgradcheck
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from torchstone.objectives import Regression
from torchstone.operators import GaussNewton, Hessian, InputJacobian, ParameterJacobian
from torchstone.operators.efficient_derivatives import DerivativesOfAnyOrder, EfficientDerivatives
from torchstone.specimen import Specimen
from torchstone.testing.dense import dense_gauss_newton, dense_hessian


class Parts(nn.Module):
    """A function of two layers, a normalisation, a convolution and the input."""

    def __init__(self, function: Callable[[Parts, Tensor], Tensor]) -> None:
        super().__init__()
        self.into, self.inner, self.read = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.norm, self.conv, self.function = nn.LayerNorm(4), nn.Conv1d(1, 2, 2), function
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.double().parameters():
                parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.function(self, self.into(x)))


def force(energy: Callable[[Parts, Tensor], Tensor]) -> Callable[[Parts, Tensor], Tensor]:
    """The gradient of an energy, as in networks for forces."""

    def function(parts: Parts, x: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(energy(parts, at), at, create_graph=True)[0]

    return function


def pushed(parts: Parts, x: Tensor) -> Tensor:
    """A derivative along a vector by two backward passes."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        value = functional.softplus(parts.inner(at))
        u = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, at, u, create_graph=True)
        return x + torch.autograd.grad(pulled, u, torch.ones_like(at), create_graph=True)[0]


def backward_inside(parts: Parts, x: Tensor) -> Tensor:
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        functional.softplus(parts.inner(at)).sum().backward(inputs=[at], create_graph=True)
    assert at.grad is not None
    return x + at.grad


def overwritten(_: Parts, x: Tensor) -> Tensor:
    y = torch.tanh(x)
    x.zero_()
    return y


DIFFERENTIATED: dict[str, Callable[[Parts, Tensor], Tensor]] = {
    "of an activation": force(lambda parts, x: functional.softplus(parts.inner(x)).sum()),
    "of a normalisation": force(lambda parts, x: parts.norm(x)[:, 0].sum()),
    "of a convolution": force(lambda parts, x: parts.conv(x[:, None]).sum(1).mul(x[:, 1:].detach()).sum()),
    "of a softmax": force(lambda parts, x: parts.inner(x).softmax(1)[:, 0].sum()),
    "along a vector": pushed,
}
LEFT: dict[str, Callable[[Parts, Tensor], Tensor]] = {
    **DIFFERENTIATED,
    "swish in place": lambda _, x: x.mul_(x.sigmoid()),
    "overwritten input": overwritten,
    "checkpointing": lambda parts, x: checkpoint(
        lambda t: torch.tanh(parts.norm(parts.inner(t))), x, use_reentrant=False
    ),
    "forward mode": lambda parts, x: torch.func.jvp(lambda t: functional.gelu(parts.inner(t)), (x,), (x,))[1],
}


def specimen_of(function: Callable[[Parts, Tensor], Tensor]) -> Specimen:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (3, 2))
    return Specimen(Parts(function), Regression(), (x, y), batch_size=3).prepared()


@pytest.mark.parametrize("kind", LEFT)
def test_products_are_those_of_the_dense_matrices(kind: str) -> None:
    specimen = specimen_of(LEFT[kind])
    for operator, dense in ((Hessian, dense_hessian), (GaussNewton, dense_gauss_newton)):
        for memory in (2**30, 0):
            found = operator(specimen, memory_bytes=memory).to_dense()
            with DerivativesOfAnyOrder():  # PyTorch's third derivative of a layer normalisation is wrong
                exact = dense(specimen)
            torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
@pytest.mark.parametrize("kind", [*LEFT, "backward"])
def test_jacobians_are_those_of_autograd(kind: str) -> None:
    specimen = specimen_of(LEFT.get(kind, backward_inside))
    x = next(specimen.batches())[0].clone().requires_grad_()
    outputs = specimen.model(x)
    rows = lambda inputs: torch.stack(
        [
            torch.cat(
                [
                    t.flatten()
                    for t in torch.autograd.grad(one, inputs, retain_graph=True, materialize_grads=True)
                ]
            )
            for one in outputs.flatten()
        ]
    )
    used = [name for name, p in specimen.trainable.items() if not name.startswith(("inner", "norm", "conv"))]
    parameters = [specimen.trainable[name] for name in used]
    exact = rows(parameters)
    for memory in (2**30, 0):
        found = ParameterJacobian(specimen, names=used, memory_bytes=memory)
        torch.testing.assert_close(found.to_dense()[: len(exact)], exact, rtol=1e-9, atol=1e-11)
    if kind not in DIFFERENTIATED and kind != "backward":
        found = InputJacobian(specimen)
        torch.testing.assert_close(found.to_dense()[:6, :9], rows([x]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_a_layer_norm_of_any_order(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    x, weight = (torch.randn(size, generator=generator).double() for size in ((2, 3, 4), shape))
    leaves = (x.requires_grad_(), weight.requires_grad_())

    def force(x: Tensor, weight: Tensor) -> Tensor:
        with DerivativesOfAnyOrder():
            value = functional.layer_norm(x, shape, weight, bias=weight, eps=0.1)
        return torch.autograd.grad(value.sin().sum(), x, create_graph=True)[0]

    with DerivativesOfAnyOrder():
        mine = functional.layer_norm(x, shape, weight, weight, 0.1)
    torch.testing.assert_close(mine, functional.layer_norm(x, shape, weight, weight, 0.1))
    assert gradgradcheck(force, leaves, atol=1e-4)


def test_only_such_networks_do_without_efficient_formulas() -> None:
    plain, forces = specimen_of(lambda _, x: x.tanh()), specimen_of(DIFFERENTIATED["of an activation"])
    for specimen, efficient in ((plain, True), (forces, False)):
        for operator in (Hessian, GaussNewton, ParameterJacobian):
            matrix = operator(specimen)
            matrix.matvec(torch.ones(matrix.shape[1], dtype=torch.float64))
            assert matrix._graphs.efficient is efficient


def test_differentiating_inside_is_noticed() -> None:
    x = torch.ones(2, requires_grad=True)
    y = x.square().sum()
    calls = (
        lambda: torch.autograd.grad(y, x),
        lambda: torch.autograd.backward(y),
        lambda: y.backward(),
    )
    for call in calls:
        with EfficientDerivatives(linear=True), pytest.raises(RuntimeError, match="differentiates itself"):
            call()


class Photograph(nn.Module):
    """Normalisations and an activation of images in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.norm, self.read = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.double().parameters():
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        h = functional.silu(self.norm(self.into(x.contiguous(memory_format=torch.channels_last))))
        h = functional.layer_norm(h, h.shape[1:]).softmax(1)
        return self.read(h).tanh().mean((2, 3))


@pytest.mark.parametrize("examples", [1, 2, 3])  # in batches of two, so that one is of a single example
def test_columns_at_once_of_images_in_channels_last(examples: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(examples, *shape, generator=generator).double() for shape in ((2, 4, 4), (2,)))
    specimen = Specimen(Photograph(), Regression(), (x, y), batch_size=2).prepared()
    for operator, dense in ((Hessian, dense_hessian), (GaussNewton, dense_gauss_newton)):
        torch.testing.assert_close(operator(specimen).to_dense(), dense(specimen), rtol=1e-9, atol=1e-11)
