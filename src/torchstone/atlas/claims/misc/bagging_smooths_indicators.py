r"""Bagging turns a hard decision at its threshold into a smooth one: variance 1/4 becomes 1/12.

The indicator of a mean, 1[mean(X) <= mu + c s / sqrt(n)], has variance Phi(c)(1 - Phi(c)): 1/4 at c = 0. Averaged over
bootstrap samples it tends to Phi(c - Z) with Z standard normal: uniform on [0, 1] at c = 0, of variance 1/12. Half of the
examples without replacement do the same, because the mean of half of n examples spreads around that of all of them by
s^2 (2/n - 1/n) = s^2 / n, just as a bootstrap sample's does. A mean itself gains nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers
from torchstone.specimens.networks import mlp
from torchstone.training.bagging import Bag, bag, bootstrap_rows, subsample_rows
from torchstone.training.evaluation import cross_entropy

EXAMPLES, RESAMPLES = 2000, 500
SHIFTS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
EDGE = SHIFTS.index(0.0)


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """The indicator of a mean."""
    return experiment(scale, generator, hard=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """A linear predictor in its place: the mean itself, scaled to the variance 1/4."""
    return experiment(scale, generator, hard=False)


def experiment(scale: Scale, generator: torch.Generator, hard: bool) -> Evidence:
    """Variances over data sets of the plain, the bagged and the half-subsampled predictor; then networks."""
    data_sets = 12_000 if scale is Scale.QUICK else 200_000
    plain, bagged, halved = predictors(data_sets, generator, hard)
    found = {name: x.var(0) for name, x in (("plain", plain), ("bagged", bagged), ("halved", halved))}
    error = math.sqrt((1 / 80 - 1 / 144) / data_sets)  # of a uniform variable's variance
    networks, labels = bagged_networks(scale, generator)
    return Evidence.all_of(
        Evidence.close(
            "variance of the indicator at its threshold", found["plain"][EDGE], 1 / 4, relative=0.03
        ),
        Evidence.close(
            "variance of the bagged indicator",
            found["bagged"][EDGE],
            1 / 12,
            relative=0.03,
            standard_error=error,
            note=f"n = {EXAMPLES}, B = {RESAMPLES}",
        ),
        Evidence.close(
            "variance with half of the examples, drawn without replacement",
            found["halved"][EDGE],
            1 / 12,
            relative=0.03,
            standard_error=error,
        ),
        Evidence.at_most(
            "largest distance of the bagged variance from theory over the shifts",
            (found["bagged"] - torch.tensor([bagged_moments(c)[1] for c in SHIFTS])).abs().max(),
            0.03 / 12,
        ),
        Evidence.at_most(
            "test error of 20 bagged networks over their mean test error",
            labels["bag"] / labels["members"],
            1.0,
        ),
        Evidence.at_most(
            "out-of-bag error beyond the test error, in standard errors",
            labels["distance"],
            3.0,
            "networks on handwritten digits",
        ),
        figures=(curve(found), table(found, networks, labels)),
    )


def predictors(data_sets: int, generator: torch.Generator, hard: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Plain, bagged and half-subsampled predictions of every data set at every shift, (data sets, shifts).

    All data sets share their resamples, drawn independently of the data. For symmetric data the prediction at c = 0 has
    mean 1/2 whatever the resamples, so that the variance over data sets has the right mean.
    """
    n, shifts = EXAMPLES, torch.tensor(SHIFTS) / EXAMPLES**0.5
    draws = bootstrap_rows(n, RESAMPLES, generator)
    halves = subsample_rows(n, RESAMPLES, n // 2, generator)
    weights = torch.zeros(2 * RESAMPLES, n)
    for row, some in enumerate((*draws, *halves)):
        weights[row] = torch.bincount(some, minlength=n) / len(some)
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, data_sets, 2000):
        x = torch.randn(min(2000, data_sets - start), n, generator=generator)
        means, resampled = x.mean(1, keepdim=True), x @ weights.T
        decide = (lambda m: (m[..., None] <= shifts).double()) if hard else _scaled
        both = [decide(part).mean(1) for part in (resampled[:, :RESAMPLES], resampled[:, RESAMPLES:])]
        parts.append((decide(means).mean(1), *both))
    plain, bagged, halved = (torch.cat(column) for column in zip(*parts, strict=True))
    return plain, bagged, halved


def _scaled(means: Tensor) -> Tensor:
    """The mean in the unit in which its variance is 1/4, at every shift."""
    return (means.double() * EXAMPLES**0.5 / 2)[..., None].expand(*means.shape, len(SHIFTS))


def bagged_moments(shift: float) -> tuple[float, float]:
    """Mean and variance of Phi(c - Z), Z standard normal."""
    from scipy.integrate import quad
    from scipy.special import ndtr

    density = lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    moment = lambda k: quad(lambda z: float(ndtr(shift - z)) ** k * density(z), -10, 10)[0]
    return moment(1), moment(2) - moment(1) ** 2


def bagged_networks(scale: Scale, generator: torch.Generator) -> tuple[Bag, dict[str, float]]:
    """Twenty small networks on bootstrap samples of the digits, and their errors."""
    data = digits()
    count = 300 if scale is Scale.QUICK else 1000
    x, y = data.train_x[:count], data.train_y[:count]
    seeds = torch.randint(2**31, (20,), generator=generator).tolist()
    recipe: dict[str, Any] = {
        "batch_size": 50,
        "epochs": 20,
        "generators": [torch.Generator().manual_seed(seed) for seed in seeds],
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    }
    models = [mlp([64, 16, 10], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    rows = bootstrap_rows(count, 20, generator)
    made = bag(models, cross_entropy, x, y, rows, lambda z: z.softmax(-1), **recipe)
    unseen_x = torch.cat([data.train_x[count:], data.test_x])
    unseen_y = torch.cat([data.train_y[count:], data.test_y])
    members = (made.members(unseen_x).argmax(-1) != unseen_y).double().mean()
    test = float((made(unseen_x).argmax(-1) != unseen_y).double().mean())
    judged = made.out_of_bag_error(x, y)
    spread = math.sqrt(
        judged.value * (1 - judged.value) / judged.examples + test * (1 - test) / len(unseen_y)
    )
    found = {
        "bag": test,
        "members": float(members),
        "out of bag": judged.value,
        "distance": abs(judged.value - test) / spread,
        "voters": judged.voters,
    }
    return made, found


def curve(found: dict[str, Tensor]) -> Curve:
    """Variance over the distance from the threshold, measured and in theory."""
    from scipy.special import ndtr

    fine = torch.linspace(SHIFTS[0], SHIFTS[-1], 41, dtype=torch.float64).tolist()
    plain = tuple(float(ndtr(c) * (1 - ndtr(c))) for c in fine)
    lines = [
        Line("plain, theory", numbers(fine), plain),
        Line("bagged, theory", numbers(fine), tuple(bagged_moments(c)[1] for c in fine)),
    ]
    for name, title in (("plain", "plain"), ("bagged", "bagged"), ("halved", "half subsamples")):
        lines.append(Line(f"{title}, measured", SHIFTS, numbers(found[name])))
    return Curve(
        "Variance of the indicator of a mean",
        Axis("threshold beyond the mean, c", "standard errors"),
        Axis("variance"),
        tuple(lines),
        (Marker("1/4", 0.25), Marker("1/12", 1 / 12)),
        caption="Bagging takes most where the decision is least stable.",
    )


def table(found: dict[str, Tensor], made: Bag, labels: dict[str, float]) -> Table:
    """Variances at the threshold, and errors of the bagged networks."""
    rows = (
        ("variance, plain", float(found["plain"][EDGE]), 1 / 4),
        ("variance, bagged", float(found["bagged"][EDGE]), 1 / 12),
        ("variance, half subsamples", float(found["halved"][EDGE]), 1 / 12),
        (f"mean test error of {len(made)} networks", labels["members"], None),
        ("test error of the bag", labels["bag"], None),
        (f"out-of-bag error, {labels['voters']:.1f} voters", labels["out of bag"], labels["bag"]),
    )
    return Table("Bagging", ("quantity", "measured", "expected"), rows)


CLAIM = Claim(
    id="bagging_smooths_indicators",
    theme=Theme.MISC,
    title="Bagging smooths hard decisions",
    statement=(
        "Bagging an indicator of a mean at its threshold lowers its variance from 1/4 to 1/12; subsamples of half the "
        "examples do the same, and linear predictors gain nothing."
    ),
    source="Buhlmann & Yu 2002, section 2 and proposition 3.1; Breiman 1996",
    assumptions=(
        "The decision is a threshold on an asymptotically normal mean, and n is large.",
        "Resamples are many: B of them add (1/6)/B to the variance at the threshold.",
    ),
    refuted_by="a variance of the bagged indicator more than 3% from 1/12 at n = 2000, B = 500",
    run=run,
    counterexample=counterexample,
    rows=("Z05",),
)
