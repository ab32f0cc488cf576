"""The projection on a span, and where gradient descent on linear autoencoders ends."""

import pytest
import torch

from torchstone.errors import NumericalError, SettingError
from torchstone.memory import linear_autoencoder_limit, span_projection


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 3, 10, 30])
def test_it_is_the_product_with_the_pseudo_inverse(count: int):
    x = drawn(count, 10)
    expected = x.T @ torch.linalg.pinv(x.T)
    assert torch.allclose(span_projection(x), expected, atol=1e-12)


def test_it_is_a_symmetric_idempotent_of_the_span_s_rank_that_keeps_every_example():
    x = torch.cat([drawn(4, 9), drawn(4, 9)])  # rank 4: every example twice
    P = span_projection(x)
    assert torch.allclose(P, P.T, atol=1e-14)
    assert torch.allclose(P @ P, P, atol=1e-13)
    assert float(P.trace()) == pytest.approx(4)
    assert torch.allclose(x @ P.T, x, atol=1e-12)


def test_scales_do_not_matter_and_zero_spans_nothing():
    x = drawn(3, 5)
    assert torch.allclose(span_projection(1e-150 * x), span_projection(x), atol=1e-12)
    assert torch.equal(span_projection(torch.zeros(2, 3)), torch.zeros(3, 3, dtype=torch.float64))


@pytest.mark.parametrize("from_zero", [True, False])
def test_gradient_descent_ends_there(from_zero: bool):
    x, start = drawn(3, 6), drawn(6, 6, seed=1)
    W = torch.zeros(6, 6, dtype=torch.float64) if from_zero else start.clone()
    rate = 1 / torch.linalg.matrix_norm(x, 2).square()
    for _ in range(3000):
        W = W - rate * (W @ x.T - x.T) @ x
    limit = linear_autoencoder_limit(x, None if from_zero else start)
    assert float((W - limit).norm()) < 1e-10


def test_one_example_has_the_closed_form():
    x, start, other = drawn(1, 7), drawn(7, 7, seed=1), drawn(7, seed=2)
    along = (other @ x[0]) / x[0].square().sum()
    expected = along * x[0] + start @ (other - along * x[0])
    assert torch.allclose(linear_autoencoder_limit(x, start) @ other, expected, atol=1e-12)


def test_what_it_refuses():
    with pytest.raises(SettingError, match="examples must be a matrix"):
        span_projection(torch.zeros(3))
    with pytest.raises(SettingError, match="start must be a matrix"):
        linear_autoencoder_limit(torch.ones(2, 3), torch.ones(2, 2))
    with pytest.raises(NumericalError, match="examples must be finite"):
        span_projection(torch.tensor([[float("nan")]]))
