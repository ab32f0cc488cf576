r"""What Lanczos from a random vector knows of the whole spectrum.

k steps from v give a tridiagonal T = U diag(theta) U' and with it the Gauss rule of v's spectral measure:

    v' f(A) v ~ sum_j tau_j^2 f(theta_j),    tau_j = U_1j,

exact for polynomials of degree up to 2k - 1. The weights are the squared *first* components of the k eigenvectors. Taking
the squared components of the first eigenvector instead, a row for a column, gives numbers that also add up to 1 and mean
nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, numbers
from torchstone.linalg import draw_probes, lanczos, lanczos_quadrature
from torchstone.linalg.as_linear_map import as_linear_map

SIZE, STEPS, PROBES = 500, 30, 30
MOMENTS_OF = 8  # steps of the rule whose moments are compared: A^15 in float64 still has its digits

Weights = Callable[[Tensor], Tensor]
Rules = tuple[Tensor, Tensor]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """First components of the eigenvectors."""
    return experiment(scale, generator, lambda vectors: vectors[0].square())


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Components of the first eigenvector."""
    return experiment(scale, generator, lambda vectors: vectors[:, 0].square())


def experiment(scale: Scale, generator: torch.Generator, weights_of: Weights) -> Evidence:
    """Moments of single vectors; log-determinants and distances to the exact spectrum from 30 of them."""
    repeats = 1 if scale is Scale.QUICK else 10
    spectra = {
        "even": torch.linspace(1, 100, SIZE, dtype=torch.float64),
        "over four decades": torch.logspace(-2, 2, SIZE, dtype=torch.float64),
        "as 1/i": 1 / torch.arange(SIZE, 0, -1, dtype=torch.float64),
    }
    two = torch.tensor([1.0, 7.0], dtype=torch.float64).repeat_interleave(
        SIZE // 2
    )  # Lanczos ends after two steps
    parts, figures = [], []
    for name, values in {**spectra, "two values": two}.items():
        matrix = with_spectrum(values, generator)
        worst = max(moment_error(matrix, weights_of, generator) for _ in range(5))
        degree = 2 * MOMENTS_OF - 1
        parts.append(
            Evidence.at_most(
                f"error of v'A^p v for p <= {degree}, {name}", worst, 1e-9, "relative, five vectors"
            )
        )
        if name not in spectra:
            continue
        rules = gauss_rules(matrix, weights_of, generator)
        for repeat in range(repeats):
            rules = gauss_rules(matrix, weights_of, generator) if repeat else rules
            suffix = f", repeat {repeat + 1}" if repeats > 1 else ""
            gap = wasserstein(rules, values) / float(values[-1] - values[0])
            parts.append(
                Evidence.at_most(
                    f"distance to the spectrum, {name}{suffix}", gap, 0.02, "Wasserstein-1 over range"
                )
            )
            if name == "even":
                found = SIZE * (rules[1] * rules[0].clamp_min(1e-300).log()).sum(dim=1).mean()
                parts.append(
                    Evidence.close(f"log-determinant{suffix}", found, values.log().sum(), relative=0.01)
                )
        figures.append(distribution(name, rules, values))
    matrix = with_spectrum(spectra["even"], generator)
    ours = lanczos_quadrature(matrix, probes=PROBES, steps=STEPS, generator=generator).trace_of(torch.log)
    truth = float(spectra["even"].log().sum())
    parts.append(
        Evidence.at_most(
            "log-determinant of linalg.lanczos_quadrature, in standard errors",
            abs(ours.value - truth) / ours.standard_error,
            4,
        )
    )
    return Evidence.all_of(*parts, figures=figures)


def with_spectrum(values: Tensor, generator: torch.Generator) -> Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)).Q
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


def moment_error(matrix: Tensor, weights_of: Weights, generator: torch.Generator) -> float:
    """Largest relative error of a rule's moments up to degree 2k - 1."""
    v = draw_probes(as_linear_map(matrix), 1, generator)[:, 0]
    v = v / v.norm()
    nodes, vectors = torch.linalg.eigh(lanczos(matrix, MOMENTS_OF, start=v).tridiagonal)
    weights, power, errors = weights_of(vectors), v, []
    for p in range(2 * MOMENTS_OF):
        exact = float(v @ power)
        errors.append(abs(float(weights @ nodes**p) / exact - 1))
        power = matrix @ power
    return max(errors)


def gauss_rules(matrix: Tensor, weights_of: Weights, generator: torch.Generator) -> Rules:
    """Nodes and weights of 30 random vectors, a row each; short rules are filled up with weight 0."""
    nodes, weights = (
        torch.ones(PROBES, STEPS, dtype=torch.float64),
        torch.zeros(PROBES, STEPS, dtype=torch.float64),
    )
    for row in range(PROBES):
        found, vectors = torch.linalg.eigh(lanczos(matrix, STEPS, generator=generator).tridiagonal)
        nodes[row, : len(found)], weights[row, : len(found)] = found, weights_of(vectors)
    return nodes, weights


def wasserstein(rules: Rules, values: Tensor) -> float:
    """Wasserstein-1 distance between the mean rule and the uniform measure on the eigenvalues."""
    from scipy.stats import wasserstein_distance

    nodes, weights = (x.flatten().numpy() for x in rules)
    return float(wasserstein_distance(nodes, values.numpy(), weights / weights.sum()))


def distribution(name: str, rules: Rules, values: Tensor) -> Curve:
    """The share of eigenvalues up to each point: exact, of one rule, and of the mean of all."""
    grid = torch.linspace(float(values[0]), float(values[-1]), 300, dtype=torch.float64)
    share = lambda nodes, weights: ((nodes[:, None] <= grid) * weights[:, None]).sum(dim=0)
    exact = (values[:, None] <= grid).double().mean(dim=0)
    lines = (
        Line("exact", numbers(grid), numbers(exact)),
        Line("one vector", numbers(grid), numbers(share(rules[0][0], rules[1][0]))),
        Line(
            f"mean of {PROBES}",
            numbers(grid),
            numbers(share(rules[0].flatten(), rules[1].flatten() / PROBES)),
        ),
    )
    return Curve(
        f"Distribution of eigenvalues, {name}",
        Axis("eigenvalue"),
        Axis("share up to here"),
        lines,
        caption=f"One vector gives {STEPS} steps; their mean over {PROBES} vectors follows the {SIZE} eigenvalues.",
    )


CLAIM = Claim(
    id="lanczos_quadrature",
    theme=Theme.CURVATURE,
    title="Stochastic Lanczos quadrature",
    statement="The nodes and squared first components of k Lanczos steps integrate polynomials of degree 2k - 1 exactly; "
    "30 steps from 30 random vectors give the log-determinant of 500 eigenvalues within 1% and their distribution within "
    "2% of its range.",
    source="Golub & Meurant 2010, theorem 6.2; Ubaru, Chen & Saad 2017; Ghorbani, Krishnan & Xiao 2019",
    assumptions=(
        "A is symmetric; positive definite for the log-determinant.",
        "Lanczos vectors are kept orthogonal.",
        "The random vectors are uniform on the sphere.",
    ),
    refuted_by="a moment of degree below 2k off by 1e-9, a log-determinant by 1%, or a Wasserstein distance of 2% of the range",
    run=run,
    counterexample=counterexample,
    rows=("H05",),
)
