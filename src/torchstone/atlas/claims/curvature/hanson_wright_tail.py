r"""How far a quadratic form in random signs strays from its mean, and how many of them make a trace.

For positive semi-definite A and x of independent random signs,

    P( x'Ax > tr A + 2 sqrt(tr(A^2) t) + 2 |A| t ) <= e^-t.

The first term is that of a normal variable; the second is the price of an eigenvalue that stands out, and cannot be
dropped. The mean of m forms has t / m for t, from which a budget of probes follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, numbers
from torchstone.linalg import hanson_wright_reach, hutchinson_trace, probe_count

DRAWS = 100_000
LEVELS = (1.0, 2.0, 4.0, 6.0)
SIZE = 40
REPEATS = 500
ERROR, FAILURE = 0.3, 0.1

Reach = Callable[[float, float, float], float]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Both terms."""
    return experiment(
        scale, generator, lambda t, root, norm: hanson_wright_reach(t, frobenius_norm=root, norm=norm)
    )


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Without the term 2 |A| t, as if forms were normal variables."""
    return experiment(scale, generator, lambda t, root, _: 2 * root * math.sqrt(t))


def experiment(scale: Scale, generator: torch.Generator, reach: Reach) -> Evidence:
    """Empirical tails at four levels, and budgets kept or not, for three spectra."""
    draws = DRAWS if scale is Scale.QUICK else 20 * DRAWS
    repeats = REPEATS if scale is Scale.QUICK else 10 * REPEATS
    parts, lines = [], []
    for name, matrix in matrices(generator).items():
        trace, root, norm = (
            float(x) for x in (matrix.trace(), matrix.norm(), torch.linalg.matrix_norm(matrix, 2))
        )
        excess = forms(matrix, draws, generator) - trace
        share = lambda t, excess=excess, root=root, norm=norm: float(
            (excess > reach(t, root, norm)).double().mean()
        )
        for t in LEVELS:
            error = math.sqrt(math.exp(-t) * (1 - math.exp(-t)) / draws)
            parts.append(
                Evidence.at_most(
                    f"tail at t = {t:g}, {name}", share(t), math.exp(-t) + 3 * error, "e^-t, 3 errors"
                )
            )
        curve = [(t / 10, share(t / 10)) for t in range(71)]
        seen = [(t, tail) for t, tail in curve if tail > 0]
        lines.append(Line(name, numbers(t for t, _ in seen), numbers(tail for _, tail in seen)))
        budgets = {
            "knowing the spectrum": probe_count(ERROR, FAILURE, trace=trace, frobenius_norm=root, norm=norm),
            "for any spectrum": probe_count(ERROR, FAILURE),
        }
        for kind, probes in budgets.items():
            kept = coverage(matrix, probes, repeats, generator)
            parts.append(
                Evidence.at_least(
                    f"share of estimates within 30%, {name}, {kind}", kept, 1 - FAILURE, f"{probes} probes"
                )
            )
    bound = Line("e^-t", numbers(t / 10 for t in range(71)), numbers(math.exp(-t / 10) for t in range(71)))
    figure = Curve(
        "Tail of a quadratic form in random signs",
        Axis("t"),
        Axis("share of the draws beyond the reach of t", log=True),
        (bound, *lines),
        caption="Below the line e^-t the bound holds. The nearer a curve comes to it, the less the bound gives away; a "
        "matrix of rank one comes nearest.",
    )
    return Evidence.all_of(*parts, figures=(figure,))


def matrices(generator: torch.Generator) -> dict[str, Tensor]:
    """Positive semi-definite matrices with random eigenvectors."""
    ranks = torch.arange(1, SIZE + 1, dtype=torch.float64)
    spectra = {
        "rank one": (ranks == 1).double(),
        "projection on half the space": (ranks <= SIZE // 2).double(),
        "eigenvalues 1/i": 1 / ranks,
    }
    made = {}
    for name, values in spectra.items():
        basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)).Q
        made[name] = (basis * values) @ basis.T
    return made


def forms(matrix: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Independent x'Ax for x of random signs."""
    block = max(1, draws // 20)
    return hutchinson_trace(matrix, probes=draws, generator=generator, block=block).samples


def coverage(matrix: Tensor, probes: int, repeats: int, generator: torch.Generator) -> float:
    """How often the mean of so many probes is within the relative error asked for."""
    means = forms(matrix, probes * repeats, generator).view(repeats, probes).mean(dim=1)
    return float(((means / matrix.trace() - 1).abs() <= ERROR).double().mean())


CLAIM = Claim(
    id="hanson_wright_tail",
    theme=Theme.CURVATURE,
    title="Concentration of quadratic forms, and the number of probes",
    statement="A quadratic form in random signs exceeds tr A + 2 sqrt(tr(A^2) t) + 2 |A| t with probability at most e^-t "
    "for positive semi-definite A, and the number of probes that follows keeps its promise.",
    source="Hanson & Wright 1971; Rudelson & Vershynin 2013; with these constants Hsu, Kakade & Zhang 2012, theorem 2.1; "
    "Roosta-Khorasani & Ascher 2015, theorem 1, for 6 ln(2/delta) / eps^2 probes",
    assumptions=(
        "A is positive semi-definite.",
        "The entries of x are independent random signs, or subgaussian with variance proxy 1.",
    ),
    refuted_by="a tail more than three standard errors above e^-t at t = 1, 2, 4 or 6, or a budget missed more often than "
    "allowed",
    run=run,
    counterexample=counterexample,
    rows=("H04",),
)
