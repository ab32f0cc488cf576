r"""How variance and gradients travel through a wide random layer, by Gauss-Hermite quadrature.

For pre-activations z ~ N(0, q) and weights W_ij ~ N(0, sigma_w^2 / fan_in), biases N(0, sigma_b^2):

    forward    V(q)  = sigma_w^2 E[phi(sqrt(q) u)^2] + sigma_b^2,          u ~ N(0, 1)
    backward   chi(q) = sigma_w^2 E[phi'(sqrt(q) u)^2]

V maps the variance of one layer to the next; chi multiplies the squared norm of the back-propagated gradient.
Source: Poole et al. 2016, eq. (3); Schoenholz et al. 2017, eqs. (5) and (12).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError

Activation = Callable[[Tensor], Tensor]

NODES = 200
# Half of the interval of integration for functions with a kink at 0, in standard deviations.
REACH = 12.0


@cache
def _half_line() -> tuple[Tensor, Tensor]:
    """Nodes in (0, REACH) and weights of the standard normal density there (Gauss-Legendre)."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    u = torch.from_numpy((nodes + 1) * REACH / 2)
    density = torch.exp(-u.square() / 2) / (2 * torch.pi) ** 0.5
    return u, torch.from_numpy(weights) * REACH / 2 * density


def expectation(function: Callable[[Tensor], Tensor]) -> float:
    """E[function(u)] for u ~ N(0, 1), exact to rounding for functions smooth on each side of 0.

    The line is split at 0, where ReLU and its relatives have their kink; whole-line Gauss-Hermite quadrature would
    converge slowly there.
    """
    u, weights = _half_line()
    return float((weights * (function(u) + function(-u))).sum())


def second_moment(activation: Activation, variance: float) -> float:
    """E[phi(z)^2] for z ~ N(0, variance)."""
    scale = _checked(variance) ** 0.5
    return expectation(lambda u: activation(scale * u).square())


def slope_second_moment(activation: Activation, variance: float) -> float:
    """E[phi'(z)^2] for z ~ N(0, variance)."""
    scale = _checked(variance) ** 0.5

    def squared_slope(u: Tensor) -> Tensor:
        z = (scale * u).requires_grad_(True)
        with torch.enable_grad():
            return torch.autograd.grad(activation(z).sum(), z)[0].square()

    return expectation(squared_slope)


def variance_map(
    activation: Activation, variance: float, weight_variance: float, bias_variance: float = 0.0
) -> float:
    """V(q): variance of the next layer's pre-activations.

    Args:
        activation: phi, elementwise.
        variance: q, of this layer's pre-activations.
        weight_variance: sigma_w^2, that is Var(W_ij) times fan_in.
        bias_variance: sigma_b^2.

    Returns:
        q of the next layer.
    """
    return weight_variance * second_moment(activation, variance) + bias_variance


def gradient_factor(activation: Activation, variance: float, weight_variance: float) -> float:
    """chi(q): factor of the squared gradient norm from one layer to the one before it."""
    return weight_variance * slope_second_moment(activation, variance)


def gain(activation: Activation, variance: float = 1.0) -> float:
    """sigma_w that keeps the variance at `variance` without biases: sqrt(q / E[phi(z)^2]).

    Gives sqrt(2) for ReLU at every variance, and 1 for the identity.

    >>> round(gain(torch.relu) ** 2, 10)
    2.0
    """
    moment = second_moment(activation, variance)
    if not moment > 0:
        raise NumericalError(
            "The activation must not vanish", f"E[phi(z)^2] = {moment}", "Pass another activation."
        )
    return (variance / moment) ** 0.5


def fixed_point(
    activation: Activation, weight_variance: float, bias_variance: float = 0.0, *, start: float = 1.0
) -> float:
    """q* with V(q*) = q*, by iteration from `start`; 0 and infinity are possible limits."""
    q = _checked(start)
    for _ in range(10_000):
        following = variance_map(activation, q, weight_variance, bias_variance)
        if following < 1e-14 or following > 1e14:
            return 0.0 if following < 1 else float("inf")
        if abs(following - q) <= 1e-13 * q:
            return following
        q = following
    return q


def _checked(variance: float) -> float:
    if not 0 < variance < float("inf"):
        raise SettingError("A variance must be positive and finite", repr(variance), "Pass for example 1.0.")
    return variance
