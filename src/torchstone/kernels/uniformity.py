r"""Alignment and uniformity of representations on the unit sphere.

With features normalised to the sphere,

    alignment  = E ||f(x) - f(x^+)||^2 over positive pairs (here: examples of one class)
    uniformity = log E exp(-t ||f(x) - f(y)||^2) over independent pairs.

Smaller is better for both. Source: Wang & Isola 2020, eqs. (1) and (2), t = 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError


def uniformity(features: Tensor, t: float = 2.0, chunk: int = 2048) -> float:
    """Log of the mean Gaussian potential over all pairs of distinct examples.

    Cost: O(N^2 d) in chunks.

    Args:
        features: (N, d), N >= 2; rows are normalised.
        t: Inverse width of the potential.
        chunk: Rows at a time.

    Returns:
        A number in [-4 t, 0]; 0 when all features coincide.
    """
    unit = _on_sphere(features)
    count = len(unit)
    if count < 2:
        raise SettingError("uniformity needs at least 2 examples", str(count), "Pass more.")
    total = 0.0
    for start in range(0, count, chunk):
        cosines = unit[start : start + chunk] @ unit.T
        total += float((-2 * t * (1 - cosines)).exp().sum())
    # The N pairs of an example with itself contribute exp(0) each.
    return math.log(max((total - count) / (count * (count - 1)), 1e-300))


def uniformity_of_sphere(dimension: int, t: float = 2.0) -> float:
    r"""Uniformity of the uniform law on the sphere in R^d: log(e^{-2t} 0F1(; d/2; t^2)), its least possible value.

    From E exp(k u.v) = 0F1(; d/2; k^2/4) for independent uniform u, v, with k = 2t.
    """
    from scipy.special import hyp0f1

    return float(math.log(hyp0f1(dimension / 2, t * t)) - 2 * t)


def alignment(features: Tensor, labels: Tensor) -> float:
    """Mean squared distance on the sphere between distinct examples of the same class.

    Exact over all pairs in O(N d): within a class of n examples with sum s, the mean over pairs is
    2 (n^2 - ||s||^2) / (n (n - 1)). Classes are weighted by their number of pairs.

    Args:
        features: (N, d); rows are normalised.
        labels: (N,).

    Returns:
        A number in [0, 4]; NaN where no class has two examples.
    """
    unit = _on_sphere(features)
    total, pairs = 0.0, 0
    for label in labels.unique():
        members = unit[labels == label]
        count = len(members)
        total += 2 * (count**2 - float(members.sum(0).square().sum()))
        pairs += count * (count - 1)
    return max(0.0, total / pairs) if pairs else math.nan


def _on_sphere(features: Tensor) -> Tensor:
    if not bool(features.isfinite().all()):
        raise NumericalError("Features must be finite", "NaN or infinity", "Check the network's activations.")
    return torch.nn.functional.normalize(features.double(), dim=1)
