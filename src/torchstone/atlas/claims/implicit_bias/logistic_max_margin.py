r"""Gradient descent on separable logistic regression turns towards the hard-margin separator, at rate 1/log t.

Let w* minimise |w| subject to <x_n, w> >= 1 (labels absorbed into x_n), w* = sum alpha_n x_n over support vectors. Then

    w_t = w* log t + r + o(1),      eta exp(-<x_n, r>) = alpha_n  at every support vector.

Summing alpha_n <x_n, r> gives the norm, and the smallest <x_n, r> the margin gamma_t of w_t / |w_t|, gamma* = 1/|w*|:

    |w_t| / (|w*| log t)      = 1 + (log eta + h) / log t + ...,        h = -sum alpha_n log(alpha_n) / sum alpha_n
    (gamma* - gamma_t) log t -> gamma* (log max_n alpha_n + h).

So the norm is off by a factor of order 1/log t that depends on the learning rate: at t = 1e5 it is within 15% of
|w*| log t for |log eta + h| < 1.7 and not for much smaller rates. The clock that counts is eta t.

The data are made so that w* is known: two support vectors with alpha = 3/4 and 1/4, all others at least twice as far.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Marker, Scatter, Table, numbers

OTHERS = 3
ALPHA = torch.tensor([0.75, 0.25], dtype=torch.float64)
ENTROPY = -float((ALPHA * ALPHA.log()).sum())  # h; the sum of ALPHA is |w*|^2 = 1
GATE = 100_000  # steps

# Minus the derivative of the loss of one example in its margin <x, w>.
Pull = Callable[[Tensor], Tensor]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """The logistic loss, whose pull never ends."""
    return experiment(scale, generator, lambda margins: torch.sigmoid(-margins))


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """A loss with its minimum at margin 1, log cosh((1 - margin) / 2): w converges, elsewhere."""
    return experiment(scale, generator, lambda margins: torch.tanh((1 - margins) / 2) / 2)


def experiment(scale: Scale, generator: torch.Generator, pull: Pull) -> Evidence:
    """Two learning rates, and normalised gradient descent for comparison."""
    x, separator = problem(generator)
    smoothness = float(torch.linalg.matrix_norm(x, 2).square()) / 4
    rates = (1 / smoothness, 0.01 / smoothness)
    steps = GATE if scale is Scale.QUICK else 10 * GATE
    times, path = descend(x, rates, steps, pull)
    fast_times, fast = descend_normalised(x, 10_000)
    gaps = torch.stack([margin_gap(path[:, i], x, separator) for i in range(len(rates))])
    products = gaps * torch.tensor(times, dtype=torch.float64).log()
    limit = float(ALPHA.max().log()) + ENTROPY
    ratio = path[-1, 0].norm() / math.log(steps)
    offset = torch.linalg.solve(x[:2], (rates[0] / ALPHA).log())
    late = products[0, [i for i, time in enumerate(times) if time >= steps // 1000]]
    product, at = (
        "(gamma* - gamma_t) log t over the last three decades",
        f"t = {steps:,}, eta = {rates[0]:.3g}",
    )
    return Evidence.all_of(
        Evidence.close(
            "hard-margin SVC (C = 1e6) against w*", support_vector_machine(x), separator, absolute=1e-5
        ),
        *(rate_checks(times, path[:, i], separator, rate) for i, rate in enumerate(rates)),
        Evidence.close(f"|w_t| / log t over |w*| at {at}", ratio, 1.0, relative=0.15),
        Evidence.at_most(
            f"|w_t - w* log t - r| at {at}",
            (path[-1, 0] - math.log(steps) * separator - offset).norm(),
            0.01,
            "eta exp(-<x_n, r>) = alpha_n at both support vectors",
        ),
        Evidence.at_least(f"least {product}", late.min(), limit / 2, "its limit is twice as large"),
        Evidence.at_most(f"greatest {product}", late.max(), 3 * limit),
        Evidence.at_most(
            f"margin gap of normalised descent at t = 10,000 over that of plain descent at {at}",
            margin_gap(fast, x, separator)[-1] / gaps[0, -1],
            0.2,
            "dividing the gradient by the loss keeps the pull constant",
        ),
        figures=(
            gap_curve(times, products, rates, limit),
            norm_curve(times, path, rates),
            plane(x, separator, path[-1, 0]),
            speed_table(times, path, fast_times, fast, x, separator),
        ),
    )


def rate_checks(times: list[int], path: Tensor, separator: Tensor, rate: float) -> Evidence:
    """Direction, norm and growth of one path (times, 2)."""
    steps, last, decade_ago = times[-1], path[-1], path[times.index(times[-1] // 10)]
    at, t = f"t = {steps:,}, eta = {rate:.3g}", math.log(steps)
    growth = (last - decade_ago).norm() / math.log(10)
    predicted = 1 + (math.log(rate) + ENTROPY) / t
    return Evidence.all_of(
        Evidence.at_least(f"cosine of w_t and w* at {at}", last @ separator / last.norm(), 0.99),
        Evidence.close(
            f"|w_t| / log t at {at}",
            last.norm() / t,
            predicted,
            relative=0.03,
            note="1 + (log eta + h)/log t",
        ),
        Evidence.close(
            f"growth of w_t per unit of log t at {at}", growth, 1.0, relative=0.15, note="|w*| = 1"
        ),
    )


def problem(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Examples (n, 2) times their labels, and w*, turned by a random angle.

    With w* = (1, 0) the support vectors (1, 1/2) and (1, -3/2) give w* = 3/4 (1, 1/2) + 1/4 (1, -3/2).
    """
    margins = 2 + torch.rand(OTHERS, generator=generator, dtype=torch.float64)
    across = 0.5 * torch.randn(OTHERS, generator=generator, dtype=torch.float64)
    support = torch.tensor([[1.0, 0.5], [1.0, -1.5]], dtype=torch.float64)
    x = torch.cat([support, torch.stack([margins, across], 1)])
    angle = 2 * math.pi * float(torch.rand(1, generator=generator, dtype=torch.float64))
    axis = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    rotation = torch.stack([axis, torch.stack([-axis[1], axis[0]])])
    return x @ rotation, axis


def support_vector_machine(x: Tensor) -> Tensor:
    """The oracle: a linear SVC with a huge penalty, on the points and their mirror images, which forces offset 0."""
    from sklearn.svm import SVC

    points = torch.cat([x, -x]).numpy()
    labels = [1] * len(x) + [-1] * len(x)
    fitted = SVC(kernel="linear", C=1e6, tol=1e-9).fit(points, labels)
    return torch.from_numpy(fitted.coef_[0].copy())


def descend(x: Tensor, rates: tuple[float, ...], steps: int, pull: Pull) -> tuple[list[int], Tensor]:
    """Gradient descent from 0 on the sum of losses: times and iterates (times, rates, 2), ten a decade."""
    times = sorted({round(10 ** (k / 10)) for k in range(math.floor(10 * math.log10(steps)) + 1)})
    eta = torch.tensor(rates, dtype=torch.float64)[:, None]
    w, path, kept = torch.zeros(len(rates), 2, dtype=torch.float64), [], set(times)
    transposed = x.T.contiguous()
    for step in range(1, steps + 1):
        w = w + eta * (pull(w @ transposed) @ x)
        if step in kept:
            path.append(w)
    return times, torch.stack(path)


def descend_normalised(x: Tensor, steps: int) -> tuple[list[int], Tensor]:
    """Gradient descent on the exponential loss with the gradient divided by the loss: times and iterates."""
    rate = 1 / float(torch.linalg.matrix_norm(x, 2).square())
    times = [10**k for k in range(1, round(math.log10(steps)) + 1)]
    w, path, kept = torch.zeros(2, dtype=torch.float64), [], set(times)
    for step in range(1, steps + 1):
        w = w + rate * (torch.softmax(-(x @ w), 0) @ x)
        if step in kept:
            path.append(w)
    return times, torch.stack(path)


def margin_gap(w: Tensor, x: Tensor, separator: Tensor) -> Tensor:
    """gamma* - gamma_t of every row of w."""
    margins = (w @ x.T).amin(-1) / w.norm(dim=-1)
    return (x @ separator).min() / separator.norm() - margins


def gap_curve(times: list[int], products: Tensor, rates: tuple[float, ...], limit: float) -> Curve:
    """(gamma* - gamma_t) log t."""
    start = next(i for i, time in enumerate(times) if time >= 100)
    lines = [Line(f"eta = {rate:.3g}", numbers(times[start:]), numbers(p[start:])) for rate, p in zip(rates, products, strict=True)]  # fmt: skip
    return Curve(
        "Margin gap times log t",
        Axis("step t", log=True),
        Axis("(gamma* - gamma_t) log t"),
        tuple(lines),
        (Marker("limit", limit),),
        caption="Bounded: the margin approaches the largest one like 1/log t, whatever the learning rate.",
    )


def norm_curve(times: list[int], path: Tensor, rates: tuple[float, ...]) -> Curve:
    """Norm over log t, measured and by formula."""
    lines = []
    for i, rate in enumerate(rates):
        lines.append(Line(f"eta = {rate:.3g}", numbers(times), numbers(path[:, i].norm(dim=1))))
        late = [time for time in times if math.log(time) + math.log(rate) + ENTROPY > 0.5]
        predicted = [math.log(time) + math.log(rate) + ENTROPY for time in late]
        lines.append(Line(f"theory, eta = {rate:.3g}", numbers(late), numbers(predicted)))
    return Curve(
        "Norm of the weights",
        Axis("step t", log=True),
        Axis("|w_t|"),
        tuple(lines),
        caption="Straight lines of slope |w*| = 1 in log t; the learning rate only shifts them: the clock is eta t.",
    )


def plane(x: Tensor, separator: Tensor, w: Tensor) -> Scatter:
    """The data and both directions."""
    directions = torch.stack([separator, w / w.norm()])
    groups = ("support vector",) * 2 + ("other example",) * OTHERS + ("w*", "w_t / |w_t|")
    points = torch.cat([x, directions])
    return Scatter(
        "Examples times their labels",
        Axis("first input"),
        Axis("second input"),
        numbers(points[:, 0]),
        numbers(points[:, 1]),
        groups,
        caption="w_t points where the hard-margin separator does, which only the support vectors determine.",
    )


def speed_table(
    times: list[int], path: Tensor, fast_times: list[int], fast: Tensor, x: Tensor, separator: Tensor
) -> Table:
    """Margin gaps of plain and normalised descent."""
    rows = []
    for time, w in zip(fast_times, fast, strict=True):
        plain = path[times.index(time), 0]
        gaps = [float(margin_gap(v[None], x, separator)[0]) for v in (plain, w)]
        rows.append((time, *gaps))
    columns = ("step", "gradient descent", "gradient divided by the loss")
    return Table("Gap to the largest margin, gamma* - gamma_t", columns, tuple(rows))


CLAIM = Claim(
    id="logistic_max_margin",
    theme=Theme.IMPLICIT_BIAS,
    title="Logistic regression finds the largest margin",
    statement=(
        "On separable data, gradient descent on the logistic loss converges in direction to the hard-margin support "
        "vector machine: the norm grows like log t and the margin's gap shrinks like 1/log t."
    ),
    source="Soudry, Hoffer, Nacson, Gunasekar & Srebro 2018, theorems 3 and 5; Ji & Telgarsky 2018; "
    "Nacson et al. 2019 (normalised descent)",
    assumptions=(
        "The data are linearly separable through the origin.",
        "The loss has an exponential tail and no finite minimum; nothing penalises the norm.",
        "The margin is that of a separator without offset, in the geometry of plain gradient descent.",
    ),
    refuted_by="a cosine with the separator below 0.99 after 1e5 steps, or a norm that stops growing with log t",
    run=run,
    counterexample=counterexample,
    rows=("I05",),
    errata=(
        Erratum(
            "E11",
            stated="Stochastic gradient descent on logistic regression gives the hard-margin SVM",
            correct="only the direction of the weights converges to it, only on separable data, and only at rate "
            "1/log t; the norm grows without bound",
        ),
    ),
)
