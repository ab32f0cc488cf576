"""Is the network at a minimum, at a saddle, or still on a slope?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Curve, Line, Marker, Scalar, Scalars, numbers
from torchstone.instruments.settings import require_between, require_count
from torchstone.linalg import ExtremeEigenpairs
from torchstone.operators.finite_differences import shifted
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.curvature import PRODUCTS, TOLERANCE, rounding_floor
from torchstone.workbench.spectral_shares import Shares, shares_by_sign

SOURCE = "Dauphin et al. 2014, sections 2 and 3; Jin et al. 2017, definition 3; Nesterov & Polyak 2006"
UNIT = "loss / weight²"
_HALVINGS = 12  # distances to try along the most negative direction: the longest times 1 ... 1/2048
_RATES = (
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
)  # learning rates to try along the gradient, in units of 1 / lambda_max


@dataclass(frozen=True)
class NegativeCurvature:
    r"""The smallest eigenvalue of the Hessian, and how far the loss really falls along its eigenvector.

    A critical point with lambda_min < 0 is a strict saddle: gradient descent leaves it, slowly. v^T H v < 0 for one v
    proves lambda_min < 0, so the sign is certain as soon as the Rayleigh quotient is below the rounding error of the
    products; the residual says how near an eigenvalue is to it. Whether the point is critical is judged by what the
    gradient still gives: the loss is evaluated along it and along the eigenvector, on all training examples.

    The walk along the eigenvector goes as far as half of the weights' norm. Near zero that is next to nothing, though loss may
    be to gain: by curvature, a step of t gains |lambda_min| t^2 / 2, which is all of the loss f at t = sqrt(2 f / |lambda_min|).
    It goes that far then, unless weights with rows of norm 1, which neither shrink nor amplify signals, are nearer.

    Cost: the shared search of eigenpairs and density, and 30 forward passes. Bias: the eigenvalue errs upwards by at most its
    residual unless the search overlooked its direction.
    Source: Dauphin et al. 2014; strict saddles and how noise escapes them: Jin et al. 2017.
    """

    META: ClassVar[Meta] = Meta(
        id="negative_curvature",
        question=Question.TRAINABILITY,
        title="Negative curvature",
        asks="Is it at a minimum, at a saddle, or still on a slope?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit=UNIT,
        source=SOURCE,
    )
    worth: float = 0.01
    """Share of the loss that a step must gain to be worth taking: along the gradient, or along the eigenvector."""
    resolution: float = 1e-3
    """Eigenvalues up to this share of the largest count as zero in the share of negative ones."""
    tolerance: float = TOLERANCE
    """Residual to reach, relative to the largest eigenvalue."""
    products: int = PRODUCTS
    """Budget of Hessian products."""

    def __post_init__(self) -> None:
        require_between(self, "worth", 1e-6, 1.0)
        require_between(self, "resolution", 1e-9, 0.5)
        require_between(self, "tolerance", 1e-8, 0.5)
        require_count(self, "products", 50)

    def measure(self, bench: Workbench) -> Reading:
        """Find the most negative direction and walk along it."""
        ends = bench.extreme_eigenpairs(tolerance=self.tolerance, max_products=self.products)
        found = _walk(bench, ends)
        verdict = judge(found.smallest, found.floor, found.gained, found.gained_by_gradient, self.worth)
        return Reading.of(
            self.META,
            value=found.smallest,
            uncertainty=Uncertainty(
                found.smallest - found.residual - found.floor,
                found.smallest + found.floor,
                "residual",
                "residual of the eigenpair and rounding of the products",
                1.0,
            ),
            verdict=verdict,
            headline=_headline(found),
            explanation=(
                "The smallest eigenvalue of the Hessian of the mean training loss by Lanczos, and the training loss "
                "measured along its eigenvector, both ways, and along the gradient. Negative curvature means a saddle "
                "only where the gradient has nothing left to give. It has where weight decay, which is no part of this "
                "loss, holds the weights, and for cross-entropy on separable data, which has no minimum at all. Kinks "
                "(ReLU) bend the loss as well and are not in the Hessian: what counts is the measured curve."
            ),
            remedies=_remedies(verdict),
            details=(
                _curve(found),
                _scalars(found, shares_by_sign(bench.spectral_density(), self.resolution)),
            ),
            notes=_notes(ends, found, self.products),
        )


@dataclass(frozen=True)
class Walk:
    """What was found: eigenvalues, their errors, and the loss along two directions.

    `distances` and `losses` are along the eigenvector, ascending, the present point among them at 0; `rates` and
    `gradient_losses` are along the negative gradient.
    """

    smallest: float
    residual: float
    others: float
    largest: float
    floor: float
    loss: float
    slope: float
    gradient: float
    size: float
    distances: Tensor
    losses: Tensor
    rates: Tensor
    gradient_losses: Tensor

    @property
    def gained(self) -> float:
        """Largest share of the loss that a step along the eigenvector takes away."""
        return _gain(self.loss, self.losses)

    @property
    def gained_by_gradient(self) -> float:
        """The same along the gradient."""
        return _gain(self.loss, self.gradient_losses)


def _gain(start: float, losses: Tensor) -> float:
    lowest = float(losses[losses.isfinite()].min()) if bool(losses.isfinite().any()) else start
    if not lowest < start:
        return 0.0
    return (start - lowest) / abs(start) if start else math.inf


def _walk(bench: Workbench, ends: ExtremeEigenpairs) -> Walk:
    space = ParameterSpace.of(bench.specimen)
    gradient = space.flatten(tuple(bench.gradient().values()))
    vector = ends.smallest.vectors[:, 0].double()
    largest, smallest = float(ends.largest.values[0]), float(ends.smallest.values[0])
    size = float(space.values().double().norm())
    loss = float(bench.losses().mean())
    longest = _longest(size, loss, smallest, bench)
    halves = [0.5**k for k in range(_HALVINGS)]
    shares = torch.tensor([-s for s in halves] + [0.0] + halves[::-1], dtype=torch.float64)
    scale = max(abs(largest), abs(smallest))
    rates = torch.tensor(_RATES, dtype=torch.float64) / (scale or 1.0)
    return Walk(
        smallest,
        float(ends.smallest.residuals[0]),
        ends.smallest.others,
        largest,
        rounding_floor(bench.specimen, scale),
        loss,
        float(gradient @ vector),
        float(gradient.norm()),
        size,
        shares * longest,
        losses_along(bench, space, vector, shares * longest),
        rates,
        losses_along(bench, space, -gradient, rates),
    )


def _longest(size: float, loss: float, curvature: float, bench: Workbench) -> float:
    """Distance to walk: half of the weights' norm, near zero as far as curvature takes the loss away."""
    rows = sum(
        len(parameter.flatten(1)) if parameter.ndim > 1 else parameter.numel()
        for parameter in bench.specimen.trainable.values()
    )
    needed = math.sqrt(2 * abs(loss) / -curvature) if curvature < 0 and math.isfinite(loss) else 0.0
    return max(size / 2, min(needed, math.sqrt(rows))) or 1.0


def losses_along(bench: Workbench, space: ParameterSpace, direction: Tensor, steps: Tensor) -> Tensor:
    """Mean training loss at theta + t direction for every t of `steps`, float64. Cost: a forward pass a step."""
    found = []
    for step in steps.tolist():
        if step == 0:
            found.append(float(bench.losses().mean()))
            continue
        with shifted(space, step * direction):
            found.append(bench.specimen.risk())
    return torch.tensor(found, dtype=torch.float64)


def judge(smallest: float, floor: float, gained: float, by_gradient: float, worth: float) -> Verdict:
    """Attention at a strict saddle that is worth leaving; informative where the gradient still has something to give."""
    threshold = f"where no gradient step gains {_percent(worth)} of the loss, no step along the most negative direction does"
    source = (
        "definition of a strict saddle: Jin et al. 2017; what is worth a step is a convention of this report"
    )
    if by_gradient > worth:
        how = (
            "more than the most negative direction would"
            if by_gradient >= gained
            else f"and the most negative direction {_percent(gained)}"
        )
        reason = (
            f"not at a critical point: a gradient step still gains {_percent(by_gradient)} of the loss, {how}"
        )
        return Verdict(Level.INFORMATIVE, reason, threshold, source)
    if smallest < -floor and gained > worth:
        return Verdict(
            Level.ATTENTION,
            f"a strict saddle: leaving it gains {_percent(gained)} of the loss",
            threshold,
            source,
        )
    if smallest < -floor:
        return Verdict(
            Level.GOOD,
            "a saddle by curvature, with next to nothing to gain from leaving it",
            threshold,
            source,
        )
    if smallest <= floor and gained > worth:
        reason = (
            f"derivatives show neither slope nor negative curvature here, and yet the loss falls by {_percent(gained)} "
            "along a straight line: it is flat around the weights, or has steps"
        )
        return Verdict(Level.INFORMATIVE, reason, threshold, source)
    return Verdict(Level.GOOD, "a minimum up to the resolution of the search", threshold, source)


def _headline(found: Walk) -> str:
    if found.largest > 0:
        size = f" ({_percent(abs(found.smallest) / found.largest)} of the largest in size)"
    else:
        size = " (no eigenvalue is positive)" if found.smallest else ""
    return (
        f"The smallest Hessian eigenvalue is {found.smallest:.3g}{size}; the best step along its eigenvector lowers the "
        f"training loss by {_percent(found.gained)}, the best gradient step by {_percent(found.gained_by_gradient)}."
    )


def _percent(share: float) -> str:
    if not math.isfinite(share):
        return "more than all"
    return f"{100 * share:.2g}%" if share < 0.995 else f"{100 * share:,.0f}%"


def _curve(found: Walk) -> Curve:
    """Loss along the eigenvector, where it is not far above the start, with the quadratic that the Hessian promises."""
    limit = found.loss + 3 * max(abs(found.loss), found.loss - float(found.losses.nan_to_num(math.inf).min()))
    kept = found.losses <= limit
    distances, losses = found.distances[kept], found.losses[kept]
    model = found.loss + found.slope * distances + found.smallest * distances.square() / 2
    relative = 0 < float(found.distances.max()) <= found.size
    share = numbers(distances / found.size if relative else distances)
    return Curve(
        "Loss along the direction of smallest curvature",
        Axis("distance over the norm of the weights" if relative else "distance in weight space"),
        Axis("mean training loss"),
        (
            Line("measured", share, numbers(losses)),
            Line("quadratic model", share, numbers(model.clamp(min=float(losses.min()) - abs(found.loss)))),
        ),
        (Marker("here", found.loss),),
        caption="A dip below the line is what following the direction gains. The model is trusted near 0 only.",
    )


def _scalars(found: Walk, shares: Shares) -> Scalars:
    bound = found.others if math.isfinite(found.others) else None
    return Scalars(
        "Curvature and what steps gain",
        (
            Scalar(
                "smallest eigenvalue",
                found.smallest,
                UNIT,
                found.smallest - found.residual - found.floor,
                found.smallest + found.floor,
            ),
            Scalar("largest eigenvalue", found.largest, UNIT),
            *(() if bound is None else (Scalar("no other eigenvalue lies below (99% sure)", bound, UNIT),)),
            shares.negative,
            shares.zero,
            shares.positive,
            Scalar("rounding error of the products", found.floor, UNIT),
            Scalar("norm of the gradient", found.gradient, "loss / weight"),
            Scalar("share of the loss gained along the eigenvector", found.gained),
            Scalar("share of the loss gained along the gradient", found.gained_by_gradient),
        ),
        caption=f"The share of negative eigenvalues is the index of a saddle. Zero: up to {shares.resolution:.1%} of the "
        "largest eigenvalue in size.",
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy(
            "Train on with noisier steps (a smaller batch, or a small random perturbation of the weights): noise leaves "
            "strict saddles quickly.",
            "torch.optim.SGD",
            "saddles_in_high_dimension",
        ),
        Remedy("Move the weights to the lowest point of the measured curve and continue from there."),
    )


def _notes(ends: ExtremeEigenpairs, found: Walk, products: int) -> tuple[str, ...]:
    notes = []
    if not ends.converged:
        notes.append(
            f"The tolerance was not reached within {products} products; signs are certain all the same."
        )
    if 0 < abs(found.smallest) <= found.floor:
        notes.append(f"Eigenvalues within {found.floor:.2g} of 0 cannot be told from 0 in this precision.")
    return tuple(notes)


INSTRUMENT = NegativeCurvature
