r"""Two convolutional networks whose training data differ in one image drift apart more slowly than linearly.

Theory for non-convex losses allows exponential growth at constant steps; Hardt, Recht & Singer trained AlexNet twice on
ImageNet with one image exchanged and saw the normalised distance of the weights grow more slowly than linearly. ImageNet is
not embedded here: **this is a stand-in**, a network of AlexNet's plan (convolutions with pooling, then dense layers) at the
size of 8x8 digits, trained as they did, by SGD at a constant rate without momentum, decay or dropout.

The control is a linear loss, -w'x: twins part by the same amount each time the exchanged image is drawn, once an epoch, so the
same pipeline must find the exponent 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.power_law import PowerLaw, fit_power_law
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.training.evaluation import cross_entropy
from torchstone.training.twins import TwinCurves, train_twins

PAIRS, EPOCHS, BATCH, RATE = 5, 40, 40, 0.05


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """The convolutional network."""
    return experiment(scale, generator, linear=False)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """A linear loss in its place: nothing slows the drift."""
    return experiment(scale, generator, linear=True)


def experiment(scale: Scale, generator: torch.Generator, linear: bool) -> Evidence:
    """Twin networks and the control of linear growth, by the same code."""
    examples = 200 if scale is Scale.QUICK else 1200
    network = twins(examples, generator, linear)
    control = twins(examples, generator, linear=True)
    law, steady = exponent(network), exponent(control)
    assert law.interval is not None
    return Evidence.all_of(
        Evidence.at_most("exponent of growth", law.exponent, 1.0),
        Evidence.at_most("upper 95% limit of the exponent", law.interval.high, 0.999),
        Evidence.close("exponent of the linear control", steady.exponent, 1.0, absolute=0.02),
        Evidence.at_least(
            "distance after the first epoch", network.distance[:, 0].min(), 1e-9, "the twins part"
        ),
        figures=(distances(network, law, control), layers(network), functions(network), table(law, steady)),
    )


def small_alexnet(generator: torch.Generator) -> nn.Module:
    """Two convolutions with pooling and three dense layers, ReLU: AlexNet's plan for images of 8x8; He initialisation."""
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
    model.to_empty(device="cpu")
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return model


def minus_score(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A loss that is linear in the weights of a linear model: minus the score of the label."""
    return -model(x).gather(1, y[:, None])[:, 0]


def twins(examples: int, generator: torch.Generator, linear: bool) -> TwinCurves:
    """Pairs that share sample, start and order but for one image, which is another one for each pair."""
    data = digits()
    order = torch.randperm(len(data.train_x), generator=generator)
    rows = order[:examples].repeat(PAIRS, 1)
    twin = rows.clone()
    twin[torch.arange(PAIRS), torch.arange(PAIRS)] = order[examples : examples + PAIRS]
    seeds = torch.randint(2**31, (PAIRS,), generator=generator).tolist()
    starts = [torch.Generator().manual_seed(seed) for seed in seeds]
    models = [
        nn.Sequential(nn.Flatten(), nn.utils.skip_init(nn.Linear, 64, 10)) if linear else small_alexnet(start)
        for start in starts
    ]
    if linear:
        for model, start in zip(models, starts, strict=True):
            for p in model.parameters():
                nn.init.normal_(p, 0.0, 0.1, generator=start)
    curves, _, _ = train_twins(
        models,
        minus_score if linear else cross_entropy,
        data.train_x,
        data.train_y,
        rows=rows,
        twin_rows=twin,
        seeds=seeds,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE),
        batch_size=BATCH,
        epochs=EPOCHS,
        probe=data.test_x,
    )
    return curves


def exponent(curves: TwinCurves) -> PowerLaw:
    """Of the distance over epochs, with an interval over pairs."""
    return fit_power_law(curves.epochs, curves.distance)


def distances(network: TwinCurves, law: PowerLaw, control: TwinCurves) -> Curve:
    """Normalised distances over epochs, and the fit."""
    epochs = numbers(network.epochs)
    scale = network.normalised.mean(0)[-1] / network.distance.mean(0)[-1]
    fit = law.coefficient * network.epochs.double() ** law.exponent * scale
    low, high = network.normalised.min(0).values, network.normalised.max(0).values
    line = control.distance.mean(0)
    return Curve(
        "Distance of twin networks (stand-in: digits for ImageNet)",
        Axis("epochs", log=True),
        Axis("|w - w'| / sqrt(|w|^2 + |w'|^2)", log=True),
        (
            Line("mean of the pairs", epochs, numbers(network.normalised.mean(0)), numbers(low), numbers(high)),
            Line(f"fitted power of the unnormalised distance, {law.exponent:.2f}", epochs, numbers(fit)),
            Line("control: linear loss, scaled to the same start", epochs, numbers(line / line[0] * network.normalised.mean(0)[0])),
        ),
        caption="Both axes are logarithmic: a power law is a straight line, and linear growth has slope 1 as the control does. The band spans "
        "the pairs.",
    )  # fmt: skip


def layers(network: TwinCurves) -> Curve:
    """Normalised distance within each layer."""
    epochs = numbers(network.epochs)
    lines = tuple(
        Line(f"layer {name}", epochs, numbers(values.mean(0)))
        for name, values in network.normalised_layers.items()
    )
    return Curve(
        "Normalised distance by layer",
        Axis("epochs", log=True),
        Axis("|w - w'| / sqrt(|w|^2 + |w'|^2)", log=True),
        lines,
        caption="Mean of the pairs. Numbers count the network's modules from the input.",
    )


def functions(network: TwinCurves) -> Curve:
    """What the weights' drift does to predictions."""
    assert network.disagreement is not None
    shares = 100 * network.disagreement
    low, high = shares.min(0).values, shares.max(0).values
    return Curve(
        "Test images on which twins disagree",
        Axis("epochs"),
        Axis("share of test images", "%"),
        (
            Line(
                "mean of the pairs",
                numbers(network.epochs),
                numbers(shares.mean(0)),
                numbers(low),
                numbers(high),
            ),
        ),
        caption="Stability asks for this to be small; a small distance of the weights is sufficient and not necessary.",
    )


def table(law: PowerLaw, steady: PowerLaw) -> Table:
    """Exponents of all pairs."""
    rows = tuple(
        (f"pair {k + 1}", own, control)
        for k, (own, control) in enumerate(zip(law.exponents, steady.exponents, strict=True))
    )
    return Table("Exponent of growth by pair", ("pair", "network", "linear control"), rows)


CLAIM = Claim(
    id="twins_drift_sublinearly",
    theme=Theme.MEMORISATION,
    title="Twin networks drift apart sublinearly (stand-in for AlexNet on ImageNet)",
    statement=(
        "The weights of two small convolutional networks that are trained by SGD from one start in one order on digits, with one image "
        "exchanged, part as a power of time with an exponent below 1."
    ),
    source="Hardt, Recht & Singer 2016, section 5 and figure 4, there for AlexNet (Krizhevsky, Sutskever & Hinton 2012) on ImageNet",
    assumptions=(
        "Images of 8x8 digits and a network of 10,000 weights stand in for ImageNet and AlexNet.",
        "SGD at a constant rate without momentum, weight decay or dropout, as in the original.",
        "Start and order of examples are the same for both.",
    ),
    refuted_by="an upper 95% limit of the exponent, over five pairs, of 1 or more",
    run=run,
    counterexample=counterexample,
    rows=("M03",),
)
