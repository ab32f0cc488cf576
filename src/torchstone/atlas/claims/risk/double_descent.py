r"""Double descent: the risk of minimum-norm least squares peaks where parameters equal examples, and falls again.

For x ~ N(0, I_p), y = <x, beta> + noise, E|beta|^2 = r^2, noise variance s^2 and gamma = p/n, the excess risk
|beta_hat - beta|^2 of the minimum-norm fit tends to

    gamma < 1:  s^2 gamma / (1 - gamma)            gamma > 1:  r^2 (1 - 1/gamma) + s^2 / (gamma - 1)

and its mean at finite n is, by the mean of an inverse Wishart matrix,

    p < n - 1:  s^2 p / (n - p - 1)                p > n + 1:  r^2 (1 - n/p) + s^2 n / (p - n - 1).

With the best ridge penalty s^2 p / r^2 it is s^2 gamma m(-s^2 gamma / r^2), m the Stieltjes transform of the
Marchenko-Pastur law: it rises to r^2 without a peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers

EXAMPLES = 400
SIGNAL, NOISE = 5.0, 1.0  # r^2 and s^2
GATES = (0.5, 0.8, 1.5, 3.0)
SWEEP = (0.1, 0.25, 0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
TARGETS = 30  # regressions that share one design matrix, to average over signal and noise

# A linear fit by what it does to the singular values of x: pinv(x) y is V 1/s U'y.
Filter = Callable[[Tensor, int], Tensor]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Minimum-norm least squares."""
    return experiment(scale, generator, minimum_norm)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The best ridge penalty in place of the minimum norm: no peak."""
    return experiment(scale, generator, best_ridge)


def experiment(scale: Scale, generator: torch.Generator, filtered: Filter) -> Evidence:
    """Sweep the number of parameters, and of random ReLU features, past the number of examples."""
    draws = 8 if scale is Scale.QUICK else 100
    n, both = EXAMPLES, (filtered, best_ridge)
    swept = {gamma: risk(n, round(gamma * n), draws, both, generator) for gamma in SWEEP}
    risks, ridge = ({gamma: found[i] for gamma, found in swept.items()} for i in (0, 1))
    [few], [many] = (risk(m, n, 2 * draws, (filtered,), generator) for m in (n // 2, n - n // 10))
    widths, features = random_features(draws, generator, filtered)

    peak = max(SWEEP, key=lambda gamma: float(risks[gamma].median()))
    highest_ridge = max(float(ridge[gamma].mean()) for gamma in SWEEP)
    gates = [
        Evidence.close(
            f"excess risk at p/n = {gamma}",
            risks[gamma].mean(),
            asymptotic(gamma),
            relative=0.08,
            standard_error=float(risks[gamma].std()) / draws**0.5,
        )
        for gamma in GATES
    ]
    exact = [
        Evidence.within_errors(
            f"excess risk at p = {round(gamma * n)}, n = {n}",
            risks[gamma],
            exact_mean(n, round(gamma * n)),
            errors=4,
            note="mean at finite n, from the inverse Wishart law",
        )
        for gamma in GATES
    ]
    return Evidence.all_of(
        *gates,
        Evidence.close("p/n of the highest median risk", peak, 1.0, absolute=0.0),
        *exact,
        Evidence.within_errors(
            f"rise of the risk from n = {n // 2} to {n - n // 10} examples at p = {n}",
            many - few,
            exact_mean(n - n // 10, n) - exact_mean(n // 2, n),
            errors=4,
            note="more data hurts on the way to n = p",
        ),
        Evidence.at_most(
            "highest risk with the best ridge penalty", highest_ridge, SIGNAL, "no peak: at most r^2"
        ),
        Evidence.close("best ridge at p = n", ridge[1.0].mean(), ridge_asymptotic(1.0), relative=0.08),
        Evidence.close(
            "random ReLU features: width of the peak over n",
            widths[int(features.argmax())] / FEATURE_EXAMPLES,
            1.0,
            absolute=0.0,
        ),
        figures=(sweep_curve(risks, ridge), feature_curve(widths, features), gate_table(risks)),
    )


def minimum_norm(s: Tensor, p: int) -> Tensor:
    """Least squares of smallest norm: 1 / s, whatever the number of parameters."""
    del p
    return 1 / s


def best_ridge(s: Tensor, p: int) -> Tensor:
    """Ridge with the penalty s^2 p / r^2, the posterior mean for beta ~ N(0, r^2/p)."""
    return s / (s**2 + NOISE * p / SIGNAL)


def risk(n: int, p: int, draws: int, filters: tuple[Filter, ...], generator: torch.Generator) -> Tensor:
    """Excess risk (filters, draws) in each draw of the design matrix, averaged over targets."""
    gaussian = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    found = torch.empty(len(filters), draws, dtype=torch.float64)
    for j in range(draws):
        x, beta = gaussian(n, p), gaussian(p, TARGETS) * (SIGNAL / p) ** 0.5
        y = x @ beta + NOISE**0.5 * gaussian(n, TARGETS)
        u, s, v = torch.linalg.svd(x, full_matrices=False)
        for i, filtered in enumerate(filters):
            fit = v.T @ (filtered(s, p)[:, None] * (u.T @ y))
            found[i, j] = (fit - beta).square().sum(0).mean()
    return found


def asymptotic(gamma: float) -> float:
    """Excess risk for n, p -> infinity (Hastie et al. 2022, section 3); infinite at 1."""
    if gamma == 1:
        return math.inf
    return NOISE * gamma / (1 - gamma) if gamma < 1 else SIGNAL * (1 - 1 / gamma) + NOISE / (gamma - 1)


def exact_mean(n: int, p: int) -> float:
    """Mean excess risk at finite n for a Gaussian design, |n - p| > 1."""
    return NOISE * p / (n - p - 1) if p < n else SIGNAL * (1 - n / p) + NOISE * n / (p - n - 1)


def ridge_asymptotic(gamma: float) -> float:
    """Excess risk with the best ridge penalty for n, p -> infinity (Dobriban & Wager 2018, theorem 2.1)."""
    penalty = NOISE * gamma / SIGNAL
    b = 1 - gamma + penalty
    stieltjes = (-b + math.sqrt(b * b + 4 * gamma * penalty)) / (2 * gamma * penalty)
    return NOISE * gamma * stieltjes


FEATURE_EXAMPLES = 100


def random_features(
    draws: int, generator: torch.Generator, filtered: Filter
) -> tuple[tuple[int, ...], Tensor]:
    """Median test error of a fit of N random ReLU features of a noisy linear teacher, for every N."""
    n, inputs = FEATURE_EXAMPLES, 20
    widths = tuple(
        round(share * n) for share in (0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
    )
    gaussian = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    errors = torch.empty(draws, len(widths), dtype=torch.float64)
    for i in range(draws):
        x, beta = gaussian(n + 500, inputs), gaussian(inputs, 1) / inputs**0.5
        clean = x @ beta
        y = clean[:n] + 0.5 * gaussian(n, 1)
        weights = gaussian(inputs, max(widths)) / inputs**0.5
        for j, width in enumerate(widths):
            hidden = torch.relu(x @ weights[:, :width])
            u, s, v = torch.linalg.svd(hidden[:n], full_matrices=False)
            scores = hidden[n:] @ (v.T @ (filtered(s, width)[:, None] * (u.T @ y)))
            errors[i, j] = (scores - clean[n:]).square().mean()
    return widths, errors.median(0).values


def sweep_curve(risks: dict[float, Tensor], ridge: dict[float, Tensor]) -> Curve:
    """Measured and theoretical risk over p/n."""
    lines = []
    for name, found in (("minimum norm, measured", risks), ("best ridge, measured", ridge)):
        mean = torch.stack([found[gamma].median() for gamma in SWEEP])
        half = torch.stack([2 * found[gamma].std() / len(found[gamma]) ** 0.5 for gamma in SWEEP])
        lines.append(Line(name, SWEEP, numbers(mean), numbers(mean - half), numbers(mean + half)))
    for name, low, high in (("fewer", 0.1, 0.97), ("more", 1.03, 3.0)):
        grid = numbers(torch.linspace(low, high, 80))
        lines.append(Line(f"theory, {name} parameters than examples", grid, tuple(map(asymptotic, grid))))
    grid = numbers(torch.linspace(0.1, 3.0, 80))
    lines.append(Line("theory, best ridge", grid, tuple(map(ridge_asymptotic, grid))))
    return Curve(
        "Excess risk against the number of parameters",
        Axis("parameters per example, p/n"),
        Axis("excess risk", "squared error", log=True),
        tuple(lines),
        (Marker("p = n", 1.0, "x"), Marker("risk of predicting 0", SIGNAL)),
        caption="Median over designs with two standard errors. The fit that just interpolates is the worst one; the "
        "best ridge penalty has no peak.",
    )


def feature_curve(widths: tuple[int, ...], features: Tensor) -> Curve:
    """Test error over the width of a random-feature network."""
    ratios = tuple(width / FEATURE_EXAMPLES for width in widths)
    return Curve(
        "Random ReLU features: test error against width",
        Axis("features per example, N/n", log=True),
        Axis("test error", "squared error", log=True),
        (Line("minimum-norm output layer", ratios, numbers(features)),),
        (Marker("N = n", 1.0, "x"),),
        caption="The same peak where a network with fixed random hidden units just fits its training data.",
    )


def gate_table(risks: dict[float, Tensor]) -> Table:
    """Measured risk beside both closed forms."""
    rows = tuple(
        (
            gamma,
            float(risks[gamma].mean()),
            float(risks[gamma].std()) / len(risks[gamma]) ** 0.5,
            asymptotic(gamma),
            exact_mean(EXAMPLES, round(gamma * EXAMPLES)),
        )
        for gamma in GATES
    )
    columns = ("p/n", "measured risk", "standard error", "limit n, p -> infinity", f"mean at n = {EXAMPLES}")
    return Table("Excess risk against the closed forms", columns, rows)


CLAIM = Claim(
    id="double_descent",
    theme=Theme.RISK,
    title="Double descent",
    statement=(
        "The excess risk of minimum-norm least squares grows up to the point where parameters equal examples, peaks "
        "there, and falls again beyond it, as a closed form says; the best ridge penalty removes the peak."
    ),
    source="Hastie, Montanari, Rosset & Tibshirani 2022, section 3; Dobriban & Wager 2018, theorem 2.1 (ridge); Belkin, Hsu, Ma & Mandal 2019; "
    "Nakkiran et al. 2020 (more data can hurt)",
    assumptions=(
        "Inputs are isotropic Gaussian and the truth is linear with independent noise.",
        "Parameters and examples are many: the closed form is their limit at a fixed ratio.",
        "Nothing regularises the fit but the choice of the smallest norm.",
    ),
    refuted_by="a risk more than 8% off the closed form, or a peak elsewhere than at p = n",
    run=run,
    counterexample=counterexample,
    rows=("R16",),
)
