"""How many probes a stochastic trace needs, and how far a quadratic form in random signs can stray."""

from __future__ import annotations

import math

from torchstone.errors import SettingError
from torchstone.linalg.probes import Distribution, require_distribution


def hanson_wright_reach(t: float, *, frobenius_norm: float, norm: float, probes: int = 1) -> float:
    r"""How far above the trace the mean of `probes` quadratic forms is with probability at most e^-t.

    For positive semi-definite A and independent x_j of independent random signs, or standard normal entries,

        P( (1/m) sum_j x_j^T A x_j > tr A + 2 sqrt(tr(A^2) t / m) + 2 ||A|| t / m ) <= e^-t.

    Cost: none, a formula. Accuracy: a bound that holds for every such A and is seldom reached.

    Args:
        t: At least 0.
        frobenius_norm: ||A||_F = sqrt(tr(A^2)), or a bound on it.
        norm: ||A||, the largest eigenvalue, or a bound on it.
        probes: m.

    Returns:
        2 sqrt(tr(A^2) t / m) + 2 ||A|| t / m.

    Raises:
        SettingError: A number out of range.

    >>> hanson_wright_reach(1.0, frobenius_norm=3.0, norm=2.0)
    10.0

    Source: Hanson & Wright 1971; with these constants Laurent & Massart 2000, lemma 1 (normal entries); Hsu, Kakade & Zhang
    2012, Electron. Commun. Probab. 17(52), theorem 2.1 (subgaussian ones; m forms are one with A / m m times on the
    diagonal).
    """
    _require_all(t=t, frobenius_norm=frobenius_norm, norm=norm)
    if probes < 1:
        raise SettingError("probes must be at least 1", f"{probes}", "Raise it.")
    return 2 * frobenius_norm * math.sqrt(t / probes) + 2 * norm * t / probes


def probe_count(
    relative_error: float,
    failure: float,
    *,
    trace: float | None = None,
    frobenius_norm: float | None = None,
    norm: float | None = None,
    definite: bool = True,
    distribution: Distribution = "rademacher",
) -> int:
    r"""Probes m with which Hutchinson's estimate is off by more than relative_error |tr A| with probability <= failure.

    Knowing only that A is positive semi-definite, with t = ln(2 / failure) and e = relative_error,

        m = 2 t / (e - ln(1 + e)),

    about 4 t / e^2 for small e and less than 6 t / e^2 for e <= 3/4, which is the usual form. It is Chernoff's bound upwards,
    from E exp(h x^T A x / tr A) <= (1 - 2h)^(-1/2); downwards, E exp(-h x^T A x / tr A) <= 1 - h + 3 h^2 / 2 gives fewer.
    The worst case is a matrix of rank one.

    Cost: none, a formula; it holds for every such A, so that most need fewer.

    Where the spectrum is known there are fewer still. With F = ||A||_F and L = ||A||, m is the least number with

        (1)  2 F sqrt(t / m) + 2 L t / m <= e tr A            upwards: see `hanson_wright_reach`,
        (2)  sqrt(8) F sqrt(t / m) + 2 L t / m <= e tr A      downwards for random signs, or
        (3)  sqrt(2 (tr(A)^2 + 2 F^2) t / m) <= e tr A        instead: Bernstein for forms that cannot be negative.

    For symmetric A that is not definite, (2) with 4 L instead of 2 L holds both ways for random signs, and (1) for normal
    entries. (2) is ln E exp(h x^T B x) <= 2 h^2 F^2 / (1 - 2 h ||B||) for B = A without its diagonal, by the log-Sobolev
    inequality of the cube and E exp(h |B x|^2) <= E exp(h |B g|^2), g normal.

    Args:
        relative_error: e, above 0.
        failure: Probability allowed, between 0 and 1.
        trace: tr A, or a lower bound on |tr A|. With it, frobenius_norm and norm are needed too.
        frobenius_norm: ||A||_F, or an upper bound.
        norm: ||A||, or an upper bound.
        definite: Whether A is positive semi-definite.
        distribution: Of the probes' entries.

    Returns:
        m; the error is two-sided, each side with half of `failure`.

    Raises:
        SettingError: A number out of range, a spectrum half given, or none for A not definite.

    >>> probe_count(0.1, 0.05)
    1574
    >>> probe_count(0.1, 0.05, trace=1000.0, frobenius_norm=32.0, norm=1.0)
    4

    Source: Roosta-Khorasani & Ascher 2015, Found. Comput. Math. 15, theorem 1 (6 t / e^2), by the bounds of Achlioptas 2003,
    section 5; Hsu, Kakade & Zhang 2012 for (1); Boucheron, Lugosi & Massart 2013, Concentration Inequalities, theorem 5.1 and
    chapter 6 for the method of (2). Cortinovis & Kressner 2022, Found. Comput. Math. 22, treat matrices not definite.
    """
    _require_all(relative_error=relative_error, failure=failure)
    if relative_error == 0 or not 0 < failure < 1:
        raise SettingError(
            "relative_error must be positive and failure between 0 and 1",
            f"{relative_error} and {failure}",
            "0.1 and 0.05 ask for 10% in 95% of the cases.",
        )
    t = math.log(2 / failure)
    known = [value for value in (trace, frobenius_norm, norm) if value is not None]
    require_distribution(distribution)
    signs = distribution == "rademacher"
    if not known:
        if not definite:
            raise SettingError(
                "A trace that is not of a definite matrix may be zero, so its relative error needs the spectrum",
                "definite=False without it",
                "Pass trace=, frobenius_norm= and norm=.",
            )
        return math.ceil(_worst(t, relative_error))
    if trace is None or frobenius_norm is None or norm is None:
        raise SettingError(
            "A spectrum is known by trace, frobenius_norm and norm",
            f"{len(known)} of them",
            "Pass all three.",
        )
    _require_all(trace=abs(trace), frobenius_norm=frobenius_norm, norm=norm)
    error = relative_error * abs(trace)
    if error == 0:
        raise SettingError("trace must not be zero", "0", "No relative error of it is small.")
    both_ways = _least(t, math.sqrt(8) * frobenius_norm, 2 * norm * (1 if definite else 2), error)
    upwards = _least(t, 2 * frobenius_norm, 2 * norm, error)
    if not definite:
        return math.ceil(both_ways if signs else upwards)
    bernstein = 2 * (trace**2 + 2 * frobenius_norm**2) * t / error**2
    sharp = max(upwards, min(both_ways, bernstein)) if signs else upwards
    return max(1, math.ceil(min(sharp, _worst(t, relative_error))))


def _worst(t: float, e: float) -> float:
    """Enough for every positive semi-definite matrix."""
    return 2 * t / (e - math.log1p(e))


def _least(t: float, root: float, linear: float, error: float) -> float:
    """The m with root sqrt(t / m) + linear t / m = error."""
    y = 2 * error / (root + math.sqrt(root**2 + 4 * linear * error))  # sqrt(t / m)
    return t / y**2


def _require_all(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise SettingError(
                f"{name} must be a finite number, not negative", f"{value}", "Check what computed it."
            )
