r"""Convex losses: exchanging one of n examples moves what SGD learns by at most 2G/n times the sum of its steps.

Two runs on samples that differ in one example, from one start and in one order, differ by at most

    |w_t - w'_t| <= 2 G (sum of the steps that drew the differing example),

for a gradient step on a convex smooth loss with alpha <= 2/beta does not expand distances and a step on two losses adds at most
2 alpha G. In expectation over uniform draws that is (2 G / n) sum alpha; for full-batch descent, where each step holds a share
1/n of the example, it is so in every run. By symmetry between the sample and a fresh example the expected generalization
gap *is* the expected change of the loss on the exchanged example, and so at most G times the distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.sgd_stability import (
    convex_stability,
    path_distance_bound,
    strongly_convex_stability,
)
from torchstone.details import Axis, Curve, Line, numbers, thin

RUNS, EXAMPLES, INPUTS, STEPS = 100, 30, 5, 300
RATE, DECAY = 0.9, 0.1
ROUNDING = 1e-12

# The derivative of a loss in its margin y <w, x>, between -1 and 1 so that G = |x| = 1.
Slope = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Samples:
    """R pairs of samples (R, n, d) with labels +-1 (R, n) that differ in example 0."""

    x: Tensor
    y: Tensor
    twin_x: Tensor
    twin_y: Tensor


def logistic(margin: Tensor) -> Tensor:
    """Derivative of log(1 + exp(-m)): convex, 1-Lipschitz, 1/4-smooth."""
    return -torch.sigmoid(-margin)


def waves(margin: Tensor) -> Tensor:
    """Derivative of -sin m: 1-Lipschitz, 1-smooth, and not convex."""
    return -torch.cos(margin)


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Logistic regression."""
    return experiment(scale, generator, logistic, smoothness=0.25)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The same bounds for a loss that is smooth and as Lipschitz, but not convex."""
    return experiment(scale, generator, waves, smoothness=1.0)


def experiment(scale: Scale, generator: torch.Generator, slope: Slope, smoothness: float) -> Evidence:
    """Twin runs of SGD and of full-batch descent, and the identity of gap and stability."""
    more = 1 if scale is Scale.QUICK else 10
    samples = draw(RUNS * more, EXAMPLES, generator)
    draws = torch.randint(EXAMPLES, (RUNS * more, STEPS), generator=generator)
    rates = torch.full((STEPS,), RATE, dtype=torch.float64)

    stochastic = apart(samples, draws, slope)
    paths = path_distance_bound(rates, (draws == 0).double(), lipschitz=1.0)
    whole = apart(samples, None, slope)
    mean_bound = torch.tensor(
        [convex_stability(rates[:t], EXAMPLES, 1.0, smoothness).distance for t in range(1, STEPS + 1)]
    )
    decayed = apart(samples, draws, slope, DECAY)
    # From 0 with steps below 1/DECAY the weights stay in the ball of radius 1/DECAY, where gradients are at most 2.
    limit = strongly_convex_stability(RATE, EXAMPLES, 2.0, smoothness + DECAY, DECAY, STEPS).distance
    gaps, changes = gap_and_stability(2000 * more, generator, slope)
    return Evidence.all_of(
        Evidence.close("violations in every run of SGD, at every step", violations(stochastic, paths), 0, absolute=0),
        Evidence.close("violations in every full-batch run, at every step", violations(whole, mean_bound), 0, absolute=0),
        Evidence.at_most("mean distance of SGD over its bound, largest over steps", float((stochastic.mean(0) / mean_bound).max()), 1.0),
        Evidence.at_most(
            "mean distance with weight decay over its bound", float(decayed.mean(0).max()) / limit, 1.0, "the bound stops growing"
        ),
        Evidence.within_errors("expected gap less expected stability", gaps - changes, 0.0),
        Evidence.at_least("expected gap, in its standard errors", gaps.mean() / (gaps.std() / len(gaps) ** 0.5), 5.0, "there is a gap"),
        Evidence.at_most("expected gap over the bound on it", gaps.mean() / convex_stability([RATE] * GAP_STEPS, GAP_EXAMPLES, 1.0, smoothness).value, 1.0),
        Evidence.at_least(
            "one run over the bound on the mean, largest over runs and steps",
            float((stochastic / mean_bound).max()),
            1.0,
            "the bound on the mean does not hold in every run of SGD",
        ),
        figures=(distances(stochastic, whole, mean_bound),),
    )  # fmt: skip


def draw(runs: int, examples: int, generator: torch.Generator) -> Samples:
    """Inputs on the unit sphere, labels of a random hyperplane with a fifth of them flipped, and a fresh example each."""
    x = torch.randn(runs, examples + 1, INPUTS, generator=generator, dtype=torch.float64)
    x = x / x.norm(dim=-1, keepdim=True)
    flipped = torch.rand(runs, examples + 1, generator=generator) < 0.2
    y = torch.where(flipped, -1.0, 1.0) * x[..., 0].sign()
    twin_x, twin_y = x[:, :-1].clone(), y[:, :-1].clone()
    twin_x[:, 0], twin_y[:, 0] = x[:, -1], y[:, -1]
    return Samples(x[:, :-1], y[:, :-1], twin_x, twin_y)


def descend(x: Tensor, y: Tensor, draws: Tensor | None, slope: Slope, decay: float = 0.0) -> Tensor:
    """Weights of R runs from 0 after each step, (R, T, d): single examples as drawn, or all of them at each step."""
    w, path = torch.zeros(len(x), x.shape[-1], dtype=x.dtype), []
    every = torch.arange(len(x))
    steps = STEPS if draws is None else draws.shape[1]
    for t in range(steps):
        some_x, some_y = (
            (x, y) if draws is None else (x[every, draws[:, t]][:, None], y[every, draws[:, t]][:, None])
        )
        pull = slope(some_y * (some_x @ w[..., None])[..., 0]) * some_y
        w = (1 - RATE * decay) * w - RATE * (pull[..., None] * some_x).mean(1)
        path.append(w)
    return torch.stack(path, dim=1)


def apart(samples: Samples, draws: Tensor | None, slope: Slope, decay: float = 0.0) -> Tensor:
    """Distances of the twins after each step, (R, T)."""
    own = descend(samples.x, samples.y, draws, slope, decay)
    return (own - descend(samples.twin_x, samples.twin_y, draws, slope, decay)).norm(dim=-1)


def violations(distance: Tensor, bound: Tensor) -> int:
    """How often a distance exceeds its bound by more than rounding."""
    return int((distance > bound + ROUNDING).sum())


GAP_EXAMPLES, GAP_STEPS, POOL = 20, 60, 150


def gap_and_stability(draws: int, generator: torch.Generator, slope: Slope) -> tuple[Tensor, Tensor]:
    """Risk less empirical risk, and the change of the loss on the exchanged example; one of each a draw, (draws,).

    The law is uniform over a pool, so that risks are exact. Losses are logistic whatever is descended on: the identity holds for
    any learner and any loss.
    """
    pool = draw(1, POOL, generator)
    chosen = torch.randint(POOL, (draws, GAP_EXAMPLES + 1), generator=generator)
    x, y = pool.x[0][chosen], pool.y[0][chosen]
    order = torch.randint(GAP_EXAMPLES, (draws, GAP_STEPS), generator=generator)
    twin = torch.cat([torch.tensor([GAP_EXAMPLES]), torch.arange(1, GAP_EXAMPLES)])
    w = descend(x[:, :-1], y[:, :-1], order, slope)[:, -1]
    v = descend(x[:, twin], y[:, twin], order, slope)[:, -1]
    loss = lambda weights, some_x, some_y: torch.nn.functional.softplus(
        -some_y * (some_x @ weights[..., None])[..., 0]
    )
    risk = loss(w, pool.x[0].expand(draws, -1, -1), pool.y[0]).mean(1)
    empirical = loss(w, x[:, :-1], y[:, :-1]).mean(1)
    # The exchanged example is one of the n at random by symmetry of the sample and of uniform draws.
    change = loss(v, x[:, :1], y[:, :1])[:, 0] - loss(w, x[:, :1], y[:, :1])[:, 0]
    return risk - empirical, change


def distances(stochastic: Tensor, whole: Tensor, bound: Tensor) -> Curve:
    """Distances over steps beside the bound."""
    kept = thin(STEPS, 100)
    steps = tuple(k + 1 for k in kept)
    low, high = stochastic.min(0).values, stochastic.max(0).values
    return Curve(
        "Distance of twins that differ in one example",
        Axis("step"),
        Axis("|w - w'|"),
        (
            Line("SGD, mean of the runs", steps, numbers(stochastic.mean(0)[kept]), numbers(low[kept]), numbers(high[kept])),
            Line("full batch, largest of the runs", steps, numbers(whole.max(0).values[kept])),
            Line("bound on the mean, 2G/n times the steps' sum", steps, numbers(bound[kept])),
        ),
        caption="Band: all runs of SGD. A run leaves the bound on the mean when it draws the differing example early; full-batch "
        "descent never does.",
    )  # fmt: skip


CLAIM = Claim(
    id="sgd_is_stable",
    theme=Theme.MEMORISATION,
    title="Stochastic gradient descent is stable on convex losses",
    statement=(
        "On convex, smooth, Lipschitz losses two coupled runs of SGD on samples that differ in one of n examples stay within "
        "2G times the steps that drew it, in expectation within (2G/n) sum alpha, and the expected generalization gap equals the "
        "expected change of the loss on the exchanged example."
    ),
    source="Hardt, Recht & Singer 2016, theorems 3.8 and 3.9; Bousquet & Elisseeff 2002, lemma 7; Shalev-Shwartz et al. 2010, lemma 7",
    assumptions=(
        "Every example's loss is convex, G-Lipschitz and beta-smooth in the weights.",
        "Steps are at most 2/beta, and the examples of each step are drawn uniformly with replacement.",
        "Both runs have the same start and the same draws.",
    ),
    refuted_by="one distance above its bound at any step of any run, or gap and stability three standard errors apart",
    run=run,
    counterexample=counterexample,
    rows=("M01",),
)
