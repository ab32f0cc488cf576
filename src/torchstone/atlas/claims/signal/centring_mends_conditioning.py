r"""Features far from zero put one huge singular value into the data, and centring takes it out.

Least squares on X (n, d) has the Hessian X'X / n. Features with a common mean c are X = X0 + c 1 1', a rank-one spike:

    sigma_1(X) ~ c sqrt(n d),

along the direction 1 / sqrt(d), while the other singular values stay those of X0 (they interlace). So the condition number is
multiplied by c^2 n d / sigma_1(X0)^2, and the steps of gradient descent with it. Subtracting each column's mean takes the
spike out exactly; dividing by each column's deviation then undoes unequal units. Rows that each have a mean of their own,
X0 + r 1' with r of mean 0, have the same spike, and there subtracting columns' means does nothing: rows' means must go.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Spectrum, numbers

SHIFTS = (10.0, 30.0, 100.0)
STRONG, WEAK = 3.0, 1.0  # spreads of X0's directions, half of them each
REDUCTION = 1e-6  # of the error of gradient descent

Spoil = Callable[[Tensor, float, torch.Generator], Tensor]


def shifted(X: Tensor, c: float, generator: torch.Generator) -> Tensor:
    """X + c 1 1': every feature far from zero."""
    del generator
    return X + c


def brightened(X: Tensor, c: float, generator: torch.Generator) -> Tensor:
    """X + c r 1' with r of mean 0 and mean square 1: every example has a level of its own."""
    r = torch.randn(len(X), 1, generator=generator, dtype=X.dtype)
    r = r - r.mean()
    return X + c * r / r.square().mean().sqrt()


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """With features far from zero."""
    return experiment(scale, generator, shifted)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """With a level of its own for each row: the same spike, which centring the columns leaves where it is."""
    return experiment(scale, generator, brightened)


def experiment(scale: Scale, generator: torch.Generator, spoil: Spoil) -> Evidence:
    """Singular values, condition numbers and steps of gradient descent before and after centring."""
    n, d = (2000, 20) if scale is Scale.QUICK else (20_000, 100)
    X0 = design(n, d, generator)
    top = float(torch.linalg.matrix_norm(X0, 2))
    parts = []
    for c in SHIFTS:
        X = spoil(X0, c, generator)
        centred = X - X.mean(0)
        predicted = n * d * c**2 / top**2
        raw_steps, steps = steps_needed(X), steps_needed(centred)
        parts += [
            Evidence.close(
                f"sigma_1, shift {c:g}",
                torch.linalg.matrix_norm(X, 2),
                c * math.sqrt(n * d),
                relative=0.02,
                note="c sqrt(n d)",
            ),
            Evidence.close(
                f"sigma_1 after centring, shift {c:g}",
                torch.linalg.matrix_norm(centred, 2),
                top,
                relative=0.02,
                note="that of X0",
            ),
            Evidence.close(
                f"condition number over that after centring, shift {c:g}",
                condition(X) / condition(centred),
                predicted,
                relative=0.05 if c == max(SHIFTS) else 0.15,
                note="c^2 n d / sigma_1(X0)^2",
            ),
            Evidence.close(
                f"steps of gradient descent over those after centring, shift {c:g}",
                raw_steps / steps,
                predicted,
                relative=0.05 if c == max(SHIFTS) else 0.15,
                note="proportional to the condition number",
            ),
        ]
    return Evidence.all_of(*parts, scaling(X0, generator, spoil), figures=figures(X0, generator, spoil))


def scaling(X0: Tensor, generator: torch.Generator, spoil: Spoil) -> Evidence:
    """Columns in units 1000 apart, each shifted by ten of its own deviations: centring, then scaling."""
    n, d = X0.shape
    plain = torch.randn(n, d, generator=generator, dtype=X0.dtype)
    X = spoil(plain, 10.0, generator) * torch.logspace(-1.5, 1.5, d, dtype=X0.dtype)
    centred = X - X.mean(0)
    standard = centred / centred.std(0)
    edge = (1 + (d / n) ** 0.5) ** 2 / (1 - (d / n) ** 0.5) ** 2
    return Evidence.all_of(
        Evidence.at_least("condition number in units 1000 apart, centred", condition(centred), 1e5),
        Evidence.at_most(
            "condition number in units 1000 apart, centred and scaled",
            condition(standard),
            1.1 * edge,
            "edges of Marchenko & Pastur",
        ),
    )


def design(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Gaussian rows: spread STRONG in half of the directions of a random basis, WEAK in the others."""
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    spreads = torch.where(torch.arange(d) < d // 2, STRONG, WEAK).double()
    return torch.randn(n, d, generator=generator, dtype=torch.float64) * spreads @ basis.T


def condition(X: Tensor) -> float:
    """Condition number of X'X."""
    values = torch.linalg.svdvals(X)
    return float((values[0] / values[-1]).square())


def steps_needed(X: Tensor, reduction: float = REDUCTION) -> int:
    """Steps until gradient descent on |X w|^2 / 2n with the best step has shrunk the worst error by `reduction`.

    t steps are the power M^t of M = I - eta H. Powers of two by repeated squaring, then the number bit by bit: counts in
    the millions cost forty products.
    """
    hessian = X.T @ X / len(X)
    values, vectors = torch.linalg.eigh(hessian)
    start = (vectors[:, 0] + vectors[:, -1]) / 2**0.5
    powers = [torch.eye(len(hessian), dtype=X.dtype) - 2 / (values[0] + values[-1]) * hessian]
    while float((powers[-1] @ start).norm()) > reduction:
        powers.append(powers[-1] @ powers[-1])
    steps, error = 0, start
    for exponent in reversed(range(len(powers))):
        further = powers[exponent] @ error
        if float(further.norm()) > reduction:
            steps, error = steps + 2**exponent, further
    return steps + 1


def figures(X0: Tensor, generator: torch.Generator, spoil: Spoil) -> tuple[Spectrum, Curve]:
    """The spike, and the condition number over the shift."""
    X = spoil(X0, SHIFTS[0], generator)
    spectrum = Spectrum(
        f"Singular values of shifted features, c = {SHIFTS[0]:g}",
        numbers(torch.linalg.svdvals(X)),
        log=True,
        caption="One singular value stands far above the others: the common mean. Centring takes it out and leaves the rest.",
    )
    shifts = [10 ** (i / 10) for i in range(21)]
    raw, centred = [], []
    for c in shifts:
        X = spoil(X0, c, generator)
        raw.append(condition(X))
        centred.append(condition(X - X.mean(0)))
    curve = Curve(
        "Condition number of least squares",
        Axis("shift c of every feature", log=True),
        Axis("condition number", log=True),
        (Line("as given", numbers(shifts), numbers(raw)), Line("centred", numbers(shifts), numbers(centred))),
        caption="It grows with the square of the shift; centred it does not depend on the shift at all.",
    )
    return spectrum, curve


CLAIM = Claim(
    id="centring_mends_conditioning",
    theme=Theme.SIGNAL,
    title="Centring and scaling mend the conditioning",
    statement=(
        "Features with a common mean c add a singular value c sqrt(n d) to the data, which multiplies the condition number of "
        "least squares, and the steps of gradient descent, by c^2 n d / sigma_1(X0)^2. Subtracting each feature's mean takes "
        "it out; dividing by each feature's deviation undoes unequal units."
    ),
    source="LeCun, Bottou, Orr & Mueller 1998, section 4.3; Hardt & Recht 2022, chapter 5",
    assumptions=(
        "The spike is large against the data's own spread, and shared by the columns.",
        "Many examples for each feature, so that the smallest singular value is not an isolated one.",
        "Scaling helps where the axes of unequal spread are the features themselves.",
    ),
    refuted_by="at c = 100 a factor of condition numbers or of steps 5% from the prediction, or a sigma_1 after centring "
    "2% from that of the unshifted data",
    run=run,
    counterexample=counterexample,
    rows=("S20",),
    errata=(
        Erratum(
            "E30",
            stated="Where each row of X has a large mean, so that X = X0 + c 1 1', remove the mean of each row",
            correct="the common mean is taken out by centring the features (columns); rows need centring where each has a level "
            "of its own, X0 + r 1'",
        ),
    ),
)
