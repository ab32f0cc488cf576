r"""The training error of a tiny ReLU network can be minimised exactly, and what that takes.

Once it is fixed on which examples each hidden unit is active, a network of k ReLU units is linear in its weights, and least
squares under linear constraints decides. An affine function has 2 sum_{i<=d} C(n-1, i) sign patterns on n points in
general position, so k units in d dimensions take of the order of n^(dk) such problems: polynomial in the number of
examples, exponential in dimension and width. Descent from many starts never gets lower.

No algorithm can avoid something of the kind unless P = NP: families of sets can be written as training data which two ReLU units
fit without error exactly when the sets can be split into two colours. That this decision problem is NP-hard is a theorem and
cannot be checked by a run. What is checked here: the translation, on instances small enough for exact minimisation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.approximation import (
    ExactReluFit,
    exact_relu_fit,
    find_split,
    pattern_count,
    sign_patterns,
    splitting_data,
    splitting_network,
)
from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Bars, Curve, Histogram, Line, Marker, Table, numbers

INSTANCES, EXAMPLES, DIMENSION, RESTARTS = 20, 8, 2, 500
SHAPES = ((3, 1), (8, 1), (8, 2), (12, 2), (8, 3), (5, 4), (9, 4), (4, 6))
FAMILIES = (
    ("one pair", 2, ((0, 1),)),
    ("a path", 3, ((0, 1), (1, 2))),
    ("a triangle", 3, ((0, 1), (1, 2), (0, 2))),
    ("a triple", 3, ((0, 1, 2),)),
    ("a triple and its pairs", 3, ((0, 1, 2), (0, 1), (0, 2))),
    ("a triple and a triangle", 3, ((0, 1, 2), (0, 1), (0, 2), (1, 2))),
    ("a triangle with a tail", 4, ((0, 1), (1, 2), (0, 2), (2, 3))),
    ("a star and a triple", 4, ((0, 1), (0, 2), (1, 2, 3), (0, 3))),
)


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Units of either output sign, as the networks have that descend."""
    return experiment(scale, generator, output_signs=(1.0, -1.0))


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """An enumeration that leaves out half of the patterns: those of units with a negative output weight."""
    return experiment(scale, generator, output_signs=(1.0,))


def experiment(scale: Scale, generator: torch.Generator, output_signs: tuple[float, ...]) -> Evidence:
    """Patterns counted, one unit fitted exactly and by descent, and sets translated into data."""
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    shapes = SHAPES if scale is Scale.QUICK else (*SHAPES, (20, 2), (14, 3), (12, 5))
    counted = [(n, d, len(sign_patterns(normal(n, d)))) for n, d in shapes]
    x, y = normal(INSTANCES, EXAMPLES, DIMENSION), normal(INSTANCES, EXAMPLES)
    fits = [exact_relu_fit(*pair, output_signs=output_signs) for pair in zip(x, y, strict=True)]
    exact = torch.tensor([fit.loss for fit in fits], dtype=torch.float64)
    reached = descend(x, y, 1000 if scale is Scale.QUICK else 20_000, generator)
    best = reached.min(1).values
    solved = [decided(name, elements, sets) for name, elements, sets in FAMILIES]
    split = [row for row in solved if row[2]]
    whole = [row for row in solved if not row[2]]
    return Evidence.all_of(
        Evidence.at_most(
            "largest difference of a count of patterns from 2 sum_{i<=d} C(n-1, i)",
            max(abs(found - pattern_count(n, d)) for n, d, found in counted),
            0,
        ),
        Evidence.at_most(
            f"largest excess of the exact minimum over the best of {RESTARTS} descents",
            (exact - best).max(),
            1e-12,
            f"{INSTANCES} instances, n = {EXAMPLES}, d = {DIMENSION}, k = 1",
        ),
        Evidence.at_most(
            "largest violation of the optimality conditions", max(fit.violation for fit in fits), 1e-9
        ),
        Evidence.at_most(
            "largest difference of the error of the network found from the exact minimum",
            max(abs(error_of(fit, *pair) - fit.loss) for fit, *pair in zip(fits, x, y, strict=True)),
            1e-12,
            "so it is attained, and no mere bound",
        ),
        Evidence.at_least(
            "share of single descents that end more than 1% above it",
            (reached > 1.01 * exact[:, None]).double().mean(),
            0.2,
        ),
        Evidence.at_most(
            "largest smallest error of two units where the sets can be split", max(r[3] for r in split), 1e-18
        ),
        Evidence.at_least(
            "smallest smallest error of two units where they cannot", min(r[3] for r in whole), 1e-3
        ),
        Evidence.at_most(
            "largest error of the network made of a split", max(r[4] for r in split), 1e-18, "by hand"
        ),
        figures=(ratios(reached, exact), growth(counted), instances(fits, best), table(solved)),
    )


def descend(x: Tensor, y: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Final losses of gradient descent for one unit, (instances, restarts), all restarts at once.

    The step is 1 / L with L = 2 lambda_max(X'X) / n, X with a column of ones, beyond which no unit's curvature can be.
    """
    data = torch.cat([x, torch.ones_like(x[..., :1])], dim=2)
    n = data.shape[1]
    rate = n / (2 * torch.linalg.matrix_norm(data, ord=2).square())
    shape = (len(x), RESTARTS)
    w = 2 * torch.randn(*shape, data.shape[2], generator=generator, dtype=torch.float64)
    sign = 2.0 * torch.randint(2, (*shape, 1), generator=generator) - 1
    for _ in range(steps):
        heights = w @ data.mT
        rest = sign * heights.clamp(min=0) - y[:, None]
        gradient = (sign * rest * (heights > 0)) @ data * (2 / n)
        w = w - rate[:, None, None] * gradient
    return (sign * (w @ data.mT).clamp(min=0) - y[:, None]).square().mean(2)


@torch.no_grad()
def error_of(fit: ExactReluFit, x: Tensor, y: Tensor) -> float:
    """Mean squared error of the network that the fit describes."""
    return float((fit.network()(x)[:, 0] - y).square().mean())


def decided(
    name: str, elements: int, sets: tuple[tuple[int, ...], ...]
) -> tuple[str, int, bool, float, float]:
    """Name, examples, whether the sets can be split, the exact minimum of two units, and the error of a split's network."""
    x, y = splitting_data(elements, sets)
    colours = find_split(elements, sets)
    made = math.nan
    if colours is not None:
        with torch.no_grad():
            made = float((splitting_network(colours, sets)(x)[:, 0] - y).square().mean())
    return name, len(x), colours is not None, exact_relu_fit(x, y, 2).loss, made


def ratios(reached: Tensor, exact: Tensor) -> Histogram:
    """Where single descents end."""
    over = (reached / exact[:, None]).clamp(max=4.0).flatten()
    edges = torch.linspace(1.0, 4.0, 31, dtype=torch.float64)
    counts = torch.histogram(over.clamp(min=1.0), edges).hist
    return Histogram(
        "Where descent from random starts ends",
        Axis("final loss over the exact minimum (above 4 shown at 4)"),
        numbers(edges),
        (Bars("all instances", numbers(100 * counts / len(over))),),
        (Marker("exact minimum", 1.0, "x"),),
        caption="Bars: percent of the descents. Nothing lies left of 1; what lies right of it are other local minima and dead "
        "units.",
        y=Axis("share of the descents", "%"),
    )


def instances(fits: list[ExactReluFit], best: Tensor) -> Table:
    """The exact minimum and the best descent for each instance."""
    rows = tuple(
        (index, fit.loss, float(reached), float(reached) / fit.loss)
        for index, (fit, reached) in enumerate(zip(fits, best, strict=True))
    )
    columns = ("instance", "exact minimum", f"best of {RESTARTS} descents", "ratio")
    caption = (
        "Most minima lie on a kink, with an example exactly at the edge of the unit's activity, where descent arrives slowly or "
        "not at all."
    )
    return Table("One unit, exactly and by descent", columns, rows, caption)


def growth(counted: list[tuple[int, int, int]]) -> Curve:
    """The formula over the number of examples, and the counts found."""
    sizes = range(2, 21)
    lines = [
        Line(f"formula, d = {d}", numbers(sizes), numbers(pattern_count(n, d) for n in sizes))
        for d in (1, 2, 3, 4)
    ]
    found = sorted((n, count) for n, d, count in counted if d == 2)
    lines.append(Line("counted, d = 2", numbers(n for n, _ in found), numbers(count for _, count in found)))
    return Curve(
        "Sign patterns of one unit",
        Axis("examples n", log=True),
        Axis("patterns", log=True),
        tuple(lines),
        caption="Straight lines are powers of n: the work of exact training grows like n^(dk).",
    )


def table(solved: list[tuple[str, int, bool, float, float]]) -> Table:
    """The translated families."""
    rows = tuple((name, n, "yes" if can else "no", loss) for name, n, can, loss, _ in solved)
    columns = ("sets", "examples", "can be split", "exact minimum of two units")
    return Table("Splitting sets by training two ReLU units", columns, rows)


CLAIM = Claim(
    id="exact_erm_of_relu_networks",
    theme=Theme.CURVATURE,
    title="Exact training of ReLU networks, and why it is hard",
    statement=(
        "The least training error of k ReLU units in d dimensions is the best of finitely many convex problems, one for each "
        "choice among 2 sum_{i<=d} C(n-1, i) sign patterns a unit; two units can fit data made from a family of sets exactly if "
        "and only if the sets can be split, which is NP-complete to decide."
    ),
    source="Arora, Basu, Mianjy & Mukherjee 2018, theorem 4.1; Cover 1965, theorem 1; Blum & Rivest 1992; Goel, Klivans, "
    "Manurangsi & Reichman 2021; Lovász 1973 (set splitting)",
    assumptions=(
        "Points are in general position, for the count; fewer patterns occur otherwise, and the enumeration stays exact.",
        "NP-hardness itself is a theorem: a run can check the translation and the exact minimiser, not the hardness.",
    ),
    refuted_by="a wrong count, a descent that ends below the exact minimum, or a family of sets decided wrongly",
    run=run,
    counterexample=counterexample,
    rows=("H14",),
)
