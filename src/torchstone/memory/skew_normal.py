r"""The skew-normal law: maximum likelihood for many samples at once, and its lower tail far beyond floating point."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

_STEEPEST = 1e3  # shapes beyond are half-normal laws to all digits that matter


def fit_skew_normal(samples: Float[Tensor, "b n"], iterations: int = 100) -> Float[Tensor, "b 3"]:
    r"""Shape a, location m and scale s of :math:`\frac2s \varphi(z)\Phi(az)`, :math:`z = (x - m)/s`, for each row.

    Newton's method on the log-likelihood with Levenberg's damping, from the law with the moments of the sample. The likelihood
    of a sample without skewness is flat near a = 0 (its information matrix is singular there), so that a is known poorly.

    Cost: O(b n) an iteration. Shapes are kept within 1000.

    Args:
        samples: One a row, not all equal in any.
        iterations: At most.

    Returns:
        (b, 3) in float64.

    Source: Azzalini 1985 (the law); Azzalini & Capitanio 1999, section 5 (the singular information at a = 0).
    """
    centre = samples.double().mean(1, keepdim=True)
    spread = samples.double().std(1, keepdim=True)
    x = (samples.double() - centre) / spread
    found = _by_moments(x)
    value, slope, curvature = _likelihood(x, found)
    damping = torch.full_like(value, 1e-3)
    for _ in range(iterations):
        # Minus the Hessian need not be positive far from the maximum: its eigenvalues are taken by size, and lifted.
        values, vectors = torch.linalg.eigh(-curvature)
        lifted = values.abs() + damping[:, None]
        step = (vectors @ ((vectors.mT @ slope[:, :, None]) / lifted[:, :, None]))[:, :, 0]
        if float((step * slope).sum(1).max()) < 1e-12:  # twice the rise that Newton's method expects
            break
        tried = found + step
        tried[:, 0].clamp_(-_STEEPEST, _STEEPEST)
        new_value, new_slope, new_curvature = _likelihood(x, tried)
        better = new_value >= value  # False for NaN
        found = torch.where(better[:, None], tried, found)
        value = torch.where(better, new_value, value)
        slope = torch.where(better[:, None], new_slope, slope)
        curvature = torch.where(better[:, None, None], new_curvature, curvature)
        damping = torch.where(better, damping / 10, damping * 4)
    shape, location, scale = found[:, :1], found[:, 1:2], found[:, 2:].exp()
    return torch.cat([shape, centre + spread * location, spread * scale], dim=1)


def _by_moments(x: Tensor) -> Tensor:
    """Shape, location and log scale with the mean, variance and skewness of standardised rows."""
    skew = x.pow(3).mean(1).clamp(-0.99, 0.99)  # beyond, no skew-normal law has it
    power = skew.abs() ** (2 / 3)
    delta = (math.pi / 2 * power / (power + ((4 - math.pi) / 2) ** (2 / 3))).sqrt().clamp(
        max=0.995
    ) * skew.sign()
    scale = (1 - 2 * delta.square() / math.pi).rsqrt()
    return torch.stack(
        [delta / (1 - delta.square()).sqrt(), -scale * delta * math.sqrt(2 / math.pi), scale.log()], dim=1
    )


def _likelihood(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean log-likelihood (b,) of shape, location and log scale, up to a constant; its gradient and Hessian."""
    a, m, logs = (column[:, None] for column in parameters.T)
    s = logs.exp()
    z = (x - m) / s
    t = a * z
    log_cdf = torch.special.log_ndtr(t)
    mills = (-t.square() / 2 - math.log(2 * math.pi) / 2 - log_cdf).exp()
    bend = -mills * (t + mills)
    mean = lambda values: values.mean(1)
    value = mean(log_cdf - z.square() / 2) - logs[:, 0]
    zm, zb, zzb, mb = mean(z * mills), mean(z * bend), mean(z * z * bend), mean(bend)
    m1, z1, z2 = mean(mills), mean(z), mean(z * z)
    a, s = a[:, 0], s[:, 0]
    slope = torch.stack([zm, (z1 - a * m1) / s, z2 - a * zm - 1], dim=1)
    location = -(m1 + a * zb) / s
    scale = -(zm + a * zzb)
    both = (a * m1 - 2 * z1 + a * a * zb) / s
    rows = (
        torch.stack([zzb, location, scale], dim=1),
        torch.stack([location, (a * a * mb - 1) / s**2, both], dim=1),
        torch.stack([scale, both, a * zm - 2 * z2 + a * a * zzb], dim=1),
    )
    return value, slope, torch.stack(rows, dim=1)


def lower_tail_bits(values: Float[Tensor, " m"], laws: Float[Tensor, "b 3"]) -> Float[Tensor, "b m"]:
    r""":math:`-\log_2 F(x)` of every value under every law, also where F itself is not a floating-point number.

    Args:
        values: Where.
        laws: Shape, location and scale of each law, as `fit_skew_normal` gives them.
    """
    from scipy.special import owens_t

    shape, location, scale = (column[:, None] for column in laws.double().T)
    z = (values.double()[None] - location) / scale
    share = torch.special.ndtr(z) - 2 * torch.from_numpy(owens_t(z.numpy(), shape.expand_as(z).numpy()))
    bits = -share.clamp(min=1e-300).log2()
    far = share < 1e-6
    bits[far] = _far_tail(z[far], shape.expand_as(z)[far])
    return bits


def _far_tail(z: Tensor, shape: Tensor) -> Tensor:
    """-log2 F(z) of standard laws (k,) by integrating their densities from there on downwards."""

    def log_density(z: Tensor, t: Tensor) -> Tensor:
        return math.log(2) - math.log(math.tau) / 2 - z.square() / 2 + torch.special.log_ndtr(t)

    # The density is log-concave: in units of its slope here, exp(-v) bounds it, and equals it far out.
    z, shape = z[:, None], shape[:, None]
    grid, t = torch.linspace(0, 40, 401, dtype=torch.float64), shape * z
    top = log_density(z, t)
    hazard = (-t.square() / 2 - math.log(math.tau) / 2 - torch.special.log_ndtr(t)).exp()
    slope = shape * torch.where(t < -1e4, -t, hazard) - z
    lower = z - grid / slope
    drop = torch.where(top > -1e9, (log_density(lower, shape * lower) - top).clamp(max=0), -grid)
    weights = torch.full_like(grid, 2.0)  # Simpson's rule
    weights[1::2], weights[[0, -1]] = 4.0, 1.0
    area = (drop.exp() @ weights) * 0.1 / 3 / slope[:, 0]
    return -(top[:, 0] + area.log()) / math.log(2)
