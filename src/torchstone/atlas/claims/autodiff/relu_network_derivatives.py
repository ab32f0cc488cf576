r"""The derivatives of a ReLU network written down: products of its weights and of masks.

f(x) = A_L ReLU(A_{L-1} ... ReLU(A_1 x)) has the Jacobian A_L D_{L-1} A_{L-1} ... D_1 A_1; its derivative in column j of A_i
is B u_j with B = A_L D_{L-1} ... D_i and u the vector that A_i multiplies; a squared loss scales both by f(x) - y.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.autodiff import backpropagation, chain_of, jacobian_product, weight_column_derivative
from torchstone.autodiff.operation import SquaredLoss
from torchstone.details import Table

SIZES = (5, 8, 7, 6, 1)


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """ReLU networks."""
    return experiment(scale, generator, leak=0.0)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """A leak of 0.1 that the masks do not know of."""
    return experiment(scale, generator, leak=0.1)


def experiment(scale: Scale, generator: torch.Generator, leak: float) -> Evidence:
    """The three formulas against PyTorch, for every layer and column of random networks."""
    networks = 20 if scale is Scale.QUICK else 1000
    errors = torch.zeros(3, len(SIZES) - 1, dtype=torch.float64)
    for _ in range(networks):
        weights = [
            torch.randn(after, before, generator=generator, dtype=torch.float64)
            for before, after in pairwise(SIZES)
        ]
        x = torch.randn(SIZES[0], generator=generator, dtype=torch.float64)
        y = torch.randn(1, generator=generator, dtype=torch.float64)
        errors = torch.maximum(errors, one_network(weights, x, y, leak))
    names = ("Jacobian in the input", "derivative in weight columns", "squared loss in weight columns")
    return Evidence.all_of(
        *(
            Evidence.at_most(f"{name}, largest error", row.max(), 1e-10)
            for name, row in zip(names, errors, strict=True)
        ),
        figures=(error_table(errors, names),),
    )


def one_network(weights: list[Tensor], x: Tensor, y: Tensor, leak: float) -> Tensor:
    """Largest errors (formula, layer)."""

    def network(*weights: Tensor, x: Tensor = x) -> Tensor:
        for weight in weights[:-1]:
            x = torch.nn.functional.leaky_relu(weight @ x, leak)
        return weights[-1] @ x

    leaves = [weight.clone().requires_grad_(True) for weight in weights]
    output = network(*leaves)
    columns = torch.autograd.grad(output.sum(), leaves, retain_graph=True)
    scaled = torch.autograd.grad((output - y).square().sum() / 2, leaves)
    jacobian = torch.func.jacrev(lambda x: network(*weights, x=x))(x)
    assert isinstance(jacobian, Tensor)
    by_loss = backpropagation([*chain_of(weights), SquaredLoss(y)], x)
    found = torch.zeros(3, len(weights), dtype=torch.float64)
    found[0] = (jacobian_product(weights, x) - jacobian).abs().max()
    for i in range(len(weights)):
        width = weights[i].shape[1]
        closed = torch.cat([weight_column_derivative(weights, x, i + 1, j).T for j in range(width)], dim=1)
        found[1, i] = (closed - columns[i]).abs().max()
        # Column j: (f(x) - y) B u_j; here Lambda behind A_i already carries the residual.
        loss_columns = by_loss.jacobians[2 * i + 1].T * by_loss.values[2 * i]
        found[2, i] = (loss_columns - scaled[i]).abs().max()
    return found


def error_table(errors: Tensor, names: tuple[str, ...]) -> Table:
    """By layer."""
    rows = tuple((i + 1, *(float(error) for error in errors[:, i])) for i in range(errors.shape[1]))
    return Table("Largest error of the closed forms", ("layer", *names), rows, "Rounding of float64.")


CLAIM = Claim(
    id="relu_network_derivatives",
    theme=Theme.AUTODIFF,
    title="A ReLU network's derivatives are products of weights and masks",
    statement=(
        "The Jacobian of a ReLU network is A_L D_{L-1} A_{L-1} ... D_1 A_1, its derivative in column j of A_i is B u_j "
        "with B = A_L D_{L-1} ... D_i, and the squared loss multiplies these by the residual."
    ),
    source="Hardt & Recht 2022, chapter 7, a worked out example",
    assumptions=("No unit's input is exactly 0.", "One output for the loss."),
    refuted_by="an entry that differs from automatic differentiation by 1e-10 or more",
    run=run,
    counterexample=counterexample,
    rows=("A05",),
)
