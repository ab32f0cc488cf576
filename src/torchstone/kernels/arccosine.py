r"""Arc-cosine kernels: the expectations over Gaussian weights that infinitely wide ReLU layers compute.

For unit vectors with cosine u = x . x' at angle theta, and w ~ N(0, I),

    k_n(u) = 2 E[(w . x)_+^n (w . x')_+^n],      n = 0, 1, 2   (0: step functions, 1: ReLU).

k_n(1) = 1, 1 and 3: E[z^(2n)].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError

_SNAP = 4.0  # roundings within which a cosine is taken for 1: the angle amplifies them to their square root


def arc_cosine(cosine: Tensor, degree: int) -> Tensor:
    r"""The arc-cosine kernel of unit vectors, :math:`J_n(\theta) / \pi`.

    :math:`J_0 = \pi - \theta`, :math:`J_1 = \sin\theta + (\pi - \theta)\cos\theta`,
    :math:`J_2 = 3 \sin\theta\cos\theta + (\pi - \theta)(1 + 2\cos^2\theta)`.

    Accuracy: near u = 1 degree 0 has an infinite slope, so that a rounding of u becomes an error of about 1e-8 there.

    Args:
        cosine: Cosines u of any shape, in [-1, 1] up to rounding.
        degree: 0, 1 or 2.

    Returns:
        Values in float64, of the same shape.

    Raises:
        SettingError: Another degree.
        NumericalError: NaN, or cosines beyond 1 by more than rounding.

    Example:
        >>> arc_cosine(torch.tensor([1.0, 0.0, -1.0]), 0).tolist()
        [1.0, 0.5, 0.0]

    Source: Cho & Saul 2009, equations 3 to 6.
    """
    if degree not in (0, 1, 2):
        raise SettingError(
            "degree must be 0, 1 or 2", repr(degree), "Use 1 for ReLU and 0 for its derivative."
        )
    u = cosine.detach().double()
    if not bool((u.abs() <= 1 + 1e-6).all()):
        raise NumericalError(
            "Cosines must lie in [-1, 1]",
            f"values from {float(u.min())} to {float(u.max())}",
            "Normalise the vectors.",
        )
    u = u.clamp(-1, 1)
    u = torch.where(u > 1 - _SNAP * torch.finfo(torch.float64).eps, torch.ones_like(u), u)
    sine = ((1 - u) * (1 + u)).sqrt()
    rest = math.pi - torch.atan2(sine, u)
    if degree == 0:
        return rest / math.pi
    if degree == 1:
        return (sine + rest * u) / math.pi
    return (3 * sine * u + rest * (1 + 2 * u.square())) / math.pi


def two_layer_relu_tangent(cosine: Tensor) -> Tensor:
    r"""Tangent kernel of :math:`f(x) = m^{-1/2} \sum_j a_j \sqrt2 (w_j \cdot x)_+` on unit vectors as m grows.

    :math:`\Theta(u) = u\, k_0(u) + k_1(u)`: the first term from the weights w, the second from a; a and w are standard
    normal.

    Args:
        cosine: Cosines u in [-1, 1].

    Returns:
        Values in float64, of the same shape; 2 at u = 1 and 0 at u = -1.

    Example:
        >>> two_layer_relu_tangent(torch.tensor([1.0, -1.0])).tolist()
        [2.0, 0.0]

    Source: Bietti & Mairal 2019, section 3.1, equation 5.
    """
    return cosine.double() * arc_cosine(cosine, 0) + arc_cosine(cosine, 1)
