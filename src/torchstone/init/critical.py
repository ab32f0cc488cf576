r"""Where a wide random network lets signals through: the edge of chaos, and how deep a signal gets beside it.

For pre-activations of two inputs with variance q* and correlation c, one layer maps

    C(c) = (sigma_w^2 E[phi(z_1) phi(z_2)] + sigma_b^2) / q*,      C(1) = 1,      C'(1) = chi.

chi < 1: correlations approach 1 and gradients vanish, both by chi a layer; chi > 1: inputs decorrelate and gradients
explode. Their depth scale is xi = 1 / |log chi|; it diverges at chi = 1.
Source: Poole et al. 2016, section 2; Schoenholz et al. 2017, sections 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.init.mean_field import (
    REACH,
    Activation,
    elementwise,
    limit,
    require_variances,
    second_moment,
    slope_second_moment,
)

_NODES = 80


@dataclass(frozen=True)
class Criticality:
    """A point of the phase diagram.

    Attributes:
        weight_variance: sigma_w^2, Var(W_ij) times fan_in.
        bias_variance: sigma_b^2.
        variance: q*, the variance of pre-activations after many layers.
        chi: Factor of the squared gradient norm, and slope of the correlation map at 1.
    """

    weight_variance: float
    bias_variance: float
    variance: float
    chi: float

    @property
    def depth_scale(self) -> float:
        """Xi = 1 / |log chi| layers; infinite on the edge of chaos."""
        return math.inf if self.chi == 1 else 0.0 if self.chi == 0 else 1 / abs(math.log(self.chi))

    @property
    def gain(self) -> float:
        """sigma_w."""
        return self.weight_variance**0.5


def criticality(activation: Activation, weight_variance: float, bias_variance: float = 0.0) -> Criticality:
    """Where a network with these variances lies.

    At q* = 0 (tanh with sigma_w <= 1 and no biases) chi is its limit there, sigma_w^2 phi'(0)^2; where q diverges it is
    the limit at large q.

    Args:
        activation: phi, elementwise.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.

    Raises:
        SettingError: A variance out of range, or an activation that is not elementwise.
    """
    require_variances(weight_variance=weight_variance, bias_variance=bias_variance)
    return _criticality(elementwise(activation), weight_variance, bias_variance)


def _criticality(activation: Activation, weight_variance: float, bias_variance: float) -> Criticality:
    q = limit(activation, weight_variance, bias_variance)
    chi = weight_variance * slope_second_moment(activation, min(max(q, 1e-8), 1e8))
    return Criticality(weight_variance, bias_variance, q, chi)


def critical_point(activation: Activation, bias_variance: float = 0.0, *, most: float = 25.0) -> Criticality:
    """The weight variance at which chi = 1 for a given bias variance: the edge of chaos.

    For ReLU without biases it is He's 2, for tanh without biases 1 (with q* = 0). Positive bias variances give tanh
    larger ones, with q* > 0.

    Args:
        activation: phi.
        bias_variance: sigma_b^2.
        most: Largest sigma_w^2 looked at.

    Raises:
        SettingError: A variance out of range, or an activation that is not elementwise.
        NumericalError: No such point up to `most`; logistic sigmoid without biases has none, for example.

    >>> round(critical_point(torch.relu).weight_variance, 6)
    2.0
    """
    require_variances(bias_variance=bias_variance)
    if not 1e-3 < most < math.inf:
        raise SettingError("most must be above 0.001", repr(most), "25 is usual.")
    activation = elementwise(activation)
    if bias_variance == 0 and (found := _at_zero(activation)) is not None:
        return found
    low, high = 1e-3, most
    excess = lambda variance: _criticality(activation, variance, bias_variance).chi - 1
    if excess(low) > 0 or excess(high) < 0:
        raise _no_edge(f"chi from {excess(low) + 1:.3g} to {excess(high) + 1:.3g} for sigma_w^2 up to {most}")
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        if high - low < 1e-12 * high:
            break
    found = _criticality(activation, high, bias_variance)
    if abs(found.chi - 1) > 1e-3:
        raise _no_edge(f"chi that jumps to {found.chi:.3g} at sigma_w^2 = {high:.4g}")
    return Criticality(found.weight_variance, bias_variance, found.variance, 1.0)


def _at_zero(activation: Activation) -> Criticality | None:
    """The edge without biases where it is the limit of small signals: any q for ReLU, q* = 0 for tanh."""
    tiny = 1e-16
    slope, ratio = slope_second_moment(activation, tiny), second_moment(activation, tiny) / tiny
    if slope == 0 or abs(ratio / slope - 1) > 1e-6:
        return None
    weight_variance = 1 / slope
    growth = [weight_variance * second_moment(activation, q) / q for q in (0.01, 0.1, 1.0)]
    if max(abs(one - 1) for one in growth) < 1e-9:
        return Criticality(weight_variance, 0.0, 1.0, 1.0)
    # Where signals grow (GELU), q* = 0 is no place to stay.
    return Criticality(weight_variance, 0.0, 0.0, 1.0) if max(growth) < 1 else None


def _no_edge(got: str) -> NumericalError:
    return NumericalError(
        "An edge of chaos needs chi = 1 for some weight variance",
        got,
        "This activation has none there; try a bias variance, orthogonal weights with tanh, or ReLU.",
    )


def correlation_map(
    activation: Activation,
    correlation: float,
    variance: float,
    weight_variance: float,
    bias_variance: float = 0.0,
) -> float:
    """C(c): correlation of two inputs' pre-activations one layer later, both of variance q* = `variance`.

    Args:
        activation: phi.
        correlation: c, from -1 to 1.
        variance: q*, a fixed point of the variance map.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.

    Raises:
        SettingError: A correlation or variance out of range, or an activation that is not elementwise.
    """
    if not -1 <= correlation <= 1:
        raise SettingError("A correlation lies between -1 and 1", repr(correlation), "Pass for example 0.5.")
    require_variances(variance=variance, weight_variance=weight_variance, bias_variance=bias_variance)
    activation, scale = elementwise(activation), variance**0.5
    function = lambda u, v: activation(scale * u) * activation(scale * v)
    joint = _joint_expectation(function, correlation)
    return (weight_variance * joint + bias_variance) / variance


def _joint_expectation(function: Callable[[Tensor, Tensor], Tensor], correlation: float) -> float:
    """E[f(u, v)] for standard normals of that correlation, exact for f smooth off u = 0 and v = 0."""
    import numpy as np

    rest = math.sqrt(max(0.0, 1 - correlation**2))
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(_NODES))
    density = lambda x: torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    positive = (nodes + 1) * REACH / 2
    u = torch.cat([-positive, positive])
    u_weights = torch.cat([weights, weights]) * REACH / 2 * density(u)
    if rest < 1e-8:
        return float((u_weights * function(u, math.copysign(1.0, correlation) * u)).sum())
    # v = c u + rest w has its kink at w = -c u / rest: each side of it by itself.
    kink = (-correlation * u / rest).clamp(-REACH, REACH)
    total = torch.zeros_like(u)
    for low, high in ((torch.full_like(u, -REACH), kink), (kink, torch.full_like(u, REACH))):
        half = (high - low) / 2
        w = low[:, None] + half[:, None] * (nodes + 1)
        values = function(u[:, None].expand_as(w), correlation * u[:, None] + rest * w)
        total += half * (weights * density(w) * values).sum(1)
    return float((u_weights * total).sum())
