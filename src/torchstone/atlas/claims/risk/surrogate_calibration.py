r"""A small surrogate loss bounds the error over all functions, and not within a class.

Over all functions: psi(R(f) - R*) <= R_phi(f) - R_phi*, with psi(t) = t for the hinge loss, t^2 for the squared loss,
1 - sqrt(1 - t^2) for the exponential loss and ln 2 - h((1 + t)/2) for the logistic loss, h the binary entropy in nats.

Within a class: k + 1 examples x = 1 of label 1 and k examples x = M of label -1, and classifiers sign(w x). The error is
least for w > 0, at k/n. The surrogate risk has slope phi'(0) (k + 1 - k M) / n at w = 0, so for M > 1 + 1/k the least
surrogate risk lies at w < 0, with (k + 1)/n errors: one more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.dichotomies import linear_dichotomies
from torchstone.bounds.surrogate import MARGIN_LOSSES, MarginLoss, psi_transform
from torchstone.details import Axis, Curve, Line, Table, numbers

LAWS, ATOMS = 2000, 4
EXAMPLES = (3, 9, 51)
FAR = 4.0  # M

# A loss with the psi that is claimed for it.
Claimed = tuple[MarginLoss, Callable[[Tensor], Tensor]]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Four calibrated losses."""
    return experiment(scale, generator, [(loss, loss.psi) for loss in MARGIN_LOSSES])


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The perceptron's loss max(0, -m), of slope 0 to the right of 0, with the hinge loss's psi."""
    perceptron = MarginLoss("perceptron", lambda m: (-m).clamp(min=0), torch.zeros_like)
    return experiment(scale, generator, [(perceptron, lambda t: t)])


def experiment(scale: Scale, generator: torch.Generator, claimed: Sequence[Claimed]) -> Evidence:
    """The inequality for every classifier under random laws; the example for every loss."""
    laws = LAWS if scale is Scale.QUICK else 100 * LAWS
    parts = []
    for loss, psi in claimed:
        gap, tightness = inequality(loss, psi, laws, generator)
        parts += [
            Evidence.at_most(
                f"laws and classifiers that violate it, {loss.name}", float((gap < -1e-12).sum()), 0
            ),
            Evidence.close(f"one point, score 0, {loss.name}: psi / excess", tightness, 1.0, absolute=1e-9),
            Evidence.close(
                f"psi(0.6) by minimisation, {loss.name}",
                psi_transform(loss.loss, 0.6),
                float(psi(torch.tensor(0.6).double())),
                absolute=1e-7,
            ),
        ]
    rows = []
    for n in EXAMPLES:
        best = least_errors(n)
        for loss, _ in claimed:
            found = surrogate_errors(loss, n)
            rows.append((loss.name, n, best, found))
            parts.append(
                Evidence.close(f"errors above the least, n = {n}, {loss.name}", found - best, 1, absolute=0)
            )
    return Evidence.all_of(*parts, figures=(transforms(claimed), table(rows)))


def inequality(
    loss: MarginLoss, psi: Callable[[Tensor], Tensor], laws: int, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Excess surrogate risk minus psi of the excess error, (laws, 2 kinds of scores, 16), and its tightness on one point."""
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)
    law = -draw(laws, ATOMS).log()
    law = (law / law.sum(dim=1, keepdim=True))[:, None]
    # Probabilities near 0, 1/2 and 1 too.
    eta = torch.special.expit(6 * (draw(laws, ATOMS) - 0.5) * draw(laws, 1) ** 2)[:, None]
    signs = 2.0 * torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * ATOMS).double() - 1
    sizes = -draw(laws, len(signs), ATOMS).log()
    gaps = []
    # Scores of any size, and scores that are wrong by as little as can be.
    for scores in (signs * sizes, torch.where(signs * (2 * eta - 1) > 0, signs * sizes, 0.0)):
        wrong = (scores * (2 * eta - 1) <= 0).double()
        error = (law * (2 * eta - 1).abs() * wrong).sum(dim=2)
        excess = loss.conditional_risk(eta, scores) - loss.least_conditional_risk(eta)
        gaps.append((law * excess).sum(dim=2) - psi(error))
    one = torch.tensor([0.8], dtype=torch.float64)
    least = loss.conditional_risk(one, torch.zeros_like(one)) - loss.least_conditional_risk(one)
    tightness = float(psi(2 * one - 1) / least) if float(least) else float("inf")
    return torch.stack(gaps, dim=1), tightness


def example(n: int) -> tuple[Tensor, Tensor]:
    """Inputs (n,) and labels: one more example at 1 than at M."""
    k = (n - 1) // 2
    ones = torch.ones(n, dtype=torch.float64)
    ones[k + 1 :] = -1
    return torch.where(ones > 0, ones, FAR), ones


def least_errors(n: int) -> int:
    """Of sign(w x), by listing all that such classifiers do."""
    x, y = example(n)
    points, places = torch.unique(x, return_inverse=True)
    labellings = linear_dichotomies(points[:, None], bias=False)[:, places]
    return int((labellings != y).sum(dim=1).min())


def surrogate_errors(loss: MarginLoss, n: int) -> int:
    """Errors of the minimiser of the surrogate risk over w, by ternary search of a convex function."""
    x, y = example(n)
    low, high = -20.0, 20.0
    risk = lambda w: float(loss.loss(w * y * x).mean())
    while high - low > 1e-10:
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if risk(left) <= risk(right) else (left, high)
    # A score of 0 is an error.
    return int((y * x * (low + high) / 2 <= 1e-9).sum())


def transforms(claimed: Sequence[Claimed]) -> Curve:
    """The psi-transforms."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    return Curve(
        "What an excess error costs in surrogate risk at least",
        Axis("excess error R - R*"),
        Axis("psi, in units of the loss"),
        tuple(Line(loss.name, numbers(t), numbers(psi(t))) for loss, psi in claimed),
        caption="Read from right to left: an excess surrogate risk on the vertical axis allows no more excess error than "
        "the curve's point at that height. The hinge loss is the only one of these in proportion.",
    )


def table(rows: list[tuple[str, int, int, int]]) -> Table:
    """The example's errors."""
    return Table(
        "The surrogate's minimiser makes one error more than the best of its class",
        ("loss", "examples n", "least errors of sign(w x)", "errors at the least surrogate risk"),
        tuple(rows),
        caption=f"Examples at x = 1 and, one fewer, at x = {FAR:g} with the other label. With an intercept the class holds "
        "a separator, and the difference is gone.",
    )


CLAIM = Claim(
    id="surrogate_calibration",
    theme=Theme.RISK,
    title="A surrogate loss and the 0-1 error",
    statement="psi(R - R*) <= R_phi - R_phi* for every law and every function, for the hinge, logistic, squared and "
    "exponential losses; within a class the minimiser of the surrogate risk may make more errors than the best member.",
    source="Bartlett, Jordan & McAuliffe 2006, theorems 1 and 2; Zhang 2004; Ben-David, Loker, Srebro & Sridharan 2012 for "
    "the failure within linear classes",
    assumptions=(
        "The loss is convex in the margin, differentiable at 0 and falls there.",
        "R_phi* is the least surrogate risk over all functions, not over a class.",
    ),
    refuted_by="one law and one function above the inequality, or an example in which the two minimisers agree",
    run=run,
    counterexample=counterexample,
    rows=("R05",),
)
