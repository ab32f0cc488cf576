"""The gradient as a sensitivity: of outputs to inputs, and of a loss to a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError


@dataclass(frozen=True)
class InputSensitivity:
    """How outputs react to inputs.

    Attributes:
        norms: Frobenius norm of each example's input-output Jacobian (N,).
        saliency: |d(largest output)/d(input)| of each example, in the inputs' shape (N, ...).
    """

    norms: Float[Tensor, " n"]
    saliency: Tensor


def input_sensitivity(network: Callable[[Tensor], Tensor], inputs: Tensor) -> InputSensitivity:
    """Jacobian norms and saliency maps of a batch of independent examples.

    Cost: one forward pass and one backward pass an output.

    Args:
        network: Maps (N, ...) to (N, C), each example by itself.
        inputs: (N, ...).

    Raises:
        SettingError: Outputs that are not (N, C).

    Source: Novak et al. 2018, section 3.1 (Jacobian norm); Simonyan, Vedaldi & Zisserman 2014 (saliency).
    """
    x = inputs.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        outputs = network(x)
        if outputs.ndim != 2 or len(outputs) != len(inputs):
            raise SettingError(
                "The network must give (N, C)", f"shape {tuple(outputs.shape)}", "Flatten the outputs."
            )
        rows = [
            torch.autograd.grad(outputs[:, k].sum(), x, retain_graph=True, materialize_grads=True)[0]
            for k in range(outputs.shape[1])
        ]
    stacked = torch.stack(rows)
    best = outputs.detach().argmax(1)
    return InputSensitivity(
        stacked.square().flatten(2).sum((0, 2)).sqrt(),
        stacked[best, torch.arange(len(inputs), device=best.device)].abs(),
    )


@dataclass(frozen=True)
class RemainderOrder:
    """How fast the first-order prediction becomes exact.

    Attributes:
        steps: Step sizes e.
        remainders: |L(w + e d) - L(w) - e <g, d>|.
        slope: Of log remainder over log step; 2 where g is the gradient of a smooth L, 1 where it is not.
    """

    steps: tuple[float, ...]
    remainders: tuple[float, ...]
    slope: float


def remainder_order(
    loss: Callable[[Tensor], Tensor],
    w: Float[Tensor, " n"],
    direction: Float[Tensor, " n"],
    gradient: Float[Tensor, " n"],
    steps: Sequence[float] = tuple(10 ** (-1 - k / 4) for k in range(13)),
) -> RemainderOrder:
    """Taylor test of a gradient: the remainder of the linear prediction falls like e^2.

    Args:
        loss: A scalar function of a vector, in float64.
        w: Where.
        direction: d.
        gradient: g, what is tested.
        steps: Step sizes e, from large to small; small enough for the cubic term, large enough for rounding.

    Raises:
        SettingError: Fewer than two steps, or no remainder at all: an affine loss has order infinity.
    """
    base, slope = loss(w), gradient @ direction
    remainders = torch.stack([(loss(w + e * direction) - base - e * slope).abs() for e in steps])
    if len(steps) < 2 or not bool((remainders > 0).all()):
        raise SettingError(
            "The order needs two steps or more, each with a remainder",
            f"{remainders.tolist()}",
            "Take larger steps.",
        )
    logs = torch.tensor(list(steps), dtype=torch.float64).log()
    centred = logs - logs.mean()
    fitted = float((centred @ remainders.double().log()) / (centred @ centred))
    return RemainderOrder(tuple(steps), tuple(remainders.tolist()), fitted)
