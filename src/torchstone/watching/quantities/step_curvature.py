r"""Where a step lands on the loss: alpha, the curvature and the rise along it.

Along the step s from w to w', with the loss f of the probe, f_0, f_1 and its slopes d_0, d_1 along s at both ends, the
parabola with these slopes has its minimum at the share t* = d_0 / (d_0 - d_1) of the step. alpha = 1 / t* - 1 = -d_1 / d_0:
-1 stays at the start, 0 lands on the minimum, 1 overshoots to the same height on the other side; beyond that the loss rises.
Source: Schneider, Dangel & Hennig 2021, NeurIPS, section 2.1 (there from a fit to noisy values and slopes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.watching.quantities.base import Quantity
from torchstone.watching.record import Series
from torchstone.watching.state import Measured, State


class StepCurvature(Quantity):
    """Alpha and the curvature along the last step, on the probe's training examples."""

    name = "step"
    series: ClassVar[Mapping[str, Series]] = {
        "alpha": Series("Alpha of the step", "", "0: at the minimum along it; above 1: the loss rises"),
        "step_curvature": Series("Curvature along the step", "loss / weight^2", "(d_1 - d_0) / |s|^2"),
        "step_decrease": Series("Decrease of the probe's loss by the step", "loss", "f_0 - f_1"),
    }
    cost = 6.0
    of_step = True
    of_probe = True

    def measure(self, state: State) -> Measured:
        """Losses and gradients at both ends of the step."""
        assert state.bench is not None
        assert state.before is not None
        specimen = state.bench.specimen
        step = [p.detach().double() - b.double() for p, b in zip(state.parameters, state.before, strict=True)]
        length = math.sqrt(math.fsum(float(part.square().sum()) for part in step))
        if length == 0:
            return Measured()
        ends: list[tuple[float, float]] = []
        with specimen.measuring():
            for values in (state.before, tuple(p.detach().clone() for p in state.parameters)):
                for parameter, value in zip(state.parameters, values, strict=True):
                    parameter.data.copy_(value)
                ends.append((specimen.risk(), _slope(specimen.gradient(), state.names, step)))
        (f0, d0), (f1, d1) = ends
        curvature = (d1 - d0) / length**2
        values = {"step_curvature": curvature, "step_decrease": f0 - f1}
        if d0 < 0:  # else the step goes uphill on the probe, and alpha has no meaning
            values["alpha"] = -d1 / d0
        return Measured(values)


def _slope(gradient: dict[str, Tensor], names: tuple[str, ...], step: list[Tensor]) -> float:
    return math.fsum(
        float(torch.dot(gradient[name].flatten(), part.flatten()))
        for name, part in zip(names, step, strict=True)
        if name in gradient
    )
