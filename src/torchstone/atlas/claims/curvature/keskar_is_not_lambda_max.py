r"""Keskar's sharpness is a maximum in a box and not the largest eigenvalue of the Hessian.

For f(x) = x'Hx / 2 with H positive semi-definite, at its minimum 0 where f = 0, Keskar's box is |x_i| <= eps and

    phi / 100 = max { x'Hx / 2 : |x_i| <= eps } = (eps^2 / 2) max { s'Hs : s_i = +-1 },      eps^2 tr(H) / 2 for diagonal H.

The mean of s'Hs over all sign vectors is tr(H), so that (eps^2 / 2) tr(H) <= phi / 100 <= (eps^2 / 2) n lambda_max: the two
measures agree only where one eigenvalue is all there is and the box is one-dimensional, and neither orders networks as
the other does.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.objectives import Regression
from torchstone.operators.sharpness import RiskAround, keskar_sharpness
from torchstone.specimen import Specimen

EPSILON = 1e-3
SIZE = 8


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Keskar's sharpness against the trace."""
    return experiment(scale, generator, by_trace=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Keskar's sharpness expected to follow the largest eigenvalue, as it is often described."""
    return experiment(scale, generator, by_trace=False)


def experiment(scale: Scale, generator: torch.Generator, by_trace: bool) -> Evidence:
    """Diagonal quadratics against the formula, rotated ones against all corners, and pairs that disagree."""
    many = 3 if scale is Scale.QUICK else 50
    worst = 0.0
    for _ in range(many):
        values = torch.rand(SIZE, generator=generator, dtype=torch.float64) ** 3
        formula = EPSILON**2 / 2 * float(values.sum() if by_trace else values.max())
        worst = max(worst, abs(keskar(torch.diag(values), generator) / formula - 1))
    corners, bounds = rotated(many, generator)
    flat, peaked = torch.ones(SIZE, dtype=torch.float64), torch.zeros(SIZE, dtype=torch.float64)
    peaked[0] = 1.0
    same_top = keskar(torch.diag(flat), generator) / keskar(torch.diag(peaked), generator)
    same_trace = keskar(torch.diag(SIZE * peaked), generator) / keskar(torch.diag(flat), generator)
    shape = peaked.roll(3) * 7 + 0.1
    basis = rotation(generator)
    turned = keskar(basis @ torch.diag(shape) @ basis.T, generator)
    return Evidence.all_of(
        Evidence.at_most(
            "largest relative deviation from eps^2 / 2 times " + ("the trace" if by_trace else "lambda_max"),
            worst,
            1e-6,
            "diagonal quadratics at 0",
        ),
        Evidence.at_most(
            "largest ratio to the best of all corners", corners[1], 1 + 1e-9, "quadratics in any position"
        ),
        Evidence.at_least(
            "smallest ratio to the best of all corners",
            corners[0],
            0.9,
            "a search, of a maximum that is NP-hard to find",
        ),
        Evidence.at_most("largest ratio to the upper bound n lambda_max", bounds[1], 1 + 1e-12),
        Evidence.at_least("smallest ratio to the lower bound tr(H)", bounds[0], 1 - 1e-12),
        Evidence.close(
            f"sharpness of diag(1, ..., 1) over that of diag(1, 0, ..., 0), n = {SIZE}",
            same_top,
            SIZE,
            relative=1e-6,
            note="both have largest eigenvalue 1",
        ),
        Evidence.close(
            f"sharpness of diag({SIZE}, 0, ..., 0) over that of diag(1, ..., 1)",
            same_trace,
            1.0,
            relative=1e-6,
            note=f"their largest eigenvalues are {SIZE} and 1",
        ),
        Evidence.at_least(
            "what a rotation does to Keskar's sharpness, which the eigenvalues do not notice",
            abs(turned / (EPSILON**2 / 2 * float(shape.sum())) - 1),
            0.1,
        ),
        Evidence.at_most(
            f"relative distance from second order for a product u v x, eps = {EPSILON / 10:g}",
            small_box(),
            0.01,
        ),
        figures=(curve(generator), table(same_top, same_trace)),
    )


def bowl(hessian: Tensor) -> Specimen:
    """Linear regression on zeros whose mean squared error is x'Hx / 2, at x = 0."""
    size = len(hessian)
    values, basis = torch.linalg.eigh(hessian)
    rows = (size / 2) ** 0.5 * (basis * values.clamp(min=0).sqrt()).T
    model = nn.Linear(size, 1, bias=False, device="meta", dtype=torch.float64).to_empty(device="cpu")
    nn.init.zeros_(model.weight)
    return Specimen(model, Regression(), (rows, torch.zeros(size, 1, dtype=torch.float64)), batch_size=size)


def keskar(hessian: Tensor, generator: torch.Generator, restarts: int = 3) -> float:
    """Keskar's sharpness of a bowl, as a rise of the loss."""
    return keskar_sharpness(
        RiskAround(bowl(hessian)), EPSILON, restarts=restarts, evaluations=30, generator=generator
    ).rise


def best_corner(hessian: Tensor) -> float:
    """The largest s'Hs over sign vectors, by trying all."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=len(hessian))), dtype=torch.float64)
    return float(((signs @ hessian) * signs).sum(1).max())


def rotation(generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)).Q


def rotated(many: int, generator: torch.Generator) -> tuple[tuple[float, float], tuple[float, float]]:
    """Smallest and largest ratio of what is found to the best corner, and of the best corner to the two bounds."""
    found, low, high = [], [], []
    for _ in range(many):
        values = torch.rand(SIZE, generator=generator, dtype=torch.float64) ** 2
        basis = rotation(generator)
        hessian = basis @ torch.diag(values) @ basis.T
        corner = best_corner(hessian)
        found.append(keskar(hessian, generator, restarts=20) / (EPSILON**2 / 2 * corner))
        low.append(corner / float(values.sum()))
        high.append(corner / (SIZE * float(values.max())))
    return (min(found), max(found)), (min(low), max(high))


class Product(nn.Module):
    """(u, v) -> u v x: not quadratic; at u = v = 1 its loss on (1, 1) is (u v - 1)^2."""

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.v = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return self.u * self.v * x


def product_rise(epsilon: float) -> tuple[float, float]:
    """Keskar's rise for the product network and its second-order value; the box is +-2 eps and H = 2 [[1, 1], [1, 1]]."""
    one = torch.ones(1, 1, dtype=torch.float64)
    around = RiskAround(Specimen(Product(), Regression(), (one, one)))
    found = keskar_sharpness(
        around, epsilon, restarts=4, evaluations=30, generator=torch.Generator().manual_seed(0)
    )
    return found.rise, (2 * epsilon) ** 2 / 2 * 8.0


def small_box() -> float:
    """How far the exact value is from second order in a small box."""
    exact, second = product_rise(EPSILON / 10)
    return abs(exact / second - 1)


def curve(generator: torch.Generator) -> Curve:
    """Spectra with the same largest eigenvalue: sharpness over the number of eigenvalues that are 1."""
    counts = range(1, SIZE + 1)
    rises = []
    for count in counts:
        values = torch.zeros(SIZE, dtype=torch.float64)
        values[:count] = 1.0
        rises.append(keskar(torch.diag(values), generator) / (EPSILON**2 / 2))
    return Curve(
        "Quadratics with largest eigenvalue 1",
        Axis("number of eigenvalues that are 1"),
        Axis("Keskar's sharpness, in units of eps² / 2"),
        (
            Line("Keskar's sharpness", numbers(counts), numbers(rises)),
            Line("largest eigenvalue", numbers(counts), (1.0,) * SIZE),
        ),
        caption="All these minima are equally sharp by the largest eigenvalue; in the box they differ eightfold.",
    )


def table(same_top: float, same_trace: float) -> Table:
    """The two pairs, and the product network."""
    wide, second = product_rise(0.1)
    rows = (
        ("diag(1, ..., 1) over diag(1, 0, ..., 0)", 1.0, same_top),
        (f"diag({SIZE}, 0, ..., 0) over diag(1, ..., 1)", float(SIZE), same_trace),
        ("u v x at u = v = 1, eps = 0.1, over its second-order value", 1.0, wide / second),
    )
    columns = ("ratio of", "largest eigenvalues", "Keskar's sharpness")
    return Table("What one measure sees and the other does not", columns, rows)


CLAIM = Claim(
    id="keskar_is_not_lambda_max",
    theme=Theme.CURVATURE,
    title="Keskar's sharpness is not the largest eigenvalue",
    statement=(
        "Keskar's sharpness is the largest relative rise of the loss in a box. At a minimum at 0 with loss 0 and a diagonal "
        "positive semi-definite Hessian it is 100 eps^2 tr(H) / 2; networks with one largest eigenvalue can differ in it "
        "n-fold, and the other way round."
    ),
    source="Keskar et al. 2017, metric 2.1; the formulas follow from a convex function's maximum over a box being at a corner",
    assumptions=(
        "The Hessian is positive semi-definite and the loss quadratic; otherwise the formulas hold to second order in eps.",
        "The weights are 0, so that the box has the same width eps in every direction.",
    ),
    refuted_by="a relative deviation of 1e-6 from eps^2 tr(H) / 2, or a rise above that of the best corner",
    run=run,
    counterexample=counterexample,
    rows=("H06",),
    errata=(
        Erratum(
            "E24",
            stated="Keskar's sharpness is the largest eigenvalue of the Hessian",
            correct="It is the largest relative rise of the loss in a box, in all weights or in a random subspace; the "
            "largest eigenvalue bounds it only to second order, by eps^2 n lambda_max / 2",
        ),
    ),
)
