r"""How often can a ReLU network on the line change sign? Pieces, a bound by counting them, and the exact count.

A layer of w units adds at most one kink a unit on every linear piece of what it gets, so a network with hidden widths
:math:`w_1 \dots w_L` has at most :math:`\prod_l (w_l + 1)` linear pieces. Each piece crosses zero at most once: with N hidden units in one
layer, at most N + 1 sign changes, hence VC dimension at most N + 2.

The bound is not attained for N = 1 and 2: outermost pieces of a network without a skip connection have slopes that only
units open towards that side supply, and alternating slopes then ask for too much. From N = 3 on it is attained.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.risk_bound import check_count
from torchstone.errors import NumericalError, SettingError


def piece_bound(widths: Sequence[int]) -> int:
    r"""Most linear pieces of a ReLU network on the line, :math:`\prod_l (w_l + 1)`.

    Args:
        widths: Hidden widths in order.

    Returns:
        The bound on pieces, and on sign changes of one output.

    Raises:
        SettingError: A width below 1.

    Example:
        >>> piece_bound([7]), piece_bound([3, 3])
        (8, 16)

    Source: Pascanu, Montufar & Bengio 2014 for one layer; Telgarsky 2016, lemma 3.2, for the number of pieces of compositions.
    """
    return math.prod(check_count("A width", width) + 1 for width in widths)


@dataclass(frozen=True)
class PiecewiseLinear:
    """Functions on the line, linear between knots and beyond the outer ones.

    Args:
        knots: Increasing, (m,), m >= 1.
        values: At the knots, (m, units).
        left: Slopes to the left of the first knot, (units,).
        right: Slopes to the right of the last, (units,).
    """

    knots: Tensor
    values: Tensor
    left: Tensor
    right: Tensor

    def affine(self, weight: Tensor, bias: Tensor | None) -> PiecewiseLinear:
        """A linear layer's outputs."""
        values = self.values @ weight.T
        return PiecewiseLinear(
            self.knots, values if bias is None else values + bias, weight @ self.left, weight @ self.right
        )

    def relu(self) -> PiecewiseLinear:
        """The rectified functions, with a knot at every crossing."""
        finer = self._with_knots(self._crossings())
        up_left = (finer.values[0] > 0) | ((finer.values[0] == 0) & (finer.left < 0))
        up_right = (finer.values[-1] > 0) | ((finer.values[-1] == 0) & (finer.right > 0))
        return PiecewiseLinear(
            finer.knots, finer.values.clamp(min=0), finer.left * up_left, finer.right * up_right
        )

    def signs(self, unit: int = 0) -> list[int]:
        """The signs it takes from left to right, without zeros and repeats."""
        values = [-float(self.left[unit]) if float(self.left[unit]) else 0.0]
        values += [*self.values[:, unit].tolist(), float(self.right[unit])]
        taken = [1 if value > 0 else -1 for value in values if value]
        return [sign for sign, _ in itertools.groupby(taken)]

    def _crossings(self) -> list[tuple[float, int]]:
        """Where each unit crosses zero strictly inside a piece, and which unit."""
        found = []
        for unit in range(self.values.shape[1]):
            values, knots = self.values[:, unit].tolist(), self.knots.tolist()
            for (a, u), (b, v) in itertools.pairwise(zip(knots, values, strict=True)):
                if u * v < 0:
                    found.append((a + (b - a) * (u / (u - v)), unit))
            for knot, value, slope, away in (
                (knots[0], values[0], float(self.left[unit]), -1),
                (knots[-1], values[-1], float(self.right[unit]), 1),
            ):
                if slope * value * away < 0:
                    found.append((knot - value / slope, unit))
        return found

    def _with_knots(self, crossings: list[tuple[float, int]]) -> PiecewiseLinear:
        """The same functions with knots added; a crossing's own unit is exactly 0 there."""
        added = self.knots.new_tensor([t for t, _ in crossings])
        knots = torch.unique(torch.cat([self.knots, added]))
        values = self.at(knots)
        for t, unit in crossings:
            values[int(torch.searchsorted(knots, t)), unit] = 0.0
        return PiecewiseLinear(knots, values, self.left, self.right)

    def at(self, t: Tensor) -> Tensor:
        """Values (len(t), units)."""
        where = torch.searchsorted(self.knots, t).clamp(1, max(1, len(self.knots) - 1))
        if len(self.knots) > 1:
            a, b = self.knots[where - 1], self.knots[where]
            share = ((t - a) / (b - a))[:, None]
            inside = (1 - share) * self.values[where - 1] + share * self.values[where]
        else:
            inside = self.values[:1].expand(len(t), -1)
        before, after = (t <= self.knots[0])[:, None], (t >= self.knots[-1])[:, None]
        inside = torch.where(before, self.values[:1] + (t - self.knots[0])[:, None] * self.left, inside)
        return torch.where(after, self.values[-1:] + (t - self.knots[-1])[:, None] * self.right, inside)


def trace_on_line(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    point: Tensor | None = None,
    direction: Tensor | None = None,
) -> PiecewiseLinear:
    r"""The exact outputs of a ReLU network along a line :math:`t \mapsto p + t\, u`, as piecewise linear functions.

    Cost: one pass over knots and units a layer; at most `piece_bound(widths)` knots.

    Args:
        weights: Of the linear layers in order, (out, in) each; ReLU between them, none after the last.
        biases: One a layer, or None.
        point: p (in,); zero by default.
        direction: u (in,); ones by default, for networks of one input.

    Returns:
        The outputs as functions of t.

    Raises:
        SettingError: Layers that do not chain.
        NumericalError: Weights that are not finite.

    Example:
        >>> import torch
        >>> tent = trace_on_line([torch.ones(3, 1), torch.tensor([[1.0, -2.0, 1.0]])], [torch.tensor([1.0, 0.0, -1.0]), None])
        >>> tent.knots.tolist(), tent.values[:, 0].tolist()
        ([-1.0, 0.0, 1.0], [0.0, 1.0, 0.0])
    """
    sizes = [tuple(weight.shape) for weight in weights]
    chained = all(len(size) == 2 for size in sizes) and all(
        a[0] == b[1] for a, b in itertools.pairwise(sizes)
    )
    if not weights or not chained or len(biases) != len(weights):
        raise SettingError(
            "trace_on_line needs weight matrices (out, in) that chain, and a bias or None for each",
            f"shapes {sizes} and {len(biases)} biases",
            "Pass the linear layers in order.",
        )
    if not all(bool(torch.isfinite(t).all()) for t in (*weights, *biases) if t is not None):
        raise NumericalError("trace_on_line needs finite weights", "NaN or infinity", "Check the network.")
    double = lambda t: t.detach().double().cpu()
    inputs = sizes[0][1]
    start = torch.zeros(inputs, dtype=torch.float64) if point is None else double(point)
    slope = torch.ones(inputs, dtype=torch.float64) if direction is None else double(direction)
    line = PiecewiseLinear(torch.zeros(1, dtype=torch.float64), start[None], slope, slope)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        line = line.relu() if layer else line
        line = line.affine(double(weight), None if bias is None else double(bias))
    # Knots of a linear network are no kinks, but harmless.
    return line


def count_sign_changes(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> int:
    """Sign changes over the whole line of a ReLU network with one input and one output, exactly.

    Args:
        weights: Of the linear layers in order, (out, in) each.
        biases: One a layer, or None.

    Returns:
        The number of sign changes; intervals where the output is 0 do not count.

    Raises:
        SettingError: Layers that do not chain, or more than one input or output.
        NumericalError: Weights that are not finite.

    Example:
        >>> import torch
        >>> count_sign_changes([torch.ones(1, 1), torch.ones(1, 1)], [None, torch.tensor([-1.0])])
        1
    """
    line = trace_on_line(weights, biases)
    if weights[0].shape[1] != 1 or weights[-1].shape[0] != 1:
        raise SettingError(
            "count_sign_changes needs one input and one output",
            f"{weights[0].shape[1]} and {weights[-1].shape[0]}",
            "Use trace_on_line with a direction.",
        )
    return max(0, len(line.signs()) - 1)
