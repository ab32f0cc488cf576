r"""With batch normalisation the largest Hessian eigenvalues stand out less: in training mode, where batches normalise themselves.

Without normalisation the features of all examples share large means, and a change of one weight moves all outputs together: a
few outlying eigenvalues, as many as classes (Papyan 2019). Subtracting the batch's mean takes that direction away from the loss.
Measured by the ratio

    lambda_1 / lambda_{K+1}

of the Hessian of the same loss function that is trained, batch statistics included. With running statistics frozen, as in
evaluation, the layer is only an affine map, means come back, and so do the outliers.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers
from torchstone.init.mean_field import gain
from torchstone.linalg import top_eigenpairs
from torchstone.objectives import Classification
from torchstone.operators.hessian import Hessian
from torchstone.specimen import Specimen
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit

CLASSES = 10
SEEDS = 5
EPOCHS, UPDATES = 8, 5  # passes over the data, and batches in each
RATE, MOMENTUM = 0.02, 0.9

Mode = Literal["eval", "as_is"]


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """With the batch's statistics, as the loss is trained."""
    return experiment(scale, generator, "as_is")


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """With running statistics, as in evaluation: nearly the ratio of the network without normalisation."""
    return experiment(scale, generator, "eval", seeds=2)


def experiment(scale: Scale, generator: torch.Generator, mode: Mode, seeds: int = SEEDS) -> Evidence:
    """Ratios of networks with and without batch normalisation, of the same weights and batches."""
    channels, examples = (6, 80) if scale is Scale.QUICK else (8, 500)
    spectra: dict[bool, list[Tensor]] = {False: [], True: []}
    losses: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(seeds):
        state = generator.get_state()
        for normalised in (False, True):
            generator.set_state(state)
            model, loss = trained(normalised, channels, examples, generator)
            spectra[normalised].append(spectrum(model, mode, examples, generator))
            losses[normalised].append(loss)
    ratios = {key: torch.stack([outlier_ratio(values) for values in found]) for key, found in spectra.items()}
    quotient = ratios[False] / ratios[True]
    return Evidence.all_of(
        Evidence.at_least(
            f"outlier ratio without over with batch normalisation, median of {seeds} seeds",
            quotient.median(),
            2.0,
            f"from {float(quotient.min()):.2f} to {float(quotient.max()):.2f}",
        ),
        Evidence.at_most(
            "seeds where batch normalisation does not lower the ratio", float((quotient <= 1).sum()), 0.0
        ),
        Evidence.at_least(
            f"largest eigenvalue without over with batch normalisation, median of {seeds} seeds",
            torch.stack([a[0] / b[0] for a, b in zip(spectra[False], spectra[True], strict=True)]).median(),
            2.0,
            "the outliers themselves shrink",
        ),
        figures=(spectra_curve(spectra), table(ratios, losses)),
    )


def trained(
    normalised: bool, channels: int, examples: int, generator: torch.Generator
) -> tuple[nn.Sequential, float]:
    """A small convolutional network after some passes over the first digits, and its last training loss."""
    model = network(normalised, channels, generator)
    x, y = images(examples)
    history = fit(
        model,
        cross_entropy,
        x,
        y,
        optimizer=lambda weights: torch.optim.SGD(weights, lr=RATE, momentum=MOMENTUM),
        batch_size=examples // UPDATES,
        epochs=EPOCHS,
        generator=generator,
    )
    return model, history["train_loss"][-1]


def images(examples: int) -> tuple[Tensor, Tensor]:
    """The first training digits."""
    data = digits()
    return data.train_x[:examples], data.train_y[:examples]


def network(normalised: bool, channels: int, generator: torch.Generator) -> nn.Sequential:
    """Three 3x3 convolutions, with or without batch normalisation before each ReLU, and 10 scores."""
    layers: list[nn.Module] = []
    for entering, leaving in ((1, channels), (channels, 2 * channels), (2 * channels, 2 * channels)):
        layers.append(nn.utils.skip_init(nn.Conv2d, entering, leaving, 3, padding=1))
        layers += [nn.BatchNorm2d(leaving)] if normalised else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)] if len(layers) < 6 + 2 * normalised else [nn.ReLU()]
    layers += [nn.Flatten(), nn.utils.skip_init(nn.Linear, 8 * channels, CLASSES)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                drawn = torch.randn(layer.weight.shape, generator=generator)
                size = gain(torch.relu) if isinstance(layer, nn.Conv2d) else 1.0
                layer.weight.copy_(drawn * size / layer.weight[0].numel() ** 0.5)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return model


def spectrum(model: nn.Module, mode: Mode, examples: int, generator: torch.Generator) -> Tensor:
    """The K + 1 largest eigenvalues of the Hessian of the mean loss, all examples in one batch."""
    model.train(mode == "as_is")
    specimen = Specimen(model, Classification(), images(examples), batch_size=examples, mode=mode)
    pairs = top_eigenpairs(
        Hessian(specimen), CLASSES + 1, tolerance=2e-3, max_products=400, generator=generator
    )
    model.eval()
    return pairs.values


def outlier_ratio(values: Tensor) -> Tensor:
    """lambda_1 / lambda_{K+1}."""
    return values[0] / values[CLASSES]


def spectra_curve(spectra: dict[bool, list[Tensor]]) -> Curve:
    """Median eigenvalues over the largest, by rank."""
    ranks = numbers(range(1, CLASSES + 2))
    lines = []
    for normalised, name in ((False, "without"), (True, "with batch normalisation")):
        found = torch.stack([values / values[0] for values in spectra[normalised]])
        lines.append(Line(name, ranks, numbers(found.median(0).values.clamp(min=1e-6))))
    return Curve(
        "Largest Hessian eigenvalues",
        Axis("rank"),
        Axis("eigenvalue over the largest, median of seeds", log=True),
        tuple(lines),
        (Marker("K + 1", CLASSES + 1, "x"),),
        caption="The steeper the line, the further the first eigenvalues stand out.",
    )


def table(ratios: dict[bool, Tensor], losses: dict[bool, list[float]]) -> Table:
    """Ratio and loss by seed."""
    rows = tuple(
        (i + 1, float(ratios[False][i]), float(ratios[True][i]), losses[False][i], losses[True][i])
        for i in range(len(losses[True]))
    )
    return Table(
        "Outlier ratios",
        ("seed", "ratio without", "ratio with", "loss without", "loss with"),
        rows,
        "lambda_1 / lambda_{K+1}; the loss is that of the last pass over the data.",
    )


CLAIM = Claim(
    id="batch_norm_removes_outliers",
    theme=Theme.SIGNAL,
    title="Batch normalisation shrinks Hessian outliers",
    statement=(
        "With batch normalisation the ratio lambda_1 / lambda_{K+1} of the Hessian of a small convolutional network is less than "
        "half of that without, in the median of 5 seeds, where the loss is that of training: batches normalise themselves."
    ),
    source="Ghorbani, Krishnan & Xiao 2019, section 4; Papyan 2019",
    assumptions=(
        "The Hessian is that of the training loss, with the batch's statistics, here those of all examples in one batch.",
        "Both networks have begun to learn, and are compared after as many updates: here 40. The ratios of both change on the "
        "way, and after 18 updates of a narrower network the quotient is between 1 and 2.",
    ),
    refuted_by="a median quotient of the ratios below 2, or a seed where batch normalisation does not lower the ratio",
    run=run,
    counterexample=counterexample,
    rows=("S11",),
)
