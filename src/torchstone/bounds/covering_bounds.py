r"""Covering numbers that theory knows: balls of a finite dimension, and products with matrices of bounded norm."""

from __future__ import annotations

import math

from torchstone.bounds.risk_bound import check_at_least, check_count
from torchstone.errors import SettingError


def ball_log_cover(dimensions: int, epsilon: float, radius: float = 1.0) -> float:
    r"""Logarithm of the bound :math:`(1 + 2R/\epsilon)^d` on covers of a ball of radius R, in the ball's own norm.

    It is at most :math:`(3R/\epsilon)^d` for :math:`\epsilon \le R`, and 0 for :math:`\epsilon \ge R`, where one centre is enough. Any norm of
    :math:`R^d`; a packing of radius :math:`\epsilon` is bounded by the same number.

    Args:
        dimensions: d.
        epsilon: Radius of the cover, positive.
        radius: R, not negative.

    Returns:
        The logarithm, in nats.

    Raises:
        SettingError: An argument out of its range.

    Example:
        >>> round(ball_log_cover(3, epsilon=0.5), 4) == round(3 * math.log(5), 4)
        True

    Source: Vershynin 2018, proposition 4.2.12; Kolmogorov & Tikhomirov 1959, section 3.
    """
    d, epsilon = check_count("dimensions", dimensions), check_at_least("epsilon", epsilon, strictly=True)
    ratio = check_at_least("radius", radius) / epsilon
    return 0.0 if ratio <= 1 else d * math.log1p(2 * ratio)


def ball_log_cover_from_below(dimensions: int, epsilon: float, radius: float = 1.0) -> float:
    r"""Logarithm of the lower bound :math:`(R/\epsilon)^d`: a cover's balls must have at least the volume of the ball.

    Args:
        dimensions: d.
        epsilon: Radius of the cover, positive.
        radius: R, not negative.

    Returns:
        The logarithm, in nats, at least 0.

    Raises:
        SettingError: An argument out of its range.

    Source: Vershynin 2018, proposition 4.2.12.
    """
    d, epsilon = check_count("dimensions", dimensions), check_at_least("epsilon", epsilon, strictly=True)
    ratio = check_at_least("radius", radius) / epsilon
    return d * math.log(ratio) if ratio > 1 else 0.0


def matrix_log_cover(
    input_norm: float, weight_norm: float, epsilon: float, inputs: int, outputs: int
) -> float:
    r"""Logarithm of a bound on Frobenius covers of :math:`\{X W^T : \|W\|_{2,1} \le a\}`, X a fixed sample.

    .. math:: \ln N(\epsilon) \le \Big\lceil \frac{a^2 \|X\|_F^2}{\epsilon^2} \Big\rceil \ln(2 d m)

    and 0 for :math:`\epsilon \ge a \|X\|_F`. No dimension enters but in the logarithm: every product is within :math:`\epsilon` of a sum of
    so many signed, scaled columns of X (`torchstone.bounds.sparsify_linear`). Divide :math:`\epsilon` by :math:`\sqrt n` for the empirical "l2"
    distance.

    Args:
        input_norm: :math:`\|X\|_F` of the inputs (n, d).
        weight_norm: a, the sum over outputs of the Euclidean norms of their weights.
        epsilon: Radius of the cover, positive.
        inputs: d.
        outputs: m.

    Returns:
        The logarithm, in nats.

    Raises:
        SettingError: An argument out of its range.

    Source: Bartlett, Foster & Telgarsky 2017, lemma 3.2 (p = q = 2, s = 1); Zhang 2002, theorem 3, for one output.
    """
    epsilon = check_at_least("epsilon", epsilon, strictly=True)
    ratio = check_at_least("weight_norm", weight_norm) * check_at_least("input_norm", input_norm) / epsilon
    if not math.isfinite(ratio * ratio):
        raise SettingError(
            "matrix_log_cover needs norms whose ratio to epsilon can be squared",
            f"{ratio:g}",
            "Take a larger epsilon.",
        )
    atoms = 2 * check_count("inputs", inputs) * check_count("outputs", outputs)
    return 0.0 if ratio <= 1 else math.ceil(ratio * ratio) * math.log(atoms)
