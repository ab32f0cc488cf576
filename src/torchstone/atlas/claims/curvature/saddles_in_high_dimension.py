r"""Critical points of high loss are saddles: minima are exponentially rare among symmetric matrices in high dimension.

A matrix of the Gaussian orthogonal ensemble (symmetric, independent normal entries of variance 1 off and 2 on the
diagonal) of size n has only positive eigenvalues with probability

    p_1 = 1/2,   p_2 = (2 - sqrt 2)/4,   p_3 = (pi - 2 sqrt 2)/(4 pi),   log p_n = -(ln 3 / 4) n^2 + O(n).

The term linear in n is not small: log p_8 / 64 is still -0.32 against -0.27. Second differences of log p_n are free of it,
and should be close to -(ln 3)/2 from the start. Independent signs would give 2^-n: eigenvalues repel each other, so a
matrix without negative ones is far rarer than that.

In a network trained to a task the share of negative eigenvalues at its critical points rises with the loss. They are found
from points along training runs, by Levenberg-Marquardt steps on the gradient's norm, and kept where the norm is tiny:
where the minimisation gets stuck at a gradient that is not zero, there is no critical point (Frye et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, hessian, vmap

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Scatter, numbers

EXACT = {1: 0.5, 2: (2 - math.sqrt(2)) / 4, 3: (math.pi - 2 * math.sqrt(2)) / (4 * math.pi)}
LARGEST = 8
GRADIENT = 1e-9  # norm below which a point counts as critical
INPUTS, HIDDEN, OUTPUTS, EXAMPLES, DECAY = 4, 3, 3, 60, 1e-3
MOMENTS = (0, 3, 6, 10, 15, 20, 30, 40, 60, 80, 120, 180, 260, 400)  # steps of training to search from

Ensemble = Callable[[int, int, torch.Generator], Tensor]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Symmetric matrices with independent normal entries."""
    return experiment(scale, generator, orthogonal_ensemble)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Eigenvalues with independent signs, as in a diagonal matrix."""
    return experiment(scale, generator, independent_eigenvalues)


def experiment(scale: Scale, generator: torch.Generator, ensemble: Ensemble) -> Evidence:
    """Probabilities for n = 2 and 3 by plain counting, up to n = 8 by splitting; then a network's critical points."""
    draws = 1_000_000 if scale is Scale.QUICK else 40_000_000
    shares = {n: share_of_positive(ensemble, n, draws, generator) for n in (2, 3)}
    logs, errors = log_probabilities(5_000 if scale is Scale.QUICK else 400_000, generator)
    bends = logs[2:] - 2 * logs[1:-1] + logs[:-2]
    loss, index = critical_points(12 if scale is Scale.QUICK else 60, generator)
    return Evidence.all_of(
        *(
            Evidence.close(
                f"share of positive definite matrices, n = {n}",
                shares[n],
                EXACT[n],
                relative=tolerance,
                standard_error=math.sqrt(EXACT[n] * (1 - EXACT[n]) / draws),
            )
            for n, tolerance in ((2, 0.01), (3, 0.05))
        ),
        Evidence.close(
            "largest error of log p_n by splitting, n = 2 and 3",
            max(abs(float(logs[n - 1]) - math.log(EXACT[n])) for n in (2, 3)),
            0.0,
            absolute=0.02,
            note="against the closed forms",
        ),
        Evidence.close(
            f"mean second difference of log p_n, n = 2 to {LARGEST - 1}",
            bends.mean(),
            -math.log(3) / 2,
            relative=0.03,
            note="-(ln 3)/2",
        ),
        Evidence.at_most(
            "largest distance of a second difference from -(ln 3)/2",
            (bends + math.log(3) / 2).abs().max(),
            0.05,
        ),
        Evidence.at_least(
            "distinct critical points of the network", len(loss), 12, "gradient norm below 1e-9"
        ),
        Evidence.at_least("rank correlation of index and loss", rank_correlation(index, loss), 0.7),
        Evidence.at_most(
            "share of negative eigenvalues at the lowest of them", index[loss.argmin()], 0.0, "a minimum"
        ),
        figures=(decay_curve(logs, errors), index_scatter(loss, index)),
    )


def orthogonal_ensemble(n: int, draws: int, generator: torch.Generator) -> Tensor:
    """Symmetric matrices (draws, n, n): entries N(0, 1), on the diagonal N(0, 2)."""
    entries = torch.randn(draws, n, n, generator=generator)
    return (entries + entries.mT) / math.sqrt(2)


def independent_eigenvalues(n: int, draws: int, generator: torch.Generator) -> Tensor:
    """The same diagonals, and nothing else."""
    return torch.diag_embed(math.sqrt(2) * torch.randn(draws, n, generator=generator))


def share_of_positive(ensemble: Ensemble, n: int, draws: int, generator: torch.Generator) -> float:
    """Share of matrices of size 2 or 3 all of whose leading minors are positive (Sylvester's criterion)."""
    positive, chunk = 0, 1_000_000
    for _ in range(draws // chunk):
        a = ensemble(n, chunk, generator).double()
        holds = (a[:, 0, 0] > 0) & (a[:, 0, 0] * a[:, 1, 1] > a[:, 0, 1] ** 2)
        if n == 3:
            holds &= torch.linalg.det(a) > 0
        positive += int(holds.sum())
    return positive / (draws // chunk * chunk)


def log_probabilities(particles: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""Logarithm of p_n for n = 1 ... 8 and its standard error, by splitting over leading blocks, 20 times over.

    A matrix with leading block L L^T, last column b and corner a is positive definite where a > s = |L^{-1} b|^2; given s
    that has probability Phi(-s / sqrt 2), so particles are weighted by it, drawn again, and given such an a. The mean
    over runs of the product of mean weights is unbiased.
    """
    runs = torch.stack([_split(particles, generator) for _ in range(20)]).exp()
    mean = runs.mean(0)
    return mean.log(), runs.std(0) / math.sqrt(len(runs)) / mean


def _split(particles: int, generator: torch.Generator) -> Tensor:
    factor = torch.zeros(particles, LARGEST, LARGEST, dtype=torch.float64)
    total, logs = 0.0, []
    for k in range(LARGEST):
        column = torch.randn(particles, k, 1, generator=generator, dtype=torch.float64)
        row = torch.linalg.solve_triangular(factor[:, :k, :k], column, upper=False)[:, :, 0]
        needed = row.square().sum(1)
        weight = torch.special.ndtr(-needed / math.sqrt(2))
        total += float(weight.mean().log())
        logs.append(total)
        kept = torch.multinomial(weight, particles, replacement=True, generator=generator)
        factor, row, needed, weight = factor[kept], row[kept], needed[kept], weight[kept]
        # The corner from the normal law's tail above `needed`, by inversion.
        uniform = torch.rand(particles, generator=generator, dtype=torch.float64)
        corner = -math.sqrt(2) * torch.special.ndtri(uniform * weight)
        factor[:, k, :k], factor[:, k, k] = row, (corner - needed).clamp(min=1e-300).sqrt()
    return torch.tensor(logs, dtype=torch.float64)


def critical_points(runs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Loss and share of negative eigenvalues at the distinct critical points of a small tanh network."""
    loss = network_loss(generator)
    points = newton(loss, training_points(loss, runs, generator))
    losses = vmap(loss)(points)
    values = torch.linalg.eigvalsh(vmap(hessian(loss))(points))
    index = (values < -1e-7 * values.abs().amax(1, keepdim=True)).double().mean(1)
    # Turned or exchanged hidden units give the same point again; the loss tells different ones apart.
    _, place = (losses * 1e6).round().unique(return_inverse=True)
    first = [int((place == i).nonzero()[0]) for i in range(int(place.max()) + 1 if len(place) else 0)]
    return losses[first], index[first]


def network_loss(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Squared error with a little weight decay of a 4-3-3 tanh network, taught by another one with a little noise."""
    x = torch.randn(EXAMPLES, INPUTS, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(INPUTS, INPUTS, generator=generator, dtype=torch.float64)).Q
    sizes = torch.tensor([2.0, 1.2, 0.7], dtype=torch.float64)
    teacher = torch.randn(OUTPUTS, HIDDEN, generator=generator, dtype=torch.float64) * sizes
    noise = 0.1 * torch.randn(EXAMPLES, OUTPUTS, generator=generator, dtype=torch.float64)
    targets = torch.tanh(x @ (1.5 * basis[:HIDDEN]).T) @ teacher.T + noise

    def loss(weights: Tensor) -> Tensor:
        into = weights[: INPUTS * HIDDEN].view(HIDDEN, INPUTS)
        out = weights[INPUTS * HIDDEN :].view(OUTPUTS, HIDDEN)
        misses = torch.tanh(x @ into.T) @ out.T - targets
        return misses.square().sum(1).mean() + DECAY * weights.square().sum()

    return loss


def training_points(loss: Callable[[Tensor], Tensor], runs: int, generator: torch.Generator) -> Tensor:
    """Points along gradient descent from small weights, each moved a little at random."""
    size = HIDDEN * (INPUTS + OUTPUTS)
    at = 0.05 * torch.randn(runs, size, generator=generator, dtype=torch.float64)
    slope, found = vmap(grad(loss)), []
    for step in range(max(MOMENTS) + 1):
        if step in MOMENTS:
            found.append(at + 0.1 * torch.randn(at.shape, generator=generator, dtype=torch.float64))
        at = at - 0.1 * slope(at)
    return torch.cat(found)


def newton(loss: Callable[[Tensor], Tensor], points: Tensor, steps: int = 120) -> Tensor:
    """The critical points that Levenberg-Marquardt steps on |gradient|^2 reach; those that stall are left out."""
    slope, curvature = vmap(grad(loss)), vmap(hessian(loss))
    eye, reached = torch.eye(points.shape[1], dtype=torch.float64), []
    damping, g = torch.full((len(points),), 0.1, dtype=torch.float64), slope(points)
    for _ in range(steps):
        done = g.norm(dim=1) < GRADIENT
        reached.append(points[done])
        points, damping, g = points[~done], damping[~done], g[~done]
        if len(points) == 0:
            break
        h = curvature(points)
        move = torch.linalg.solve(h @ h + damping[:, None, None] * eye, (h @ g[:, :, None])[:, :, 0])
        ahead = slope(points - move)
        better = ahead.norm(dim=1) < g.norm(dim=1)
        points = torch.where(better[:, None], points - move, points)
        g = torch.where(better[:, None], ahead, g)
        damping = torch.where(better, damping / 4, damping * 4).clamp(1e-15, 1e6)
    return torch.cat(reached)


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation."""
    from scipy.stats import spearmanr

    if len(first) < 3:
        return math.nan
    found: Any = spearmanr(first.numpy(), second.numpy())
    return float(found.statistic)


def decay_curve(logs: Tensor, errors: Tensor) -> Curve:
    """Measured probabilities, the closed forms, the leading term, and independent signs."""
    sizes = range(1, LARGEST + 1)
    reach = 2 * errors
    measured = Line(
        "measured (splitting)",
        numbers(sizes),
        numbers(logs.exp()),
        numbers((logs - reach).exp()),
        numbers((logs + reach).exp()),
    )
    return Curve(
        "A random symmetric matrix has no negative eigenvalue",
        Axis("size n"),
        Axis("probability", log=True),
        (
            measured,
            Line("closed form", numbers(EXACT), numbers(EXACT.values())),
            Line("exp(-n^2 ln 3 / 4)", numbers(sizes), numbers(3 ** (-n * n / 4) for n in sizes)),
            Line("independent signs, 2^-n", numbers(sizes), numbers(2.0**-n for n in sizes)),
        ),
        caption="The curve bends like n^2 from the start; exp(-n^2 ln 3 / 4) leaves out a factor exp(O(n)). Bands: two "
        "standard errors.",
    )


def index_scatter(loss: Tensor, index: Tensor) -> Scatter:
    """Critical points by loss and index."""
    return Scatter(
        "Critical points of a small network",
        Axis("loss", log=True),
        Axis("share of negative eigenvalues"),
        numbers(loss),
        numbers(index),
        caption="Each point is a critical point (gradient below 1e-9). Minima are at the lowest losses.",
    )


CLAIM = Claim(
    id="saddles_in_high_dimension",
    theme=Theme.CURVATURE,
    title="Critical points of high loss are saddles",
    statement=(
        "The probability that a random symmetric matrix has only positive eigenvalues falls like exp(-n^2 ln 3 / 4) up to a "
        "factor exp(O(n)); and at the critical points along a network's training the share of negative eigenvalues "
        "rises with the loss."
    ),
    source="Dean & Majumdar 2006, Phys. Rev. Lett. 97, 160201 (the exponent); Dauphin et al. 2014; Bray & Dean 2007; Frye et al. "
    "2021 (points that only look critical)",
    assumptions=(
        "The entries are independent normal variables, of twice the variance on the diagonal.",
        "The network can learn its task, and critical points are searched from points along its training. From random "
        "weights, with targets of pure noise, index and loss need not be related.",
    ),
    refuted_by="p_2 more than 1% or p_3 more than 5% off, second differences of log p_n away from -(ln 3)/2, or a rank "
    "correlation of index and loss of 0.7 or less",
    run=run,
    counterexample=counterexample,
    rows=("H12",),
)
