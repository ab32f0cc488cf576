r"""How variance and gradients travel through a wide random layer, by Gauss-Hermite quadrature.

For pre-activations z ~ N(0, q) and weights W_ij ~ N(0, sigma_w^2 / fan_in), biases N(0, sigma_b^2):

    forward    V(q)  = sigma_w^2 E[phi(sqrt(q) u)^2] + sigma_b^2,          u ~ N(0, 1)
    backward   chi(q) = sigma_w^2 E[phi'(sqrt(q) u)^2]

V maps the variance of one layer to the next; chi multiplies the squared norm of the back-propagated gradient.
Source: Poole et al. 2016, eq. (3); Schoenholz et al. 2017, eqs. (5) and (12).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from torchstone.errors import NumericalError, SettingError, blaming

Activation = Callable[[Tensor], Tensor]

NODES = 200
# Half of the interval of integration for functions with a kink at 0, in standard deviations.
REACH = 12.0
# Iterations of the variance map before its limit is looked for instead, and where variances count as 0 and infinity then.
_ITERATIONS, _ZERO, _HUGE = 1000, 1e-10, 1e10


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


def elementwise(activation: Activation) -> Activation:
    """The activation, a module in double precision, once it has been seen to act on each number by itself.

    Raises:
        SettingError: Not a function of tensors in float64, or one whose outputs depend on other numbers or on chance.
    """
    expected = "An activation is a function of tensors that acts on each number by itself, in float64"
    fix = "For example torch.tanh or nn.GELU()."
    u = torch.linspace(-2, 2, 9, dtype=torch.float64)
    with blaming(SettingError, expected, fix, "the activation"):
        if isinstance(activation, nn.Module):
            activation = copy.deepcopy(activation).double()
        whole, part = activation(u.clone()), activation(u[:4].clone())
        with torch.enable_grad():
            activation(u.clone().requires_grad_(True).clone())
    if not isinstance(whole, Tensor) or whole.shape != u.shape:
        got = f"shape {tuple(whole.shape)} for {tuple(u.shape)}" if isinstance(whole, Tensor) else repr(whole)
        raise SettingError(expected, got, fix)
    if not torch.allclose(whole[:4].detach(), part.detach(), rtol=1e-9, equal_nan=True):
        raise SettingError(expected, "other values for the same numbers in another tensor", fix)
    return activation


def second_moment(activation: Activation, variance: float) -> float:
    """E[phi(z)^2] for z ~ N(0, variance).

    Raises:
        NumericalError: The activation is NaN somewhere.
    """
    require_variances(variance=variance)
    scale = variance**0.5
    moment = expectation(lambda u: activation(scale * u).square())
    if moment != moment:
        raise NumericalError(
            "The activation must be a number everywhere", "NaN", "Pass one for negative inputs too."
        )
    return moment


def slope_second_moment(activation: Activation, variance: float) -> float:
    """E[phi'(z)^2] for z ~ N(0, variance)."""
    require_variances(variance=variance)
    scale = variance**0.5

    def squared_slope(u: Tensor) -> Tensor:
        z = (scale * u).requires_grad_(True)
        with torch.enable_grad():
            values = activation(z.clone())  # which may work in place
            if not values.requires_grad:  # a step: its slope is 0 wherever it has one
                return torch.zeros_like(u)
            return torch.autograd.grad(values.sum(), z)[0].square()

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

    Raises:
        SettingError: A variance out of range, or an activation that is not elementwise.
    """
    require_variances(weight_variance=weight_variance, bias_variance=bias_variance)
    return _variance_map(elementwise(activation), variance, weight_variance, bias_variance)


def _variance_map(
    activation: Activation, variance: float, weight_variance: float, bias_variance: float
) -> float:
    return weight_variance * second_moment(activation, variance) + bias_variance


def gradient_factor(activation: Activation, variance: float, weight_variance: float) -> float:
    """chi(q): factor of the squared gradient norm from one layer to the one before it."""
    require_variances(weight_variance=weight_variance)
    return weight_variance * slope_second_moment(elementwise(activation), variance)


def gain(activation: Activation, variance: float = 1.0) -> float:
    """sigma_w that keeps the variance at `variance` without biases: sqrt(q / E[phi(z)^2]).

    Gives sqrt(2) for ReLU at every variance, and 1 for the identity.

    >>> round(gain(torch.relu) ** 2, 10)
    2.0

    Raises:
        SettingError: A variance out of range, or an activation that is not elementwise.
        NumericalError: An activation that is 0 everywhere.
    """
    moment = second_moment(elementwise(activation), variance)
    if not moment > 0:
        raise NumericalError(
            "The activation must not vanish", f"E[phi(z)^2] = {moment}", "Pass another activation."
        )
    return (variance / moment) ** 0.5


def fixed_point(
    activation: Activation, weight_variance: float, bias_variance: float = 0.0, *, start: float = 1.0
) -> float:
    """q* with V(q*) = q*, where iteration from `start` leads; 0 and infinity are possible limits.

    Args:
        activation: phi, elementwise.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        start: q of the first layer.

    Raises:
        SettingError: A variance out of range, or an activation that is not elementwise.
    """
    require_variances(weight_variance=weight_variance, bias_variance=bias_variance, start=start)
    return limit(elementwise(activation), weight_variance, bias_variance, start)


def limit(activation: Activation, weight_variance: float, bias_variance: float, start: float = 1.0) -> float:
    """`fixed_point` of an activation and variances that were checked.

    On the edge of chaos the iteration converges like 1 / depth; after many steps its limit is looked for instead: the next
    fixed point in the direction in which q moves.
    """
    following = lambda q: _variance_map(activation, q, weight_variance, bias_variance)
    q = start
    for _ in range(_ITERATIONS):
        after = following(q)
        if after < 1e-14 or after > 1e14:
            return 0.0 if after < 1 else float("inf")
        if abs(after - q) <= 1e-13 * q:
            return after
        q = after
    grows = following(q) > q
    factor = 2.0 if grows else 0.5
    while (following(q) > q) == grows:
        if not _ZERO < q < _HUGE:
            return float("inf") if grows else 0.0
        q *= factor
    low, high = sorted((q, q / factor))
    for _ in range(60):
        q = (low + high) / 2
        low, high = (q, high) if following(q) > q else (low, q)
    return (low + high) / 2


def require_variances(**variances: float) -> None:
    """Refuse what no variance can be; those of weights and biases may be 0."""
    for name, variance in variances.items():
        may_vanish = name in ("weight_variance", "bias_variance")
        if not 0 <= variance < float("inf") or (variance == 0 and not may_vanish):
            raise SettingError(
                f"{name} must be {'0 or positive' if may_vanish else 'positive'} and finite",
                repr(variance),
                "Pass for example 1.0.",
            )
