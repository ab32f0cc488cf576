"""Softmax cross-entropy and its derivatives against automatic differentiation, exact arithmetic and torch."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.losses import (
    softmax_cross_entropy,
    softmax_cross_entropy_gradient,
    softmax_cross_entropy_hessian,
    softmax_cross_entropy_hessian_product,
)


def problem(seed: int, examples: int, classes: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits and probability targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(examples, classes, generator=generator, dtype=torch.float64)
    targets = torch.rand(examples, classes, generator=generator, dtype=torch.float64)
    return logits, targets / targets.sum(1, keepdim=True)


def independent_loss(z: Tensor, t: Tensor) -> Tensor:
    """The textbook form -sum t log y for one example, for automatic differentiation."""
    return -(t * torch.log(torch.exp(z) / torch.exp(z).sum())).sum()


def second_derivative(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor, t: Tensor) -> Tensor:
    """Reverse mode twice."""
    return torch.func.jacrev(torch.func.jacrev(loss))(z, t)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 12), st.sampled_from([1e-3, 1.0, 4.0]))
@settings(max_examples=25, deadline=None)
def test_gradient_and_hessian_are_those_of_automatic_differentiation(seed, examples, classes, scale):
    logits, targets = problem(seed, examples, classes, scale)
    gradient = softmax_cross_entropy_gradient(logits, targets)
    hessian = softmax_cross_entropy_hessian(logits)
    for z, t, g, h in zip(logits, targets, gradient, hessian, strict=True):
        assert (torch.func.grad(independent_loss)(z, t) - g).abs().max() < 1e-10
        assert (second_derivative(independent_loss, z, t) - h).abs().max() < 1e-10


def test_own_loss_can_be_differentiated_twice():
    logits, targets = problem(0, 1, 6)
    z, t = logits[0], targets[0]
    assert torch.allclose(
        torch.func.grad(softmax_cross_entropy)(z, t), softmax_cross_entropy_gradient(z, t), atol=1e-12
    )
    assert torch.allclose(
        second_derivative(softmax_cross_entropy, z, t), softmax_cross_entropy_hessian(z), atol=1e-12
    )


def test_loss_equals_torch_for_indices_and_probabilities():
    logits, targets = problem(1, 40, 7)
    labels = targets.argmax(1)
    assert torch.allclose(
        softmax_cross_entropy(logits, labels), F.cross_entropy(logits, labels, reduction="none")
    )
    assert torch.allclose(
        softmax_cross_entropy(logits, targets), F.cross_entropy(logits, targets, reduction="none")
    )
    assert torch.equal(
        softmax_cross_entropy_gradient(logits, labels),
        softmax_cross_entropy_gradient(logits, F.one_hot(labels, 7).double()),
    )


def test_weights_that_do_not_sum_to_one_scale_gradient_and_hessian():
    logits, targets = problem(2, 1, 5)
    z, t = logits[0], 2.5 * targets[0]
    assert torch.allclose(
        torch.func.grad(independent_loss)(z, t), softmax_cross_entropy_gradient(z, t), atol=1e-11
    )
    assert torch.allclose(
        second_derivative(independent_loss, z, t), softmax_cross_entropy_hessian(z, t), atol=1e-11
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_finite_and_exact_at_huge_logits(dtype, size):
    logits = torch.tensor([[size, 0.0, -size], [0.0, size, size]], dtype=dtype)
    losses = softmax_cross_entropy(logits, torch.tensor([2, 1]))
    assert losses.tolist() == pytest.approx([2 * size, math.log(2)], rel=1e-6)
    gradient = softmax_cross_entropy_gradient(logits, torch.tensor([2, 1]))
    assert torch.allclose(gradient, torch.tensor([[1.0, 0, -1], [0, -0.5, 0.5]], dtype=dtype))
    assert bool(softmax_cross_entropy_hessian(logits).isfinite().all())


def test_masked_classes_add_nothing():
    logits = torch.tensor([1.0, -math.inf, 0.5], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0.3, 0.0, 0.7], dtype=torch.float64)
    kept = torch.tensor([True, False, True])
    loss = softmax_cross_entropy(logits, targets)
    assert torch.allclose(loss, softmax_cross_entropy(logits[kept], targets[kept]))
    [gradient] = torch.autograd.grad(loss, logits)
    assert torch.allclose(gradient, softmax_cross_entropy_gradient(logits, targets).detach())
    assert float(gradient[1]) == 0.0
    assert float(softmax_cross_entropy(logits, torch.tensor(1)).detach()) == math.inf


def test_does_not_change_when_a_constant_is_added_to_every_logit():
    logits, targets = problem(3, 8, 5)
    moved = logits + 1000.0
    for function in (softmax_cross_entropy, softmax_cross_entropy_gradient, softmax_cross_entropy_hessian):
        assert torch.allclose(function(logits, targets), function(moved, targets), atol=1e-11)


def test_hessian_is_positive_semidefinite_with_the_constants_as_kernel():
    logits, _ = problem(4, 10, 6)
    hessian = softmax_cross_entropy_hessian(logits)
    values = torch.linalg.eigvalsh(hessian)
    assert float(values.min()) > -1e-15
    assert bool((values[:, 1] > 1e-6).all())  # the kernel is one-dimensional
    assert float((hessian @ torch.ones(6, dtype=torch.float64)).abs().max()) < 1e-15


def test_hessian_products_match_the_dense_hessian():
    logits, targets = problem(5, 9, 6)
    vectors, _ = problem(6, 9, 6)
    for weights in (None, 3 * targets, targets.argmax(1)):
        dense = softmax_cross_entropy_hessian(logits, weights) @ vectors[..., None]
        found = softmax_cross_entropy_hessian_product(logits, vectors, weights)
        assert torch.allclose(found, dense[..., 0], atol=1e-14)


def test_any_leading_shape_and_no_examples():
    logits = torch.zeros(2, 3, 4)
    assert softmax_cross_entropy(logits, torch.zeros(2, 3, dtype=torch.long)).shape == (2, 3)
    assert softmax_cross_entropy(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert softmax_cross_entropy_hessian(logits).shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(2, 0), torch.zeros(2, 0), "logits must be floating point"),
        (torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long), "Pass one score a class"),
        (
            torch.zeros(2, 3),
            torch.zeros(3, dtype=torch.long),
            "targets must be integer classes of shape \\(2,\\)",
        ),
        (torch.zeros(2, 3), torch.zeros(2), "got torch.float32 of shape \\(2,\\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "between 0 and 2; got 0 to 3. Drop or renumber"),
        (torch.zeros(2, 3), torch.tensor([-100, 1]), "got -100 to 1"),
    ],
)
def test_refuses_targets_that_fit_no_logits(logits, targets, message):
    with pytest.raises(SettingError, match=message):
        softmax_cross_entropy(logits, targets)
