r"""A deep ReLU network squares its input with an error that falls fourfold with every layer.

f_m(x) = x - sum_{k=1}^m g_k(x) / 4^k, g_k the k-fold composition of the hat function, is the linear interpolant of x^2 on
2^m equal pieces: its error is h^2/4 with h = 2^-m. One hidden layer of N units has at most N + 1 pieces. On one of n
pieces the width is at least 1/n, so interpolation errs by 1/(4 n^2) or more, and any piecewise linear function by half of
that (the best line on a piece of width h misses x^2 by h^2/8).
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.approximation import SquareNetwork, shallow_interpolant
from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Table, numbers

DEPTHS = range(1, 11)
TOLERANCE = 1e-12


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """On [0, 1]."""
    return experiment(scale, generator, right_end=1.0)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """On [0, 1.25], where the hat function no longer folds the line back."""
    return experiment(scale, generator, right_end=1.25)


def experiment(scale: Scale, generator: torch.Generator, right_end: float) -> Evidence:
    """Largest errors of both wirings and of shallow interpolants on [0, right_end]."""
    plain, skipping = ([largest_error(deep(m, skip), right_end, m) for m in DEPTHS] for skip in (False, True))
    bounds = [deep(m).error_bound for m in DEPTHS]
    shallow = [largest_error(interpolant(2**m), 1.0, m) for m in DEPTHS]
    off_by = lambda found: max(abs(a - b) for a, b in zip(found, bounds, strict=True))
    x = right_end * torch.rand(scattered(scale), generator=generator, dtype=torch.float64)
    excess = max(float((deep(m)(x) - x**2).detach().abs().max()) - 2.0 ** (-2 * m - 2) for m in DEPTHS)
    m = DEPTHS[-1]
    n = 2**m
    return Evidence.all_of(
        Evidence.at_most(
            "largest deviation of the error from 2^(-2m-2), m = 1..10", off_by(plain), TOLERANCE
        ),
        Evidence.at_most("the same with connections that skip layers", off_by(skipping), TOLERANCE),
        Evidence.at_most("error beyond 2^(-2m-2) at random points", excess, TOLERANCE),
        Evidence.at_most(f"ReLU units at m = {m}", deep(m).units, 3 * m, "2 or 3 units a layer"),
        Evidence.close(f"linear pieces at m = {m}", pieces(deep(m), right_end, m), n, absolute=0.0),
        Evidence.at_most("deviation of the interpolant on 2^m pieces, m = 1..10", off_by(shallow), TOLERANCE),
        Evidence.close(
            f"error of the interpolant on 2^{m} - 1 pieces over 2^(-2m-2)",
            largest_error(interpolant(n - 1), 1.0, m, n - 1) / bounds[-1],
            (n / (n - 1)) ** 2,
            relative=1e-6,
            note="one piece fewer is not enough",
        ),
        Evidence.close(
            f"error of the best function of {n} pieces over 2^(-2m-2)",
            largest_error(interpolant(n, shift=True), 1.0, m) / bounds[-1],
            0.5,
            relative=1e-6,
            note="so no shallow network does with fewer than 2^m / sqrt(2) pieces",
        ),
        figures=(error_curve(bounds), *shape_curves(), price_table()),
    )


def deep(m: int, skip: bool = False) -> SquareNetwork:
    """The network of depth m in double precision."""
    return SquareNetwork(m, skip=skip, dtype=torch.float64)


def interpolant(n: int, shift: bool = False) -> torch.nn.Sequential:
    """x^2 on n equal pieces; shifted down by half its largest error it is the best function of n pieces."""
    knots = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    return shallow_interpolant(knots, knots**2 - (1 / (8 * n * n) if shift else 0.0))


def scattered(scale: Scale) -> int:
    """Number of random points."""
    return 2_000 if scale is Scale.QUICK else 1_000_000


def grid(right_end: float, m: int, n: int | None = None) -> Tensor:
    """Four points on each of n = 2^m pieces of [0, 1], and the same spacing beyond: holds knots and middles."""
    step = 1 / (4 * (n or 2**m))
    return torch.arange(round(right_end / step) + 1, dtype=torch.float64) * step


@torch.no_grad()
def largest_error(network: torch.nn.Module, right_end: float, m: int, n: int | None = None) -> float:
    """The largest |f(x) - x^2|, which lies at knots or in the middle of pieces."""
    x = grid(right_end, m, n)
    y = network(x) if isinstance(network, SquareNetwork) else network(x[:, None])[:, 0]
    return float((y - x**2).abs().max())


@torch.no_grad()
def pieces(network: SquareNetwork, right_end: float, m: int) -> int:
    """Number of linear pieces, from the slopes between points of the grid."""
    x = grid(right_end, m)
    slopes = network(x).diff() / x.diff()
    return 1 + int((slopes.diff().abs() > 2.0 ** (-m - 1)).sum())


def error_curve(bounds: list[float]) -> Curve:
    """Error over the number of units."""
    units = [deep(m).units for m in DEPTHS]
    return Curve(
        "Error of x^2 on [0, 1] against the number of ReLU units",
        Axis("ReLU units", log=True),
        Axis("largest error", log=True),
        (
            Line("deep: 3m - 1 units in m layers", numbers(units), numbers(bounds)),
            Line("one hidden layer, interpolating", numbers(2.0**m for m in DEPTHS), numbers(bounds)),
            Line(
                "one hidden layer, best possible",
                numbers(2.0**m for m in DEPTHS),
                numbers(b / 2 for b in bounds),
            ),
        ),
        caption="The deep network's error falls exponentially in its units, the shallow one's like their inverse square.",
    )


@torch.no_grad()
def shape_curves() -> tuple[Curve, Curve]:
    """The first approximations and their errors."""
    x = torch.linspace(0, 1, 257, dtype=torch.float64)
    lines = [Line(f"m = {m}", numbers(x), numbers(deep(m)(x))) for m in (1, 2, 3)]
    errors = [Line(f"m = {m}", numbers(x), numbers(deep(m)(x) - x**2)) for m in (1, 2, 3)]
    functions = Curve(
        "The first approximations of x^2",
        Axis("x"),
        Axis("f_m(x)"),
        (Line("x^2", numbers(x), numbers(x**2)), *lines),
        caption="Each layer doubles the number of pieces.",
    )
    return functions, Curve(
        "Their errors",
        Axis("x"),
        Axis("f_m(x) - x^2"),
        tuple(errors),
        caption="Never negative, zero at every knot, and four times smaller with each layer.",
    )


def price_table() -> Table:
    """Units needed for each accuracy."""
    rows = tuple((m, 2.0 ** (-2 * m - 2), deep(m, skip=True).units, deep(m).units, 2**m) for m in DEPTHS)
    columns = (
        "layers m",
        "error",
        "units, skipping",
        "units, dense",
        "pieces one layer needs to interpolate",
    )
    return Table("The price of accuracy", columns, rows)


CLAIM = Claim(
    id="square_by_depth",
    theme=Theme.APPROXIMATION,
    title="Squaring with depth",
    statement=(
        "A ReLU network of m layers and at most 3m units computes x^2 on [0, 1] with largest error exactly 2^(-2m-2); "
        "interpolating as well with one hidden layer takes 2^m pieces."
    ),
    source="Yarotsky 2017, proposition 2; Telgarsky 2015, section 2 (pieces and the sawtooth)",
    assumptions=(
        "Inputs lie in [0, 1]; other intervals are mapped there first.",
        "Weights are set by hand: nothing is said about what training finds.",
    ),
    refuted_by="an error that differs from 2^(-2m-2) by more than 1e-12 for some m from 1 to 10",
    run=run,
    counterexample=counterexample,
    rows=("X06",),
)
