"""Fifty layers train with shortcuts and do not without: h(x) = x + B ReLU(A x).

A block whose last layer is zero is the identity, so depth can be added without losing what a shallower network has; a
shortcut that pads with zeros has no parameters. The two networks differ in their shortcuts alone: same shapes, the same
numbers of parameters, learning rate, data and order. Each is initialised as suits it (variance kept over all layers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Marker, numbers
from torchstone.errors import NumericalError
from torchstone.init import zero_last
from torchstone.layers.residual import PadShortcut, Residual, residual_branches
from torchstone.specimens.networks import residual_mlp
from torchstone.training.evaluation import cross_entropy, mean_over
from torchstone.training.fit import Epoch, fit

BLOCKS, WIDTH = 24, 32  # of two layers each; with the first and the last layer, fifty
RATE = 0.005
LEARNED, FAILED = 0.05, 1.0  # training losses; log 10 = 2.3 is chance


@dataclass(frozen=True)
class Training:
    """Training losses of each epoch, and the loss at the end; infinite where it diverged."""

    losses: tuple[float, ...]
    end: float


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """With shortcuts."""
    return experiment(scale, generator, shortcuts=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The network that is meant to be residual has lost its shortcuts."""
    return experiment(scale, generator, shortcuts=False)


def experiment(scale: Scale, generator: torch.Generator, shortcuts: bool) -> Evidence:
    """A zero block, a padding shortcut, and the training of both networks on the digits."""
    examples, epochs = (500, 14) if scale is Scale.QUICK else (1400, 20)
    rates = (RATE,) if scale is Scale.QUICK else (RATE, 4 * RATE, RATE / 4)
    seeds = torch.randint(2**31, (2,), generator=generator).tolist()
    residual = trained(shortcuts, seeds[0], examples, epochs, RATE)
    plain = [trained(False, seeds[1], examples, epochs, rate) for rate in rates]
    best = min(plain, key=lambda one: one.end)
    padding = PadShortcut(16, 32, stride=2)
    return Evidence.all_of(
        Evidence.at_most(
            "largest |h(x) - x| of five blocks whose last layer is zero",
            identity_error(shortcuts, generator),
            0.0,
        ),
        Evidence.at_most(
            "parameters of a zero-padding shortcut", sum(p.numel() for p in padding.parameters()), 0.0
        ),
        Evidence.at_most("training loss of the residual network", residual.end, LEARNED),
        Evidence.at_least(
            f"training loss of the plain network, best of {len(rates)} learning rates", best.end, FAILED
        ),
        figures=(curve(residual, plain, rates),),
    )


def identity_error(shortcuts: bool, generator: torch.Generator) -> float:
    """How far five blocks with a last layer of zero are from the identity."""
    linear = lambda: nn.utils.skip_init(nn.Linear, 8, 8)
    make = lambda: nn.Sequential(linear(), nn.ReLU(), linear())
    model = nn.Sequential(*(Residual(make()) for _ in range(5)))
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    zero_last(residual_branches(model))
    x = torch.randn(16, 8, generator=generator)
    if not shortcuts:
        model = nn.Sequential(*residual_branches(model))
    with torch.no_grad():
        return float((model(x) - x).abs().max())


def trained(shortcuts: bool, seed: int, examples: int, epochs: int, rate: float) -> Training:
    """Fifty layers, with or without shortcuts, on the first examples of the digits."""
    generator = torch.Generator().manual_seed(seed)
    data = digits()
    x, y = data.train_x[:examples], data.train_y[:examples]
    model = residual_mlp(BLOCKS, WIDTH, shortcuts, generator=generator)
    losses: list[float] = []

    def note(epoch: Epoch) -> None:
        losses.append(epoch.train_loss)

    try:
        fit(
            model,
            cross_entropy,
            x,
            y,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
            batch_size=50,
            epochs=epochs,
            generator=generator,
            on_epoch=note,
        )
    except NumericalError:
        return Training(tuple(losses), float("inf"))
    return Training(tuple(losses), mean_over(model, cross_entropy, x, y))


def curve(residual: Training, plain: Sequence[Training], rates: Sequence[float]) -> Curve:
    """Losses by epoch."""
    named = [("with shortcuts", residual)]
    named += [(f"without, learning rate {rate:g}", one) for one, rate in zip(plain, rates, strict=True)]
    lines = [
        Line(name, numbers(range(1, len(one.losses) + 1)), numbers(one.losses))
        for name, one in named
        if one.losses
    ]
    return Curve(
        "Fifty layers on handwritten digits",
        Axis("epoch"),
        Axis("training loss", "nats", log=True),
        tuple(lines),
        (Marker("chance", 2.302585), Marker("learned", LEARNED)),
        caption="With shortcuts the loss falls to the lower line; without, it stays near chance.",
    )


CLAIM = Claim(
    id="residual_networks_train",
    theme=Theme.ARCHITECTURES,
    title="Residual networks train where plain ones fail",
    statement=(
        "A network of fifty layers with shortcuts reaches a training loss below 0.05 on handwritten digits where the same "
        "network without them stays above 1; a block whose last layer is zero is the identity exactly."
    ),
    source="He, Zhang, Ren & Sun 2016a, section 4.1 and figure 4; 2016b, section 2; "
    "Zhang, Dauphin & Ma 2019, section 3 (branches of size L^(-1/2))",
    assumptions=(
        "No normalisation in either network.",
        "Branches start smaller by the root of the depth; the plain network keeps the variance in every layer.",
        "The same small learning rate and number of epochs.",
    ),
    refuted_by="a residual loss above 0.05, a plain loss below 1.0, or a zero block that changes its input",
    run=run,
    counterexample=counterexample,
    rows=("N07",),
)
