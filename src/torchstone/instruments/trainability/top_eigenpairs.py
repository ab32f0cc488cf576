"""Which directions are the sharpest, and does the gradient lie in them?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Curve, Line, Marker, Scalar, Scalars, Spectrum, Table, numbers, thin
from torchstone.instruments.settings import require_between, require_count
from torchstone.linalg import Eigenpairs
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.curvature import PRODUCTS, TOLERANCE, layers

SOURCE = "Gur-Ari, Roberts & Dyer 2018, section 2; Sagun et al. 2018; Parlett 1998, sections 4.5 and 11.7"


@dataclass(frozen=True)
class TopEigenpairs:
    r"""The largest eigenvalues of the Hessian, the layers that carry their eigenvectors, and the gradient's share in them.

    The share is |P g|^2 / |g|^2 with P the projection on the first k eigenvectors; a direction drawn at random has k/n of
    it on average. A layer's share in an eigenvector is the squared norm of its part.

    Cost: 30 to 60 Hessian products for 10 pairs that stand apart, at most `products`. Bias: eigenvalues err downwards by
    at most their residuals. The error of the share is at most sin(theta) = |R| / gap (Davis & Kahan 1970).
    Source: Gur-Ari, Roberts & Dyer 2018, section 2. That the gradient lies there does not mean that learning does: steps
    without that part train as well (Song, Ahn & Yun 2025).
    """

    META: ClassVar[Meta] = Meta(
        id="top_eigenpairs",
        question=Question.TRAINABILITY,
        title="Sharpest directions",
        asks="Which directions are the sharpest, and does the gradient lie in them?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.PARAMETERS),
        unit="loss / weight²",
        source=SOURCE,
    )
    pairs: int = 10
    """Eigenpairs to show."""
    tolerance: float = TOLERANCE
    """Residual to reach, relative to the largest eigenvalue."""
    products: int = PRODUCTS
    """Budget of Hessian products."""

    def __post_init__(self) -> None:
        require_count(self, "pairs", 1, 200)
        require_between(self, "tolerance", 1e-8, 0.5)
        require_count(self, "products", 10)

    def measure(self, bench: Workbench) -> Reading:
        """Find the pairs and project the gradient on them."""
        # One pair more than shown bounds the gap behind the last one.
        found = bench.top_eigenpairs(self.pairs + 1, tolerance=self.tolerance, max_products=self.products)
        space = ParameterSpace.of(bench.specimen)
        shown = min(self.pairs, len(found.values))
        gradient = space.flatten(tuple(bench.gradient().values()))
        share = gradient_share(found, shown, gradient)
        value, residual = float(found.values[0]), float(found.residuals[0])
        return Reading.of(
            self.META,
            value=value,
            uncertainty=Uncertainty(value, value + residual, "residual", "residual of the eigenpair", 1.0),
            verdict=judge(share, shown, space.size),
            headline=_headline(value, share, shown, space.size),
            explanation=(
                "Eigenpairs of the Hessian of the mean training loss by Lanczos with full reorthogonalisation; each "
                "eigenvalue is exact up to its residual. The gradient is that of all training examples. Where most of "
                "it lies in the sharpest directions it mostly bounces between their walls, and what is learnt is in "
                "the rest (Gur-Ari et al. 2018; Song et al. 2025)."
            ),
            details=(
                _spectrum(found, shown, bench),
                _participation(found, shown, space),
                _overlap(found, shown, gradient),
                _scalars(found, share, shown, space.size, gradient),
                _table(found, shown, space),
            ),
            notes=_notes(found, self.products),
        )


@dataclass(frozen=True)
class GradientShare:
    """Share of the squared gradient in an eigenspace, with bounds that hold for the exact eigenspace; NaN without a gradient."""

    value: float
    low: float
    high: float


def gradient_share(found: Eigenpairs, k: int, gradient: Tensor) -> GradientShare:
    """|P g|^2 / |g|^2 for the first k eigenvectors, and how far their errors can move it.

    With S the exact and P the found projection, ||S g| - |P g|| <= |S - P| |g| <= |R| / gap |g|, where the gap parts the
    first k eigenvalues from the next one.
    """
    norm = float(gradient.norm())
    if not 0 < norm < math.inf:
        return GradientShare(math.nan, math.nan, math.nan)
    share = float((found.vectors[:, :k].double().T @ (gradient / norm)).square().sum())
    n = len(found.vectors)
    if k == n:
        return GradientShare(1.0, 1.0, 1.0)
    slip = 1.0
    if len(found.values) > k:
        gap = float(found.values[k - 1] - found.residuals[k - 1] - found.values[k] - found.residuals[k])
        size = float(found.residuals[:k].square().sum().sqrt())
        slip = min(1.0, size / gap) if gap > 0 else 1.0
    share, root = min(1.0, share), math.sqrt(min(1.0, share))
    return GradientShare(share, max(0.0, root - slip) ** 2, min(1.0, root + slip) ** 2)


def judge(share: GradientShare, k: int, n: int) -> Verdict:
    """Informative: sharp directions that hold the gradient are the rule in networks that fit well."""
    chance = k / n
    if math.isnan(share.value):
        reason = "the gradient is zero"
    elif k == n:
        reason = "all directions are shown, so that they hold the whole gradient"
    elif share.value > 10 * chance:
        reason = f"the gradient leans to the sharpest directions: {share.value / chance:,.0f} times chance"
    else:
        reason = "the gradient does not single out the sharpest directions"
    return Verdict(
        Level.INFORMATIVE,
        reason,
        "none: a share of the gradient is neither good nor bad; k of n directions hold k/n by chance",
        "Gur-Ari et al. 2018 saw shares near 1 in networks that train well",
    )


def _headline(value: float, share: GradientShare, k: int, n: int) -> str:
    first = f"The largest Hessian eigenvalue is {value:.3g}"
    if math.isnan(share.value):
        return f"{first}; the gradient is zero."
    if k == n:
        return f"{first}; all {n:,} eigenpairs were found." if n > 1 else f"{first}, of a single weight."
    return (
        f"{first}; the {k} sharpest of {n:,} directions hold {_percent(share.value)} of the gradient (chance "
        f"{_percent(k / n)})."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%" if share < 0.995 else f"{100 * share:.4g}%"


def _spectrum(found: Eigenpairs, shown: int, bench: Workbench) -> Spectrum:
    classes = bench.class_count()
    markers = (
        (Marker(f"{classes} classes", classes + 0.5, "x"),)
        if classes is not None and classes + 0.5 <= shown
        else ()
    )
    return Spectrum(
        "Largest eigenvalues of the Hessian",
        numbers(found.values[:shown]),
        numbers(found.residuals[:shown]),
        unit="loss / weight²",
        markers=markers,
        caption="Error bars are residuals. With K classes about K - 1 or K eigenvalues often stand apart.",
    )


def participation(vectors: Tensor, space: ParameterSpace) -> dict[str, Tensor]:
    """Share of each layer in each unit vector, by layer, (k,)."""
    squares = vectors.double().square()
    return {
        layer: torch.stack([squares[space.slices[name]].sum(0) for name in names]).sum(0)
        for layer, names in layers(space.names).items()
    }


def _participation(found: Eigenpairs, shown: int, space: ParameterSpace) -> Curve:
    shares = participation(found.vectors[:, :shown], space)
    chosen = [list(shares)[i] for i in thin(len(shares), 200)]
    sizes = dict(zip(space.names, space.sizes, strict=True))
    count = {
        layer: sum(sizes[name] for name in names) / space.size for layer, names in layers(space.names).items()
    }
    across = numbers(range(1, len(chosen) + 1))
    lines = [
        Line(f"eigenvector {i + 1}", across, numbers(shares[layer][i] for layer in chosen))
        for i in range(min(3, shown))
    ]
    if shown > 3:
        mean = Line(f"mean of {shown}", across, numbers(shares[layer].mean() for layer in chosen))
        lines.append(mean)
    lines.append(Line("share of the weights (chance)", across, numbers(count[layer] for layer in chosen)))
    return Curve(
        "Which layers carry the sharpest directions",
        Axis("layer, input to output"),
        Axis("share of the squared eigenvector"),
        tuple(lines),
        ticks=tuple(chosen) if len(chosen) <= 40 else (),
        caption="The layer with the largest share is where a step along that direction would change the weights most.",
    )


def _overlap(found: Eigenpairs, shown: int, gradient: Tensor) -> Curve:
    n = len(gradient)
    ranks = numbers(range(1, shown + 1))
    shares = [gradient_share(found, k, gradient).value for k in range(1, shown + 1)]
    return Curve(
        "Share of the gradient in the sharpest directions",
        Axis("number of directions, sharpest first"),
        Axis("share of the squared gradient", log=True),
        (
            Line("gradient", ranks, numbers(shares)),
            Line("chance, k/n", ranks, numbers(k / n for k in range(1, shown + 1))),
        ),
        caption="A random direction would follow the chance line.",
    )


def _scalars(found: Eigenpairs, share: GradientShare, k: int, n: int, gradient: Tensor) -> Scalars:
    top = found.vectors[:, 0].double()
    return Scalars(
        "Gradient and sharpest directions",
        (
            Scalar(f"share of the gradient in the {k} sharpest", share.value, "", share.low, share.high),
            Scalar("share by chance", k / n),
            Scalar("norm of the gradient", float(gradient.norm()), "loss / weight"),
            Scalar("weights that carry the sharpest direction", 1 / float(top.pow(4).sum())),
            Scalar("weights in all", n),
        ),
        caption="The weights that carry a direction v: 1 / (sum of v_i^4), from 1 to n.",
    )


def _table(found: Eigenpairs, shown: int, space: ParameterSpace) -> Table:
    shares = participation(found.vectors[:, :shown], space)
    rows = []
    for i in range(shown):
        layer = max(shares, key=lambda name: float(shares[name][i]))
        rows.append(
            (i + 1, float(found.values[i]), float(found.residuals[i]), layer, float(shares[layer][i]))
        )
    return Table(
        "Sharpest directions",
        ("rank", "eigenvalue", "residual", "layer with the largest share", "its share"),
        tuple(rows),
    )


def _notes(found: Eigenpairs, products: int) -> tuple[str, ...]:
    if found.converged:
        return ()
    worst = float(found.residuals.max())
    return (f"Residuals up to {worst:.2g} are above the tolerance after at most {products} products.",)


INSTRUMENT = TopEigenpairs
