r"""ReLU has no derivative at 0; automatic differentiation takes 0 there, and can be wrong about smooth functions.

Backward pass: Lambda -> Lambda D(u), D(u) diagonal with 1 where u_i > 0 and 0 elsewhere, at 0 too. t -> ReLU(t) - ReLU(-t)
is the identity, with derivative 1 everywhere, yet its automatic derivative at 0 is 0 - 0 = 0.
"""

from __future__ import annotations

import torch

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.autodiff import kinks
from torchstone.autodiff.operation import RELU
from torchstone.details import Axis, Curve, Line, numbers

POINTS = 100_000


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Points with exact zeros of both signs among them."""
    return experiment(scale, generator, at_kink=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Away from the kink automatic differentiation is right, so the wrong slope is not found."""
    return experiment(scale, generator, at_kink=False)


def experiment(scale: Scale, generator: torch.Generator, at_kink: bool) -> Evidence:
    """Our rule against PyTorch's bit by bit, and the identity written with two ReLUs."""
    points = POINTS if scale is Scale.QUICK else 100 * POINTS
    u = torch.randn(points, generator=generator)
    u[::5], u[1::5] = 0.0, -0.0
    cotangent = torch.randn(points, generator=generator)
    leaf = u.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(torch.relu(leaf), leaf, cotangent)
    (found,) = RELU.pull(cotangent[None], u)
    different = int((found[0].view(torch.int32) != expected.view(torch.int32)).sum())
    t = 0.0 if at_kink else 1e-3
    hits = len(kinks(identity, torch.tensor(t)))
    difference = (
        identity(torch.tensor(t + 1e-6).double()) - identity(torch.tensor(t - 1e-6).double())
    ) / 2e-6
    return Evidence.all_of(
        Evidence.close("gradients whose bits differ from PyTorch's", float(different), 0.0, absolute=0),
        Evidence.close("automatic derivative of ReLU(t) - ReLU(-t) at 0", slope(t), 0.0, absolute=0),
        Evidence.close("its derivative by differences", difference, 1.0, relative=1e-3),
        Evidence.close("calls that report a kink", float(hits), 2.0, absolute=0),
        figures=(slope_curve(),),
    )


def identity(t: torch.Tensor) -> torch.Tensor:
    """t, in a roundabout way."""
    return torch.relu(t) - torch.relu(-t)


def slope(t: float) -> float:
    """Its automatic derivative."""
    leaf = torch.tensor(t, requires_grad=True)
    return float(torch.autograd.grad(identity(leaf), leaf)[0])


def slope_curve() -> Curve:
    """The automatic derivative around 0."""
    t = torch.linspace(-1, 1, 41)
    t[20] = 0.0
    return Curve(
        "Automatic derivative of ReLU(t) - ReLU(-t) = t",
        Axis("t"),
        Axis("slope"),
        (Line("automatic", numbers(t), numbers(slope(float(one)) for one in t)),),
        caption="Right everywhere but at the one point where the ReLUs have no derivative.",
    )


CLAIM = Claim(
    id="relu_kink",
    theme=Theme.AUTODIFF,
    title="The slope at a kink is a convention",
    statement=(
        "Automatic differentiation gives ReLU the slope 0 at 0, and so can give a function that is differentiable "
        "there a derivative that it does not have: 0 instead of 1 for ReLU(t) - ReLU(-t) = t."
    ),
    source="Bolte & Pauwels 2020, section 1; Hardt & Recht 2022, chapter 7",
    assumptions=(
        "An input lies exactly on a kink: of probability 0 for random data, common for zero padding.",
    ),
    refuted_by="another slope than 0 at 0, or a gradient whose bits differ from PyTorch's",
    run=run,
    counterexample=counterexample,
    rows=("A04",),
)
