"""Is the learning rate below the stability edge of its optimiser?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from torchstone.details import Axis, Curve, Line, Marker, Scalar, Scalars, numbers
from torchstone.instruments.settings import require_between, require_count
from torchstone.linalg import FunctionMap, top_eigenpairs
from torchstone.operators.hessian import Hessian
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.update_rule import UpdateRule, update_rule

NEAR = 0.9


@dataclass(frozen=True)
class StabilityEdge:
    r"""Largest eigenvalue of the (preconditioned) Hessian against the limit of the optimiser's step.

    On a quadratic, gradient descent with rate eta diverges along an eigenvector exactly when its eigenvalue exceeds
    2/eta; with heavy-ball momentum beta, 2(1 + beta)/eta; with Nesterov's, 2(1 + beta)/(eta (1 + 2 beta)). Adam divides
    by P = diag(sqrt(v) + eps), so its eigenvalues are those of P^{-1/2} H P^{-1/2} and its limit is
    2(1 + beta_1)/((1 - beta_1) eta); v with its correction of bias, without the momentum's, which decides no more than the first
    1/(1 - beta_1) steps. The value is the eigenvalue over the limit: above 1, steps on the full training set
    diverge locally.

    Cost: 10 to 100 Hessian products, each two to four gradients. Bias: the eigenvalue errs downwards by at most its
    residual, which is reported, as long as the search did not overlook it. Minibatch noise lowers the edge in practice.
    Source: LeCun, Bottou, Orr & Muller 1998, section 4.1; Cohen et al. 2021, section 2 and appendix B (momentum); Cohen
    et al. 2022, section 2 (Adam). The limits with momentum, Nesterov's and decoupled weight decay follow from z = -1
    being a root of the step's characteristic polynomial (`torchstone.workbench.update_rule`).
    """

    META: ClassVar[Meta] = Meta(
        id="stability_edge",
        question=Question.TRAINABILITY,
        title="Stability edge",
        asks="Is the learning rate below the stability edge?",
        cost=CostClass.SECONDS,
        needs=(Need.TRAIN, Need.PARAMETERS, Need.LEARNING_RATE),
        unit="share of the stability limit",
        source="LeCun, Bottou, Orr & Muller 1998, section 4.1; Cohen et al. 2021, section 2; Cohen et al. 2022, section 2",
    )
    tolerance: float = 1e-2
    products: int = 200
    """Budget of Hessian products."""

    def __post_init__(self) -> None:
        require_between(self, "tolerance", 1e-8, 0.5)
        require_count(self, "products", 10)

    def measure(self, bench: Workbench) -> Reading:
        """Find the top eigenvalue of the curvature as the optimiser sees it."""
        rule = update_rule(bench.specimen)
        value, residual, converged = _top(bench, rule, self.tolerance, self.products)
        ratio = value / rule.limit
        verdict = judge(ratio, rule.unsettled)
        unsettled = f"The residual {residual:.2g} is above the tolerance after {self.products} products."
        return Reading.of(
            self.META,
            value=ratio,
            uncertainty=Uncertainty(
                ratio, ratio + residual / rule.limit, "residual", "residual of the eigenpair", 1.0
            ),
            verdict=verdict,
            headline=(
                f"The largest {rule.curvature} eigenvalue is {value:.3g}; {rule.name} at learning rate {rule.lr:.3g} is "
                f"stable up to {rule.limit:.3g}."
            ),
            explanation=(
                f"Largest eigenvalue by Lanczos with full reorthogonalisation, against {rule.formula}. The eigenvalue is "
                "a lower bound, and lies within the bar unless the search overlooked its direction. Beyond the limit a "
                "step on all examples overshoots along that eigenvector by more than it corrects. "
                + _meaning(bench)
            ),
            remedies=_remedies(verdict, rule, value),
            details=(_scalars(value, residual, rule), _multipliers(value, rule)),
            notes=() if converged else (unsettled,),
        )


def _meaning(bench: Workbench) -> str:
    """What the edge means for the way this network was trained."""
    size = bench.specimen.recipe.batch_size if bench.specimen.recipe is not None else None
    if size is None or size >= bench.specimen.size("train"):
        return (
            "Training on all examples at once rises to the limit and hovers there, with a loss that goes up and down, "
            "because overshooting lowers the curvature (Cohen et al. 2021)."
        )
    return (
        f"With minibatches of {size:,} the noise of the gradient makes steps unstable before this limit (Wu, Ma & E "
        "2018), so training usually settles below it."
    )


def judge(ratio: float, unsettled: str = "") -> Verdict:
    """Poor past the edge, attention within 10% of it; none while the preconditioner is not settled."""
    threshold = "largest eigenvalue below 90% of the limit (poor: above it)"
    source = (
        "LeCun et al. 1998, section 4.1 for the limit; Cohen et al. 2021: full-batch training hovers at it"
    )
    if unsettled:
        return Verdict(Level.INFORMATIVE, unsettled, threshold, source)
    if not ratio <= 1:
        return Verdict(Level.POOR, "past the edge: full-batch steps diverge locally", threshold, source, 0.9)
    if ratio > NEAR:
        return Verdict(Level.ATTENTION, "at the edge of stability", threshold, source)
    return Verdict(Level.GOOD, "below the edge", threshold, source)


def _top(bench: Workbench, rule: UpdateRule, tolerance: float, products: int) -> tuple[float, float, bool]:
    """Largest eigenvalue of S^{1/2} (H + D) S^{1/2}, its residual, and whether that reached the tolerance."""
    space = ParameterSpace.of(bench.specimen)
    root, decay = (space.flatten(parts).to(space.dtype) for parts in (rule.root_scales, rule.decays))
    if bool((root == 1).all()) and bool(
        (decay == decay[0]).all()
    ):  # the plain Hessian, which others need too
        found = bench.top_eigenpairs(1, tolerance=tolerance, max_products=products)
        return float(found.values[0] + decay[0]), float(found.residuals[0]), found.converged
    hessian = Hessian(bench.specimen, memory_bytes=bench.plan.memory_bytes // 2)

    def product(X: torch.Tensor) -> torch.Tensor:
        scaled = root[:, None] * X
        return root[:, None] * (hessian.matmat(scaled) + decay[:, None] * scaled)

    seen = FunctionMap(product, hessian.shape, hessian.dtype, hessian.device, block=True, symmetric=True)
    found = top_eigenpairs(
        seen, 1, tolerance=tolerance, max_products=products, generator=bench.generator("stability_edge")
    )
    return float(found.values[0]), float(found.residuals[0]), found.converged


def _scalars(value: float, residual: float, rule: UpdateRule) -> Scalars:
    unit = "1 / learning rate"  # what loss / weight² amounts to in an update, preconditioned or not
    return Scalars(
        "Curvature and limit",
        (
            Scalar(f"largest {rule.curvature} eigenvalue", value, unit, value, value + residual),
            Scalar(f"limit {rule.formula}", rule.limit, unit),
            Scalar("learning rate", rule.lr),
            Scalar("largest stable learning rate", rule.lr * rule.limit / value if value > 0 else math.inf),
        ),
    )


def _multipliers(value: float, rule: UpdateRule) -> Curve:
    """Spectral radius of one step on a quadratic, over the eigenvalue."""
    grid = torch.linspace(0, 1.5 * max(rule.limit, value), 200, dtype=torch.float64)
    radius = [rule.spectral_radius(float(curvature)) for curvature in grid]
    return Curve(
        "What one step does along an eigenvector",
        Axis("eigenvalue", "1 / learning rate"),
        Axis("growth factor of the error a step"),
        (Line(rule.name, numbers(grid), numbers(radius)),),
        (Marker("no growth", 1.0), Marker("this network", value, "x"), Marker("limit", rule.limit, "x")),
        caption="Below 1 the error along an eigenvector shrinks every step, above 1 it grows. The network's largest "
        "eigenvalue and the limit are marked.",
    )


def _remedies(verdict: Verdict, rule: UpdateRule, value: float) -> tuple[Remedy, ...]:
    if verdict.level not in (Level.ATTENTION, Level.POOR):
        return ()
    return (
        Remedy(
            f"Lower the learning rate below {rule.lr * rule.limit / value:.3g}, or decay it.",
            "torch.optim.lr_scheduler.CosineAnnealingLR",
            "stability_limit",
        ),
        Remedy(
            "Warm the learning rate up: curvature usually falls early in training.",
            "torch.optim.lr_scheduler.LinearLR",
        ),
    )


INSTRUMENT = StabilityEdge
