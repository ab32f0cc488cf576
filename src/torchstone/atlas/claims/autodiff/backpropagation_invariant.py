r"""Why backpropagation is right: Lambda_i is the derivative of the output in z_i, at every i.

Lambda_L = I, and if Lambda_i = D_{z_i} z_L(v_i), then Lambda_{i-1} = Lambda_i D f_i(v_{i-1}) = D_{z_{i-1}} z_L(v_{i-1}) by
the chain rule. The Jacobian D f of f: R^n -> R^m is the m x n matrix here: only so is D(Au + b) = A and Lambda_i D f_i
a product of matrices. With the n x m convention both would need a transpose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.autodiff import Affine, Elementwise, Operation, backpropagation, check_invariant
from torchstone.autodiff.backpropagation import forward
from torchstone.autodiff.operation import RELU, SIGMOID, SINE, SOFTPLUS, TANH
from torchstone.details import Axis, Curve, Line, numbers

CHAINS = 20
DEPTH = 8
ACTIVATIONS = (RELU, TANH, SIGMOID, SINE, SOFTPLUS)
WRONG = Elementwise(torch.tanh, lambda u: 1 - torch.tanh(u))  # the square is forgotten


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Right derivatives at every step."""
    return experiment(scale, generator, wrong=False)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """One step's local derivative is wrong."""
    return experiment(scale, generator, wrong=True)


def experiment(scale: Scale, generator: torch.Generator, wrong: bool) -> Evidence:
    """Random chains of affine maps and activations with vector outputs, checked at every step."""
    count = CHAINS if scale is Scale.QUICK else 20 * CHAINS
    whole, every, localised, errors = 0.0, 0.0, 0, torch.zeros(2 * DEPTH + 1)
    for _ in range(count):
        steps, w = random_chain(generator)
        if wrong:
            steps[DEPTH + 1] = WRONG
        found = check_invariant(steps, w)
        jacobian = torch.func.jacrev(lambda w, steps=steps: forward(steps, w)[-1])(w)
        whole = max(whole, float((backpropagation(steps, w).jacobian - jacobian).abs().max()))
        every = max(every, *found.errors)
        localised += spoiled(generator, steps, w)
    errors = spoiled_errors(generator)
    return Evidence.all_of(
        Evidence.at_most("Lambda_0 minus the Jacobian by PyTorch, largest entry", whole, 1e-10),
        Evidence.at_most("Lambda_i minus forward mode from step i, largest entry of all i", every, 1e-10),
        Evidence.close(
            "share of planted wrong derivatives that are localised", localised / count, 1.0, absolute=0
        ),
        figures=(error_curve(errors),),
    )


def random_chain(generator: torch.Generator) -> tuple[list[Operation], Tensor]:
    """An affine map and an activation in turns, sizes 2 to 8, in float64."""
    sizes = torch.randint(2, 9, (DEPTH + 1,), generator=generator).tolist()
    steps: list[Operation] = []
    for i in range(DEPTH):
        weight = torch.randn(sizes[i + 1], sizes[i], generator=generator, dtype=torch.float64)
        bias = torch.randn(sizes[i + 1], generator=generator, dtype=torch.float64)
        chosen = int(torch.randint(len(ACTIVATIONS), (), generator=generator))
        steps += [Affine(weight / sizes[i] ** 0.5, bias), ACTIVATIONS[chosen]]
    return steps, torch.randn(sizes[0], generator=generator, dtype=torch.float64)


def spoiled(generator: torch.Generator, steps: list[Operation], w: Tensor) -> bool:
    """Whether a wrong derivative in a random activation is found where it is."""
    position = 2 * int(torch.randint(DEPTH, (), generator=generator)) + 1
    return check_invariant([*steps[:position], WRONG, *steps[position + 1 :]], w).wrong == (position + 1,)


def spoiled_errors(generator: torch.Generator) -> tuple[float, ...]:
    """Errors of Lambda_i with a wrong derivative in the middle."""
    steps, w = random_chain(generator)
    steps[DEPTH + 1] = WRONG
    return check_invariant(steps, w).errors


def error_curve(errors: tuple[float, ...]) -> Curve:
    """Where the invariant breaks."""
    shown = [max(error, 1e-17) for error in errors]
    return Curve(
        "The invariant breaks at the wrong step",
        Axis("i"),
        Axis("largest error of Lambda_i", log=True),
        (Line("one wrong step", numbers(range(len(shown))), numbers(shown)),),
        caption=f"Read from right to left. Step {DEPTH + 2} has a wrong derivative: right behind it, wrong before it.",
    )


CLAIM = Claim(
    id="backpropagation_invariant",
    theme=Theme.AUTODIFF,
    title="The invariant of backpropagation",
    statement=(
        "In the backward pass, Lambda_i is the derivative of the output in the i-th intermediate value at every i, so "
        "Lambda_0 is the Jacobian; a step with a wrong local derivative breaks this at that step and before it."
    ),
    source="Hardt & Recht 2022, chapter 7; Rumelhart, Hinton & Williams 1986",
    assumptions=("Every step is differentiable at the point.", "Jacobians are m x n."),
    refuted_by="a Lambda_i that differs from forward-mode differentiation by 1e-10 or more",
    run=run,
    counterexample=counterexample,
    errata=(
        Erratum(
            "E31",
            stated="The Jacobian of f: R^n -> R^m is the n x m matrix; for m = 1 it is the transpose of the gradient.",
            correct="The algorithm needs the m x n matrix: only then is the Jacobian of Au + b the matrix A.",
        ),
    ),
    rows=("A01", "A02"),
)
