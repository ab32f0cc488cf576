r"""Counting weights does not explain why wide networks generalise: its bound grows with the width, the test error does not.

ReLU networks of W weights in L layers have VC dimension of order W L ln W, which allows a gap of the order
sqrt(W L ln W / n) for n examples. Two-layer networks of 8 to 1024 units are trained on the same 1,400 digits. The rate
increases at every step and is above 1, where it says nothing, from a few units on; so is the bound with all its
constants. The test error falls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.parameter_count import NetworkSize, network_size, parameter_rate
from torchstone.bounds.piecewise_growth import LayerSize, piecewise_linear_log_growth
from torchstone.bounds.vc import growth_risk_bound
from torchstone.data.digits import digits
from torchstone.data.mnist1d import mnist1d
from torchstone.data.split import DataSplit
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy, mean_over, misclassified
from torchstone.training.fit import fit

WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024)
NARROW, NOISE = (
    (16, 24, 32, 48, 64),
    0.4,
)  # of the counterexample: widths, and share of training labels drawn anew


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """True labels."""
    parts = [measured("digits", digits(), scale, generator)]
    if scale is Scale.FULL:
        parts.append(measured("MNIST-1D", mnist1d(), scale, generator))
    return Evidence.all_of(*parts)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Noisy labels and widths up to the one that fits them all: here more weights do hurt, as counting has it."""
    data = digits()
    chance = torch.rand(len(data.train_y), generator=generator) < NOISE
    drawn = torch.randint(10, (len(data.train_y),), generator=generator)
    labels = torch.where(chance, drawn, data.train_y)
    noisy = DataSplit(data.train_x, labels, data.test_x, data.test_y, data.names)
    return measured("digits", noisy, scale, generator, NARROW, epochs=60)


def measured(
    name: str,
    data: DataSplit,
    scale: Scale,
    generator: torch.Generator,
    widths: tuple[int, ...] = WIDTHS,
    epochs: int = 8,
) -> Evidence:
    """Train every width, and set the bounds beside the errors."""
    from scipy.stats import spearmanr

    seeds = 1 if scale is Scale.QUICK else 10
    inputs, n = data.train_x[0].numel(), len(data.train_x)
    errors = torch.stack([test_errors(data, width, seeds, epochs, generator) for width in widths])
    test, train = errors[:, :, 0].mean(1), errors[:, :, 1].mean(1)
    sizes = [size(inputs, width) for width in widths]
    rates = torch.tensor([parameter_rate(one.weights, one.layers, n) for one in sizes])
    bounds = [full_bound(inputs, width, n, float(error)) for width, error in zip(widths, train, strict=True)]
    rank: Any = spearmanr(rates.numpy(), test.numpy())
    return Evidence.all_of(
        Evidence.at_least(
            f"{name}: smallest growth of the rate from a width to the next",
            float((rates[1:] / rates[:-1]).min()),
            1.0 + 1e-9,
            "it strictly increases",
        ),
        Evidence.at_most(f"{name}: rank correlation of rate and test error", float(rank.statistic), 0.0),
        Evidence.at_most(
            f"{name}: width from which the rate is above 1",
            float(vacuous_from(inputs, n)),
            WIDTHS[0],
            "vacuous at every width trained",
        ),
        Evidence.at_least(f"{name}: least bound with its constants", min(bounds), 1.0, "vacuous too"),
        Evidence.at_most(
            f"{name}: test error of the widest over the narrowest", float(test[-1] / test[0]), 1.0
        ),
        figures=(figure(name, widths, rates, test), table(name, widths, sizes, rates, bounds, train, test)),
    )


def test_errors(data: DataSplit, width: int, seeds: int, epochs: int, generator: torch.Generator) -> Tensor:
    """Errors on test and training data of networks of one width, (seeds, 2)."""
    x, fresh = data.train_x.flatten(1), data.test_x.flatten(1)
    found = torch.empty(seeds, 2, dtype=torch.float64)
    for seed in range(seeds):
        net = mlp([x.shape[1], width, 10], generator=generator)
        sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        fit(
            net,
            cross_entropy,
            x,
            data.train_y,
            optimizer=sgd,
            batch_size=128,
            epochs=epochs,
            generator=generator,
        )
        found[seed, 0] = mean_over(net, misclassified, fresh, data.test_y)
        found[seed, 1] = mean_over(net, misclassified, x, data.train_y)
    return found


def size(inputs: int, width: int) -> NetworkSize:
    """W and L of a two-layer network."""
    return network_size(mlp([inputs, width, 10], generator=torch.Generator().manual_seed(0)))


def full_bound(inputs: int, width: int, n: int, train_error: float) -> float:
    """The bound with every constant, from Warren's lemma."""
    layers = [LayerSize((inputs + 1) * width, width), LayerSize((width + 1) * 10, 9)]
    return growth_risk_bound(train_error, piecewise_linear_log_growth(layers, n), n).value


def vacuous_from(inputs: int, n: int) -> int:
    """The smallest width whose rate is above 1."""
    width = 1
    while parameter_rate((inputs + 11) * width + 10, 2, n) <= 1:
        width += 1
    return width


def figure(name: str, widths: tuple[int, ...], rates: Tensor, test: Tensor) -> Curve:
    """Rate and test error over the width."""
    x = numbers(widths)
    return Curve(
        f"{name}: what counting weights says, and what happens",
        Axis("hidden units", log=True),
        Axis("share of examples", log=True),
        (
            Line("rate sqrt(W L ln W / n)", x, numbers(rates)),
            Line("test error", x, numbers(test.clamp(min=1e-3))),
        ),
        (Marker("vacuous above", 1.0),),
        caption="The rate allows an ever larger gap, beyond any that is possible; the error of the trained networks falls. "
        "What limits them is not the number of their weights.",
    )


def table(
    name: str,
    widths: tuple[int, ...],
    sizes: list[NetworkSize],
    rates: Tensor,
    bounds: list[float],
    train: Tensor,
    test: Tensor,
) -> Table:
    """All numbers."""
    rows = tuple(
        (width, one.weights, float(rate), bound, float(seen), float(error))
        for width, one, rate, bound, seen, error in zip(
            widths, sizes, rates, bounds, train, test, strict=True
        )
    )
    columns = ("width", "W", "sqrt(W L ln W / n)", "bound with constants", "training error", "test error")
    caption = "The bound stops growing where counting allows all labellings of the sample."
    return Table(name, columns, rows, caption)


CLAIM = Claim(
    id="counting_weights",
    theme=Theme.RISK,
    title="Counting weights does not explain generalisation",
    statement=(
        "Over widths 8 to 1024 the bound from the number of weights strictly increases and is vacuous from a few units on, "
        "while the test error of the trained networks does not increase."
    ),
    source="Bartlett, Harvey, Liaw & Mehrabian 2019, theorems 1 and 6; Neyshabur, Tomioka & Srebro 2015 (In search of the real inductive bias)",
    assumptions=(
        "Labels carry little noise, or widths go well beyond those that fit the training data: below, more weights fit more noise.",
        "The number of examples is fixed while the width grows.",
    ),
    refuted_by="a positive rank correlation of bound and test error over widths, or a bound below 1 at a width trained",
    run=run,
    counterexample=counterexample,
    rows=("R10",),
)
