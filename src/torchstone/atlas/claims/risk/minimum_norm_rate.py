r"""The minimum-norm interpolant in a reproducing kernel Hilbert space has squared risk O(1/n) for a target in the space.

Let f_i interpolate the first i examples of y = f*(x) with the smallest norm, and e_i = f_{i-1}(x_i) - y_i be its error on the
next one. Adding an example raises the squared norm by exactly

    |f_i|^2 - |f_{i-1}|^2 = e_i^2 / P_{i-1}(x_i),   P_{i-1}(x) = k(x, x) - k_x' K^-1 k_x <= R^2 = sup k(x, x).

The norms increase and stay below |f*|, so one pass over the sample costs at most sum_i e_i^2 <= R^2 |f*|^2, whatever its length: the
mean risk over sample sizes up to n is at most R^2 |f*|^2 / n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Table, numbers

SIZES = (50, 100, 200, 400, 800, 1600)
DIMENSIONS, CENTRES, TEST = 4, 20, 1000
NOISE = 0.3  # of the counterexample, against targets of root mean square about 1
WIDTH = 2.0


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Targets inside the space, without noise."""
    return experiment(scale, generator, noise=0.0)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Noisy targets: interpolating the noise keeps the risk from falling, and their norm grows with n."""
    return experiment(scale, generator, noise=NOISE)


def experiment(scale: Scale, generator: torch.Generator, noise: float) -> Evidence:
    """Risk over sample sizes, and the price of one pass over the largest sample."""
    draws = 3 if scale is Scale.QUICK else 20
    risks = torch.empty(draws, len(SIZES), dtype=torch.float64)
    shares, defects = [], []
    for draw in range(draws):
        target = Target.drawn(generator)
        x = torch.rand(max(SIZES), DIMENSIONS, generator=generator, dtype=torch.float64)
        y = target(x) + noise * torch.randn(len(x), generator=generator, dtype=torch.float64)
        fresh = torch.rand(TEST, DIMENSIONS, generator=generator, dtype=torch.float64)
        factor = torch.linalg.cholesky(kernel(x, x))
        for j, n in enumerate(SIZES):
            part = factor[:n, :n]
            weights = torch.cholesky_solve(y[:n, None], part)[:, 0]
            risks[draw, j] = (kernel(fresh, x[:n]) @ weights - target(fresh)).square().mean()
        errors, variances = one_pass(factor, y)
        shares.append(float(errors.square().sum()) / target.squared_norm)
        defects += [recursion_defect(x, y, n, errors, variances) for n in SIZES[:4]]
    mean = risks.log().mean(0)
    slope = slope_of(torch.tensor(SIZES).double().log(), mean)
    return Evidence.all_of(
        Evidence.at_most(
            "slope of log excess risk against log n", slope, -0.9, "1/n is slope -1; smooth targets do better"
        ),
        Evidence.at_most(
            "largest sum of squared one-pass errors over R^2 |f*|^2", max(shares), 1.0, "for every sample"
        ),
        Evidence.at_most(
            "largest error of |f_n+1|^2 - |f_n|^2 = e^2 / P against interpolants solved anew",
            max(defects),
            1e-6,
            "the identity behind the bound; relative, and of e itself",
        ),
        figures=(risk_curve(risks, noise), risk_table(risks)),
    )


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Laplace kernel exp(-|x - x'| / WIDTH), R = 1: its space holds functions with (d + 1) / 2 square-integrable derivatives."""
    return torch.exp(-torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") / WIDTH)


class Target:
    """A function of the space: a sum of kernels at random centres, scaled to norm 5."""

    def __init__(self, centres: Tensor, weights: Tensor) -> None:
        norm = (weights @ kernel(centres, centres) @ weights).sqrt()
        self.centres, self.weights = centres, 5 * weights / norm
        self.squared_norm = 25.0

    @classmethod
    def drawn(cls, generator: torch.Generator) -> Target:
        """Twenty centres with Gaussian weights."""
        centres = torch.rand(CENTRES, DIMENSIONS, generator=generator, dtype=torch.float64)
        return cls(centres, torch.randn(CENTRES, generator=generator, dtype=torch.float64))

    def __call__(self, x: Tensor) -> Tensor:
        """Values (n,) at inputs (n, d)."""
        return kernel(x, self.centres) @ self.weights


def one_pass(factor: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Errors e_i of each example by the interpolant of those before, and P_{i-1}(x_i), from one Cholesky factor.

    With K = L L', row i of L holds the whitened covariances with earlier examples: e_i = -L_ii (L^-1 y)_i and P = L_ii^2.
    """
    innovations = torch.linalg.solve_triangular(factor, y[:, None], upper=False)[:, 0]
    return -factor.diagonal() * innovations, factor.diagonal().square()


def recursion_defect(x: Tensor, y: Tensor, n: int, errors: Tensor, variances: Tensor) -> float:
    """How far the recursion is from two interpolants that are solved for directly, of n and n + 1 examples."""
    gram = kernel(x[: n + 1], x[: n + 1])
    weights = torch.linalg.solve(gram[:n, :n], y[:n])
    error = float(gram[n, :n] @ weights - y[n])
    rise = float(y[: n + 1] @ torch.linalg.solve(gram, y[: n + 1]) - y[:n] @ weights)
    stated = float(errors[n].square() / variances[n])
    return max(abs(float(errors[n]) - error), abs(stated - rise) / max(rise, 1e-6))


def slope_of(x: Tensor, y: Tensor) -> float:
    """Least-squares slope."""
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / x.square().sum())


def risk_curve(risks: Tensor, noise: float) -> Curve:
    """Risk against n beside the bound's 1/n."""
    sizes = numbers(SIZES)
    label = "noisy targets" if noise else "targets in the space"
    bound = tuple(25 / n for n in SIZES)
    return Curve(
        "Excess risk of the minimum-norm interpolant",
        Axis("examples", log=True),
        Axis("excess risk", "squared error", log=True),
        (
            Line(
                label,
                sizes,
                numbers(risks.log().mean(0).exp()),
                numbers(risks.amin(0)),
                numbers(risks.amax(0)),
            ),
            Line("R^2 |f*|^2 / n", sizes, bound),
        ),
        caption="Geometric mean over draws, band from smallest to largest. Parallel to the line 1/n or steeper: no capacity "
        "was limited beforehand, the small norm was enough.",
    )


def risk_table(risks: Tensor) -> Table:
    """Risk times n."""
    rows = tuple(
        (n, float(risks[:, j].log().mean().exp()), n * float(risks[:, j].log().mean().exp()))
        for j, n in enumerate(SIZES)
    )
    return Table("Risk times n", ("n", "excess risk", "excess risk x n"), rows, "Bounded by R^2 |f*|^2 = 25.")


CLAIM = Claim(
    id="minimum_norm_rate",
    theme=Theme.RISK,
    title="The minimum-norm interpolant learns at rate 1/n",
    statement=(
        "Where the target has a bounded norm in a reproducing kernel Hilbert space and labels carry no noise, the kernel "
        "interpolant of minimum norm has a squared risk of order 1/n, with no limit on capacity."
    ),
    source="Hardt & Recht 2022, generalization chapter (the one-pass argument, for the perceptron); the identity of norms is the recursion of "
    "Gaussian conditioning, e.g. Rasmussen & Williams 2006, section 2.2",
    assumptions=(
        "The target lies in the space of the kernel.",
        "Labels carry no noise.",
        "Examples are independent draws of one law.",
    ),
    refuted_by="a slope of log risk against log n above -0.9, or a pass that costs more than R^2 |f*|^2",
    run=run,
    counterexample=counterexample,
    rows=("R21",),
)
