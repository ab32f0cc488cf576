r"""The exact least-squares fit of a ReLU network of one hidden layer, by enumeration.

    min  (1/n) sum_i (sum_{j=1}^k s_j relu(w_j'x_i + b_j) - y_i)^2      over w_j, b_j and s_j in {-1, 1}

Once each unit's sign pattern on the data is fixed, relu is linear and the problem is least squares over a product of
polyhedral cones. A cone is the set of non-negative combinations of its extreme rays, so each problem is non-negative least
squares, whose solution is certified by its optimality conditions. Every (w, b) lies in the closure of some cell, so the best of
all problems is the global minimum.
Source: Arora, Basu, Mianjy & Mukherjee 2018, theorem 4.1 and algorithm 1 (enumeration with a convex program for each pattern).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.approximation.dense_layer import dense_layer
from torchstone.approximation.nonnegative_fit import nonnegative_fit
from torchstone.approximation.sign_patterns import sign_patterns
from torchstone.errors import SettingError

_ZERO = 1e-9


@dataclass(frozen=True)
class ExactReluFit:
    """A global minimiser of the training error.

    Args:
        loss: The smallest mean squared error.
        units: (w_j, b_j) for each hidden unit, (k, d + 1).
        signs: s_j, +1 or -1 for each unit.
        patterns: Sign patterns of one unit on the data.
        problems: Non-negative least-squares problems solved.
        violation: Largest violation of the optimality conditions in any of them, as in `nonnegative_fit`.
    """

    loss: float
    units: Float[np.ndarray, "k d+1"]
    signs: Float[np.ndarray, " k"]
    patterns: int
    problems: int
    violation: float

    def network(self) -> nn.Sequential:
        """The minimiser as `Linear(d, k)`, `ReLU`, `Linear(k, 1)` in float64."""
        units, signs = torch.from_numpy(self.units), torch.from_numpy(self.signs)
        hidden = dense_layer(units[:, :-1], units[:, -1])
        return nn.Sequential(hidden, nn.ReLU(), dense_layer(signs[None], torch.zeros(1, dtype=torch.float64)))


def exact_relu_fit(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, " n"],
    hidden: int = 1,
    *,
    output_signs: tuple[float, ...] = (1.0, -1.0),
) -> ExactReluFit:
    """The global minimum of the mean squared error of a network of `hidden` ReLU units and output weights of +1 or -1.

    Scaling a unit and its output weight against each other changes nothing, so output weights of +-1 are no restriction.

    Cost: C(2P, k) non-negative least-squares problems of n rows, P the number of sign patterns, of the
    order of n^d: for tiny
    data only. Exact up to rounding; `violation` certifies every problem.

    Args:
        x: Inputs.
        y: Targets.
        hidden: k, the number of units.
        output_signs: Signs that output weights may have.

    Raises:
        SettingError: Shapes that do not belong together, no unit, or numbers that are not finite.
        NumericalError: A problem whose solution could not be certified.

    >>> x = torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
    >>> fit = exact_relu_fit(x, torch.tensor([0.0, 0.0, 1.0, 2.0]))
    >>> round(fit.loss, 12), fit.patterns
    (0.0, 8)
    """
    points, targets = x.detach().double().cpu().numpy(), y.detach().double().cpu().numpy()
    if points.ndim != 2 or targets.shape != points.shape[:1] or hidden < 1:
        raise SettingError(
            "exact_relu_fit() takes inputs (n, d), targets (n,) and one hidden unit or more",
            f"shapes {points.shape} and {targets.shape}, {hidden} units",
            "Pass one target an input.",
        )
    if not (np.isfinite(targets).all() and np.isfinite(points).all()):
        raise SettingError("Inputs and targets must be finite", "NaN or infinity", "Remove those examples.")
    # The fit is the same in any coordinates; rounding is not.
    spread = np.where(np.ptp(points, axis=0) > 0, np.ptp(points, axis=0), 1.0)
    middle = points.mean(axis=0)
    points = (points - middle) / spread
    cones = _cones(points)
    search = _Search(targets)
    choices = [(sign, cone) for cone in cones for sign in output_signs]
    # Units of one cell and sign add up to one unit of that cell, so each is chosen once.
    for chosen in itertools.combinations(choices, min(hidden, len(choices))):
        search.try_units(chosen)
    units, signs = search.minimiser(hidden, points.shape[1])
    units[:, :-1] /= spread
    units[:, -1] -= units[:, :-1] @ middle
    loss = search.squares / len(targets)
    patterns = len(sign_patterns(points))
    return ExactReluFit(loss, units, signs, patterns, search.problems, search.violation)


@dataclass(frozen=True)
class _Cone:
    """Units of one cell: their extreme rays (d + 1, m), and the rays' outputs on the data (n, m)."""

    rays: np.ndarray
    outputs: np.ndarray


def _cones(points: np.ndarray) -> list[_Cone]:
    """The closures of all cells on which some unit is active."""
    extended = np.column_stack([points, np.ones(len(points))])
    _, lengths, rows = np.linalg.svd(extended, full_matrices=False)
    basis = rows[lengths > _ZERO * lengths[0]].T  # what the data cannot see of (w, b) is left at 0
    seen = extended @ basis
    lengths = np.linalg.norm(seen, axis=1)
    rays = _rays(seen / lengths[:, None])
    heights = rays @ (seen / lengths[:, None]).T
    # Each ray is 0 on the points it was drawn through; left at 1e-17 they would be fitted by weights of 10^17.
    heights[np.abs(heights) < _ZERO] = 0.0
    cones = []
    for signs in sign_patterns(points).signs:
        inside = (heights * signs >= 0).all(axis=1)
        if (signs > 0).any():
            cones.append(_Cone(basis @ rays[inside].T, (heights[inside] * lengths).clip(min=0.0).T))
    return cones


def _rays(scaled: np.ndarray) -> np.ndarray:
    """Unit vectors along which hyperplanes of given unit normals (n, r) meet in lines, both directions, each once."""
    rank = scaled.shape[1]
    found: dict[tuple[float, ...], np.ndarray] = {}
    for subset in itertools.combinations(range(len(scaled)), rank - 1):
        rows = scaled[list(subset)]
        _, lengths, right = np.linalg.svd(rows) if rank > 1 else (None, np.ones(1), np.ones((1, 1)))
        if len(lengths) and lengths.min() < _ZERO:  # points that span too little
            continue
        line = right[-1]
        for ray in (line, -line):
            found.setdefault(tuple(np.round(ray, 8) + 0.0), ray)
    return np.array(list(found.values()))


class _Search:
    """The best of all problems tried."""

    def __init__(self, targets: np.ndarray) -> None:
        self.targets = targets
        self.squares = float(targets @ targets)  # of the network that is 0
        self.best: list[tuple[float, np.ndarray]] = []
        self.problems, self.violation = 0, 0.0

    def try_units(self, chosen: tuple[tuple[float, _Cone], ...]) -> None:
        found = nonnegative_fit(
            np.concatenate([sign * cone.outputs for sign, cone in chosen], axis=1), self.targets
        )
        self.problems += 1
        self.violation = max(self.violation, found.violation)
        if found.squares < self.squares:
            self.squares, start = found.squares, 0
            self.best = []
            for sign, cone in chosen:
                stop = start + cone.rays.shape[1]
                self.best.append((sign, cone.rays @ found.weights[start:stop]))
                start = stop

    def minimiser(self, hidden: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
        """Units and signs; units that are not needed are 0."""
        units, signs = np.zeros((hidden, dimension + 1)), np.ones(hidden)
        for index, (sign, unit) in enumerate(self.best):
            units[index], signs[index] = unit, sign
        return units, signs
