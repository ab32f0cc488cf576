"""Exact matrices by plain automatic differentiation, one row at a time: slow, small and obviously right.

All are of the empirical risk (the mean loss over the training set) in the trainable parameters, flattened in the order of
`Specimen.trainable`. Use float64 specimens: the matrices are as exact as the network's own arithmetic.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.specimen import Specimen


def dense_gradient(specimen: Specimen) -> Tensor:
    """Gradient of the empirical risk, shape (P,)."""
    return per_example_gradients(specimen).mean(0)


def per_example_gradients(specimen: Specimen) -> Tensor:
    """Gradient of each training example's loss, shape (N, P)."""
    rows = []
    with specimen.measuring(), torch.enable_grad():
        for batch in specimen.batches("train"):
            losses = specimen.losses(specimen.forward(batch), batch)
            rows += [_flat(specimen, loss) for loss in losses]
    return torch.stack(rows)


def dense_jacobian(specimen: Specimen) -> Tensor:
    """Jacobian of the outputs, shape (N, K, P) with K numbers an example."""
    rows = []
    with specimen.measuring(), torch.enable_grad():
        for batch in specimen.batches("train"):
            outputs = specimen.forward(batch)
            rows += [torch.stack([_flat(specimen, one) for one in row.reshape(-1)]) for row in outputs]
    return torch.stack(rows)


def dense_input_jacobian(specimen: Specimen) -> Tensor:
    """Jacobian of each training example's outputs in its own input, shape (N, K, D), for networks that do not mix examples."""
    blocks = []
    with specimen.measuring(), torch.enable_grad():
        for batch in specimen.batches("train"):
            inputs = specimen.objective.inputs(batch)
            assert inputs is not None
            leaf = inputs.detach().clone().requires_grad_(True)
            outputs = specimen.forward(specimen.objective.with_inputs(batch, leaf * 1))
            for row, one in enumerate(outputs):
                rows = [
                    torch.autograd.grad(y, leaf, retain_graph=True, materialize_grads=True)[0][row]
                    for y in one.reshape(-1)
                ]
                blocks.append(torch.stack(rows).flatten(1))
    return torch.stack(blocks)


def dense_hessian(specimen: Specimen) -> Tensor:
    """Hessian of the empirical risk, shape (P, P), as the Jacobian of the gradient.

    Raises:
        NumericalError: It is not symmetric: some operation's second derivative is wrong or missing.
    """
    total = torch.zeros(())
    parameters = tuple(specimen.trainable.values())
    with specimen.measuring(), torch.enable_grad(), _differentiable_attention():
        for batch in specimen.batches("train"):
            loss = specimen.losses(specimen.forward(batch), batch).sum() / specimen.size("train")
            gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
            flat = torch.cat([part.reshape(-1) for part in gradient])
            rows = [
                _flat(specimen, entry) if entry.requires_grad else torch.zeros_like(flat) for entry in flat
            ]
            total = total + torch.stack(rows).detach()
    asymmetry = float((total - total.T).norm())
    if asymmetry > torch.finfo(total.dtype).eps ** 0.5 * float(total.norm()):
        raise NumericalError(
            "The matrix of second derivatives must be symmetric",
            f"an asymmetry of {asymmetry:.2g} against a norm of {float(total.norm()):.2g}",
            "Look for custom autograd functions, or kernels such as torch._weight_norm that cannot be derived twice.",
        )
    return total


def dense_gauss_newton(specimen: Specimen) -> Tensor:
    r"""Generalised Gauss-Newton matrix (1/N) sum_n J_n^T H_n J_n, H_n the Hessian of loss n in its outputs, (P, P)."""
    total, start = torch.zeros(()), 0
    jacobian = dense_jacobian(specimen)
    with specimen.measuring():
        for batch in specimen.batches("train"):
            outputs = specimen.forward(batch).detach()
            for row in range(len(outputs)):

                def loss(
                    values: Tensor, row: int = row, outputs: Tensor = outputs, batch: object = batch
                ) -> Tensor:
                    changed = torch.cat(
                        [outputs[:row], values.reshape(outputs[row : row + 1].shape), outputs[row + 1 :]]
                    )
                    return specimen.losses(changed, batch)[row]

                size = outputs[row].numel()
                curvature = torch.autograd.functional.hessian(loss, outputs[row].reshape(-1))
                assert isinstance(curvature, Tensor)
                one = jacobian[start + row]
                total = total + one.T @ curvature.reshape(size, size) @ one
            start += len(outputs)
    return total / specimen.size("train")


def dense_fisher(specimen: Specimen, kind: Literal["true", "empirical"] = "true") -> Tensor:
    r"""Fisher information of the predicted class, (1/N) sum_n sum_c p_nc g_nc g_nc^T with g_nc the gradient of log p_nc, (P, P).

    "empirical" takes the gradient of each observed loss instead of the expectation over classes c.

    Raises:
        SettingError: "true" for an objective without scores of classes.
    """
    if kind == "empirical":
        rows = per_example_gradients(specimen)
        return rows.T @ rows / len(rows)
    total = torch.zeros(())
    with specimen.measuring(), torch.enable_grad():
        for batch in specimen.batches("train"):
            scores = specimen.objective.scores(specimen.forward(batch))
            if scores is None:
                raise SettingError(
                    "The dense Fisher matrix goes through the classes",
                    f"{type(specimen.objective).__name__} without scores",
                    'Pass kind="empirical", or use dense_gauss_newton.',
                )
            for entry in scores.log_softmax(1).reshape(-1):
                gradient = _flat(specimen, entry)
                total = total + entry.detach().exp() * gradient[:, None] * gradient
    return total / specimen.size("train")


def dense_gradient_covariance(specimen: Specimen) -> Tensor:
    """Covariance (1/N) sum_n (g_n - g)(g_n - g)^T of single examples' gradients, (P, P)."""
    rows = per_example_gradients(specimen)
    rows = rows - rows.mean(0)
    return rows.T @ rows / len(rows)


def _flat(specimen: Specimen, value: Tensor) -> Tensor:
    parameters = tuple(specimen.trainable.values())
    gradient = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in gradient])


def _differentiable_attention() -> AbstractContextManager[Any]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)  # the fused kernels have no second derivative
