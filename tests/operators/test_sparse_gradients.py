"""Embeddings with sparse gradients: every operator is that of the same network with dense ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.objectives import Classification
from torchstone.operators import GaussNewton, Hessian, ParameterJacobian, gradient_gram, ntk
from torchstone.specimen import Specimen

TOKENS = torch.randint(20, (12, 5), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


class Words(nn.Module):
    """A mean of embeddings, by a bag or by hand, and a layer."""

    def __init__(self, bag: bool, sparse: bool) -> None:
        super().__init__()
        self.bag = bag
        self.table = nn.EmbeddingBag(20, 4, sparse=sparse) if bag else nn.Embedding(20, 4, sparse=sparse)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.table(tokens)
        return self.head(torch.tanh(found if self.bag else found.mean(1)))


def pair(bag: bool) -> tuple[Specimen, Specimen]:
    sparse, dense = Words(bag, sparse=True).double(), Words(bag, sparse=False).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for a, b in zip(sparse.parameters(), dense.parameters(), strict=True):
            a.copy_(torch.randn(a.shape, generator=generator, dtype=a.dtype))
            b.copy_(a)
    first, second = (
        Specimen(model, Classification(), (TOKENS, LABELS), batch_size=5) for model in (sparse, dense)
    )
    return first, second


@pytest.mark.parametrize("bag", [True, False])
def test_operators_are_those_of_dense_gradients(bag: bool) -> None:
    sparse, dense = pair(bag)
    for operator in (Hessian, GaussNewton, ParameterJacobian):
        found, expected = operator(sparse).to_dense(), operator(dense).to_dense()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(gradient_gram(sparse).matrix, gradient_gram(dense).matrix)
    torch.testing.assert_close(ntk(sparse).matrix, ntk(dense).matrix)


@pytest.mark.parametrize("bag", [True, False])
def test_gradients_are_dense(bag: bool) -> None:
    sparse, dense = pair(bag)
    for name, gradient in sparse.gradient().items():
        assert gradient.layout == torch.strided
        torch.testing.assert_close(gradient, dense.gradient()[name])
