r"""Closed forms around Rademacher complexities: Massart, Khintchine, contraction, and the risk bound they serve.

All complexities here are :math:`E_\sigma \sup_h \frac1n \sum_i \sigma_i h(x_i)`: no absolute value, no factor 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.bounds.interval import Interval
from torchstone.bounds.rademacher import class_values
from torchstone.bounds.risk_bound import RiskBound, check_at_least, check_count, check_delta, check_mean_loss
from torchstone.errors import NumericalError, SettingError


def massart_bound(values: Tensor) -> float:
    r"""Massart's bound on the complexity of a finite class, :math:`r \sqrt{2 \ln N} / n`.

    N counts distinct members. r is the largest distance of a member from a centre: the complexity is the same for the class
    shifted by any fixed function, so the better of two centres is taken, zero and the mean of the members.

    Args:
        values: :math:`h(x_i)`, one member a row, (H, n).

    Returns:
        An upper bound on the empirical Rademacher complexity; exactly 0 for one member.

    Raises:
        SettingError: Not a matrix with a member and an example.
        NumericalError: Values that are not finite.

    Example:
        >>> import torch
        >>> round(massart_bound(torch.tensor([[1.0, 1.0], [-1.0, -1.0]])), 6)
        0.832555

    Source: Massart 2000, lemma 5.2; Mohri, Rostamizadeh & Talwalkar 2018, theorem 3.7.
    """
    rows = torch.unique(class_values(values), dim=0)
    centred = rows - rows.mean(dim=0)
    radius = min(float(each.norm(dim=1).max()) for each in (rows, centred))
    return massart(radius, len(rows), rows.shape[1])


def massart(radius: float, cardinality: int, n: int) -> float:
    r""":math:`r \sqrt{2 \ln N} / n` from its numbers.

    Args:
        radius: r, the largest Euclidean norm :math:`\sqrt{\sum_i h(x_i)^2}`.
        cardinality: N, the number of members on the sample.
        n: Number of examples.

    Returns:
        The bound.

    Raises:
        SettingError: A negative radius, or a count below 1.
    """
    check_count("cardinality", cardinality)
    return check_at_least("radius", radius) * math.sqrt(2 * math.log(cardinality)) / check_count("n", n)


def linear_bracket(x: Tensor, radius: float, order: float = 2.0) -> Interval:
    r"""A closed-form bracket for the complexity of :math:`\{\langle w, \cdot \rangle : \|w\|_p \le B\}`.

    - p = 2: :math:`[B \|X\|_F / (\sqrt 2 n),\ B \|X\|_F / n]`. The upper end is Jensen's inequality, the lower one the
      Khintchine-Kahane inequality with its best constant.
    - p = 1: :math:`[B \max_j \|X_{:j}\| / (\sqrt 2 n),\ B \max_j \|X_{:j}\| \sqrt{2 \ln 2d} / n]`: the class is the convex hull of 2d
      multiples of coordinates, so Khintchine for the best of them and Massart for all.
    - p = infinity: :math:`\frac{B}{n} \sum_j \|X_{:j}\|` times 1/sqrt 2 and 1: a sum over coordinates, Khintchine and Jensen for each.

    Args:
        x: Inputs (n, ...), flattened to (n, d).
        radius: B, not negative.
        order: 1, 2 or infinity.

    Returns:
        The bracket; it always holds.

    Raises:
        SettingError: Another order, a negative radius, or no example.
        NumericalError: Inputs that are not finite.

    Example:
        >>> import torch
        >>> bracket = linear_bracket(torch.eye(4), radius=1.0)  # all signs give norm 2: the complexity is 2/4
        >>> round(bracket.low, 6), bracket.high
        (0.353553, 0.5)

    Source: Khintchine 1923; Szarek 1976; Latala & Oleszkiewicz 1994, theorem 1; Mohri, Rostamizadeh & Talwalkar 2018,
    theorems 5.10 and 11.15.
    """
    radius = check_at_least("radius", radius)
    if order not in (1, 2, math.inf):
        raise SettingError(
            "Closed forms exist for balls of order 1, 2 and infinity", str(order), "Use rademacher_linear."
        )
    if x.ndim < 2 or x.numel() == 0:
        raise SettingError(
            "A complexity needs at least one input, shape (n, ...)",
            f"shape {tuple(x.shape)}",
            "Pass x[:, None].",
        )
    rows = x.detach().double().flatten(1)
    if not bool(torch.isfinite(rows).all()):
        raise NumericalError("linear_bracket needs finite inputs", "NaN or infinity", "Remove them.")
    columns = rows.norm(dim=0)
    scale = radius / len(rows)
    if order == 1:
        size = scale * float(columns.max())
        growth = math.sqrt(2 * math.log(2 * rows.shape[1]))
        # With few coordinates Jensen over all of them can be the better of the two.
        high = min(size * growth, scale * float(columns.norm()))
        return Interval(size / math.sqrt(2), high, 1.0, "Khintchine, Massart")
    size = scale * float(columns.norm() if order == 2 else columns.sum())
    return Interval(size / math.sqrt(2), size, 1.0, "Khintchine, Jensen")


def contraction(complexity: float, lipschitz: float) -> float:
    r"""Talagrand's contraction: composing with L-Lipschitz functions multiplies the complexity by at most L.

    .. math:: \hat{\mathfrak R}(\{(\phi_i(h(x_i)))_i\}) \le L\, \hat{\mathfrak R}(H)

    The functions :math:`\phi_i` may differ from example to example (a loss has its label) and need not vanish at 0.

    Args:
        complexity: :math:`\hat{\mathfrak R}(H)`.
        lipschitz: L.

    Returns:
        The bound on the complexity of the composed class.

    Raises:
        SettingError: A negative or infinite number.

    Source: Ledoux & Talagrand 1991, theorem 4.12; Meir & Zhang 2003, theorem 7; Mohri, Rostamizadeh & Talwalkar 2018, lemma 5.7.
    """
    return check_at_least("complexity", complexity) * check_at_least("lipschitz", lipschitz)


def vector_contraction(complexity_of_outputs: float, lipschitz: float) -> float:
    r"""Contraction for vector outputs: :math:`\sqrt 2 L` times the sum over outputs' own random signs.

    .. math:: E \sup_f \frac1n \sum_i \sigma_i \phi_i(f(x_i)) \le \sqrt 2 L\, E \sup_f \frac1n \sum_{i,k} \sigma_{ik} f_k(x_i)

    Args:
        complexity_of_outputs: The expectation on the right; for independent outputs the sum of their complexities.
        lipschitz: L in the Euclidean norm of the outputs.

    Returns:
        The bound on the complexity of the composed class.

    Raises:
        SettingError: A negative or infinite number.

    Source: Maurer 2016, corollary 4.
    """
    return math.sqrt(2) * contraction(complexity_of_outputs, lipschitz)


def rademacher_risk_bound(
    empirical_risk: float,
    complexity: float,
    n: int,
    delta: float = 0.05,
    largest_loss: float = 1.0,
    of_sample: bool = True,
) -> RiskBound:
    r"""A bound on the risk of every member of a class at once.

    .. math:: R(h) \le \hat R(h) + 2 \hat{\mathfrak R}(\ell \circ H) + 3 c \sqrt{\frac{\ln (2 / \delta)}{2n}},
              \qquad R(h) \le \hat R(h) + 2 \mathfrak R_n(\ell \circ H) + c \sqrt{\frac{\ln (1 / \delta)}{2n}}

    with probability at least :math:`1 - \delta` each: the first with the complexity on the sample at hand, the second with its
    mean over samples. Losses lie in [0, c].

    The complexity is that of the *losses*. For signs :math:`\pm 1` and the 0-1 loss it is half that of the predictors; for an
    L-Lipschitz loss at most L times (`contraction`). A complexity known with a confidence only (a Monte-Carlo upper
    limit) adds its own probability of failure to delta.

    Args:
        empirical_risk: Mean loss on the sample.
        complexity: Of the losses, :math:`\hat{\mathfrak R}` or :math:`\mathfrak R_n`, not negative.
        n: Number of independent examples.
        delta: Probability of failure.
        largest_loss: c.
        of_sample: Whether the complexity is the sample's (first form) or the mean (second form).

    Returns:
        The bound; vacuous values are kept.

    Raises:
        SettingError: An argument out of its range.

    Example:
        >>> bound = rademacher_risk_bound(0.1, complexity=0.02, n=10_000, delta=0.05)
        >>> round(bound.value, 4)
        0.1807

    Source: Mohri, Rostamizadeh & Talwalkar 2018, theorem 3.3 (equations 3.3 and 3.4); Bartlett & Mendelson 2002, theorem 8.
    """
    check_count("n", n)
    check_mean_loss(empirical_risk, largest_loss)
    check_delta(delta)
    if of_sample:
        deviation = 3 * largest_loss * math.sqrt(math.log(2 / delta) / (2 * n))
    else:
        deviation = largest_loss * math.sqrt(math.log(1 / delta) / (2 * n))
    return RiskBound(
        empirical_risk,
        2 * check_at_least("complexity", complexity),
        deviation,
        delta,
        largest_loss,
        "Independent examples of one law, losses in [0, largest_loss], and a class fixed before the sample.",
    )


def margin_risk_bound(margins: Tensor, complexity: float, theta: float, delta: float = 0.05) -> RiskBound:
    r"""A bound on the error of a real-valued binary classifier from its margins :math:`y_i h(x_i)`.

    .. math:: P[y h(x) \le 0] \le \frac1n \sum_i \min(1, (1 - y_i h(x_i) / \theta)_+) + \frac2\theta \hat{\mathfrak R}(H)
              + 3 \sqrt{\frac{\ln (2/\delta)}{2n}}

    The margin must be fixed before looking at the sample.

    Args:
        margins: :math:`y_i h(x_i)` on the sample (n,).
        complexity: Empirical Rademacher complexity of the real-valued class.
        theta: Margin asked for, positive, in the unit of h.
        delta: Probability of failure.

    Returns:
        The bound on the error.

    Raises:
        SettingError: No margins, or an argument out of its range.
        NumericalError: A margin that is NaN.

    Source: Mohri, Rostamizadeh & Talwalkar 2018, theorem 5.8 (equation 5.37).
    """
    if margins.ndim != 1 or len(margins) == 0:
        raise SettingError(
            "margins must have shape (n,), n >= 1", str(tuple(margins.shape)), "Pass y * h(x)."
        )
    if bool(torch.isnan(margins).any()):
        raise NumericalError("margin_risk_bound needs margins that are numbers", "NaN", "Check the outputs.")
    theta = check_at_least("theta", theta, strictly=True)
    ramp = (1 - margins.detach().double() / theta).clamp(0, 1)
    return rademacher_risk_bound(float(ramp.mean()), contraction(complexity, 1 / theta), len(margins), delta)
