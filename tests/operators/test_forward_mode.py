"""J v in forward mode: right where it is taken, refused where it would be wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.objectives import Regression
from torchstone.operators import GaussNewton
from torchstone.operators.forward_mode import DISAGREE, FORWARD_MODE
from torchstone.specimen import Specimen
from torchstone.testing.networks import Tied


class Convolutional(nn.Module):
    """68,000 numbers, of which a scale may be computed out of sight of autograd."""

    def __init__(self, hidden: str = "") -> None:
        super().__init__()
        self.first, self.hidden = nn.Conv2d(1, 8, 3), hidden
        self.middle, self.last = nn.Linear(8 * 36, 232), nn.Linear(232, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.tanh(self.first(x)).flatten(1)
        scale = torch.ones((), dtype=x.dtype)
        if self.hidden == "no_grad":
            with torch.no_grad():
                scale = self.first.weight.square().mean()
        if self.hidden == "detached":
            scale = self.first.weight.square().mean().detach()
        if self.hidden == "custom":
            features = Doubled.apply(features)
        return self.last(self.middle(features * (1 + scale)).relu())


class Doubled(torch.autograd.Function):
    """A user's function with a backward pass and no forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.factor = 2.0
        return ctx.factor * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.factor * gradient


def specimen(model: nn.Module, dtype: torch.dtype = torch.float64) -> Specimen:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
    x = torch.randn(5, 1, 8, 8, generator=generator)
    data = (x.to(dtype), torch.randn(5, 4, generator=generator).to(dtype))
    return Specimen(model.to(dtype), Regression(), data, batch_size=3).prepared()


def reference(given: Specimen, X: Tensor) -> Tensor:
    """(1/N) sum_n J_n^T (2/C) J_n X from the rows of J, one backward pass each."""
    parameters = list(given.model.parameters())
    total = torch.zeros_like(X)
    for batch in given.batches():
        outputs = given.forward(batch)
        for one in outputs.flatten():
            rows = torch.autograd.grad(one, parameters, retain_graph=True, materialize_grads=True)
            row = torch.cat([part.flatten() for part in rows])
            total += 2 / outputs[0].numel() * torch.outer(row, row @ X)
    return total / given.size()


@pytest.mark.parametrize(
    ("hidden", "way"), [("", FORWARD_MODE), ("detached", FORWARD_MODE), ("no_grad", DISAGREE), ("custom", "")]
)
def test_products_are_those_of_the_rows_of_the_jacobian(hidden: str, way: str) -> None:
    given = specimen(Convolutional(hidden))
    G = GaussNewton(given)
    X = torch.randn(G.shape[0], 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(G.matmat(X), reference(given, X), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(G.matvec(X[:, 0]), G.matmat(X)[:, 0])
    if way == FORWARD_MODE:
        assert G.how.endswith(FORWARD_MODE)
    else:
        assert FORWARD_MODE not in G.how
        assert way in G._forward_mode.refused


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    G = GaussNewton(specimen(Convolutional().to(dtype), dtype))
    exact = GaussNewton(specimen(Convolutional()))
    x = torch.randn(G.shape[0], generator=torch.Generator().manual_seed(1))
    expected = exact.matvec(x.double())
    error = (G.matvec(x) - expected).norm() / expected.norm()
    assert float(error) < (1e-5 if dtype == torch.float32 else 0.1)
    assert G.how.endswith(FORWARD_MODE) == (dtype == torch.float32)  # bfloat16 makes it a small network


def test_a_layer_under_two_names_over_several_batches() -> None:
    model = Convolutional()
    model.again = model.middle  # pyright: ignore[reportAttributeAccessIssue]
    some = specimen(model)
    forward, backward = GaussNewton(some), GaussNewton(some)
    backward._forward_mode._pays = False
    v = torch.randn(forward.shape[0], generator=torch.Generator().manual_seed(1)).double()
    product = forward.matvec(v)
    assert FORWARD_MODE in forward.how
    assert torch.allclose(product, backward.matvec(v), rtol=1e-10, atol=1e-12 * float(product.abs().max()))
    assert model.again is model.middle
    assert isinstance(model.middle.weight, nn.Parameter)


def test_blocks_and_updated_weights() -> None:
    given = specimen(Convolutional())
    block = GaussNewton(given, names=["first.weight", "first.bias"])
    whole = GaussNewton(given)
    x = torch.randn(80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    embedded = torch.cat([x, x.new_zeros(whole.shape[0] - 80)])
    torch.testing.assert_close(block.matvec(x), whole.matvec(embedded)[:80])
    before = whole.matvec(embedded)
    with torch.no_grad():
        given.model.get_parameter("last.weight").mul_(2)
    torch.testing.assert_close(whole.matvec(embedded)[:80], reference(given, embedded[:, None])[:80, 0])
    assert not torch.equal(before, whole.matvec(embedded))


def test_an_operation_that_is_refused_later_leaves_the_double_backward() -> None:
    given = specimen(Convolutional())
    G = GaussNewton(given)
    X = torch.randn(G.shape[0], 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first = G.matmat(X)
    assert isinstance(given.model, Convolutional)
    given.model.hidden = "custom"
    with torch.no_grad():  # as by a user who edits the network and its weights
        given.model.get_parameter("last.weight").mul_(0.5)
    torch.testing.assert_close(G.matmat(X), reference(given, X), rtol=1e-9, atol=1e-12)
    assert FORWARD_MODE not in G.how
    assert not torch.equal(first, G.matmat(X))


def test_dense_networks_differentiate_the_pull_back() -> None:
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    G = GaussNewton(Specimen(Tied(), Regression(), (x, torch.zeros(6, 3))).prepared())
    G.matvec(torch.ones(G.shape[0]))
    assert FORWARD_MODE not in G.how
