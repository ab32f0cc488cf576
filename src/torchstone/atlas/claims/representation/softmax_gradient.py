r"""The gradient of softmax cross-entropy in the logits is prediction minus target, its Hessian a covariance matrix.

For y = softmax(z) and targets t that sum to 1, L = -sum_k t_k log y_k has dL/dz = y - t and d2L/dz2 = diag(y) - y y',
the covariance of a one-hot draw from y: positive semi-definite, whatever t is, and 0 only along constants.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.losses import (
    softmax_cross_entropy,
    softmax_cross_entropy_gradient,
    softmax_cross_entropy_hessian,
)

CLASSES = 10
HUGE = 1e4


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Targets that are probabilities."""
    return experiment(scale, generator, mass=1.0)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Targets that sum to 1.1: the gradient is 1.1 y - t."""
    return experiment(scale, generator, mass=1.1)


def experiment(scale: Scale, generator: torch.Generator, mass: float) -> Evidence:
    """Closed forms against automatic differentiation of the textbook formula, at moderate and at huge logits."""
    examples = 20 if scale is Scale.QUICK else 500
    logits = 3 * torch.randn(examples, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (examples,), generator=generator)
    soft = torch.rand(examples, CLASSES, generator=generator, dtype=torch.float64)
    soft = mass * soft / soft.sum(1, keepdim=True)
    hard = mass * torch.nn.functional.one_hot(labels, CLASSES).double()
    y = logits.softmax(1)
    hessian = torch.diag_embed(y) - y[:, :, None] * y[:, None, :]
    parts = []
    for name, t in (("class labels", hard), ("soft targets", soft)):
        gradient, curvature = differentiated(logits, t)
        off = lambda found, expected: (found - expected).abs().max()
        parts += [
            Evidence.at_most(f"gradient minus (y - t), {name}", off(gradient, y - t), 1e-10),
            Evidence.at_most(f"Hessian minus (diag(y) - yy'), {name}", off(curvature, hessian), 1e-10),
        ]
    blocks = softmax_cross_entropy_hessian(logits)
    moved = softmax_cross_entropy(logits + 1000, soft) - softmax_cross_entropy(logits, soft)
    return Evidence.all_of(
        *parts,
        Evidence.at_least(
            "smallest eigenvalue of the Hessians", torch.linalg.eigvalsh(blocks).min(), -1e-12, "convex"
        ),
        Evidence.at_most("change of the loss when 1000 is added to every logit", moved.abs().max(), 1e-9),
        *huge_checks(),
        figures=(loss_curve(), huge_table()),
    )


def textbook(z: Tensor, t: Tensor) -> Tensor:
    """-sum t log(e^z / sum e^z) of one example, as written, for automatic differentiation."""
    return -(t * (z.exp() / z.exp().sum()).log()).sum()


def differentiated(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (N, C) and Hessian (N, C, C) of the textbook formula by reverse mode, once and twice."""
    gradient = torch.func.vmap(torch.func.grad(textbook))(logits, targets)
    hessian = torch.func.vmap(torch.func.jacrev(torch.func.grad(textbook)))(logits, targets)
    return gradient, hessian


def huge_logits() -> tuple[Tensor, Tensor]:
    """Logits of size 1e4 and class labels, with known losses 1e4, 2e4, log 2 and 0."""
    logits = torch.tensor(
        [[HUGE, 0, 0], [HUGE, 0, -HUGE], [HUGE, HUGE, 0], [HUGE, 0, 0]], dtype=torch.float64
    )
    return logits, torch.tensor([1, 2, 0, 0])


def huge_checks() -> tuple[Evidence, ...]:
    """Finite and right where exp overflows."""
    logits, labels = huge_logits()
    exact = torch.tensor([HUGE, 2 * HUGE, 0.6931471805599453, 0.0], dtype=torch.float64)
    gradient = torch.tensor([[1.0, -1, 0], [1, 0, -1], [-0.5, 0.5, 0], [0, 0, 0]], dtype=torch.float64)
    found = softmax_cross_entropy_gradient(logits, labels)
    curvature = softmax_cross_entropy_hessian(logits)
    return (
        Evidence.close("loss at logits 1e4", softmax_cross_entropy(logits, labels), exact, relative=1e-14),
        Evidence.close("gradient at logits 1e4", found, gradient, absolute=1e-14),
        Evidence.close("largest entry of the Hessian at logits 1e4", curvature.max(), 0.25, absolute=1e-14),
    )


def loss_curve() -> Curve:
    """Loss, gradient and curvature of two classes over the margin."""
    z = torch.linspace(-6, 6, 241, dtype=torch.float64)
    logits, label = torch.stack([z, torch.zeros_like(z)], 1), torch.zeros(len(z), dtype=torch.long)
    return Curve(
        "Two classes: loss, gradient and curvature over the margin",
        Axis("logit of the true class minus the other"),
        Axis("value"),
        (
            Line("loss", numbers(z), numbers(softmax_cross_entropy(logits, label))),
            Line("gradient, y - 1", numbers(z), numbers(softmax_cross_entropy_gradient(logits, label)[:, 0])),
            Line("curvature, y(1 - y)", numbers(z), numbers(softmax_cross_entropy_hessian(logits)[:, 0, 0])),
        ),
        caption="A confident mistake pulls with a force of at most 1 and has almost no curvature.",
    )


def huge_table() -> Table:
    """The textbook formula beside the stable one."""
    logits, labels = huge_logits()
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    rows = tuple(
        (str([int(v) for v in z]), int(k), float(textbook(z, t)), float(softmax_cross_entropy(z, k)))
        for z, k, t in zip(logits, labels, one_hot, strict=True)
    )
    columns = ("logits", "class", "loss as written in the textbook", "loss, largest logit subtracted first")
    return Table("Where exp overflows", columns, rows)


CLAIM = Claim(
    id="softmax_gradient",
    theme=Theme.REPRESENTATION,
    title="Prediction minus target",
    statement=(
        "The gradient of softmax cross-entropy in the logits is y - t and its Hessian diag(y) - yy', so the loss is "
        "convex in the logits and does not change when a constant is added to all of them."
    ),
    source="Bridle 1990, section 2; Bishop 2006, equations (4.108) to (4.110)",
    assumptions=("Targets are non-negative and sum to 1: a class, or probabilities.", "Logits are finite."),
    refuted_by="a gradient or Hessian that differs from automatic differentiation by 1e-10 or more",
    run=run,
    counterexample=counterexample,
    rows=("Q01",),
)
