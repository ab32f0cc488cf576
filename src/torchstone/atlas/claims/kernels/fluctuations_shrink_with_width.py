r"""Past interpolation the gain of more parameters is that the fluctuations from one initialisation to another die out.

Networks f_N of N parameters in the tangent parameterisation, from which their initial function is subtracted, are trained by
gradient descent on the hinge loss max(0, 1 - y f) until it is 0. Around their mean over initialisations they spread by

    ||f_N - mean f_N|| ~ N^(-1/4),                because the tangent kernel fluctuates like width^(-1/2), and N ~ width^2,

which costs the test error about N^(-1/2); averaging 20 networks takes that away at once, and the mean hardly changes with N.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.training.fit_many import fit_many

INPUTS, DEPTH, RATE = 10, 3, 1.0
MODERATE = 64
MEMBERS = 20


@dataclass(frozen=True)
class Width:
    """Networks of one width after training.

    Attributes:
        parameters: N.
        outputs: Of every member on the test inputs, less those at initialisation, (K, M).
        errors: Test error of each, (K,).
        loss: Largest training loss.
    """

    parameters: int
    outputs: Tensor
    errors: Tensor
    loss: float

    def spread(self, kept: Tensor | None = None) -> float:
        """Root mean square over inputs of the standard deviation over members."""
        outputs = self.outputs if kept is None else self.outputs[kept]
        return float(outputs.var(0).mean().sqrt())


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Three hidden layers: N grows like the square of the width."""
    return experiment(scale, generator, depth=DEPTH)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """One hidden layer: N grows like the width, and the same fluctuations of the kernel are N^(-1/2)."""
    return experiment(scale, generator, depth=1)


def experiment(scale: Scale, generator: torch.Generator, depth: int) -> Evidence:
    """Train 20 networks of each width on two classes of digits."""
    # Narrower networks take more steps to loss 0; steps behind it change nothing, because the gradient is 0.
    quick = scale is Scale.QUICK
    widths, steps = ((32, 64, 128), 200) if quick else ((16, 32, 64, 128, 256, 512), 600)
    train_x, train_y, test_x, test_y = two_classes(60 if quick else 100)
    seeds = torch.randint(2**31, (MEMBERS,), generator=generator).tolist()
    found: dict[int, Width] = {}
    for width in widths:
        models = [Dense(width, depth, torch.Generator().manual_seed(seed)) for seed in seeds]
        found[width] = trained(models, train_x, train_y, test_x, test_y, steps)
    slope, error = exponent(list(found.values()))
    moderate, largest = found[MODERATE], found[widths[-1]]
    means = {
        width: float((one.outputs.mean(0) * test_y <= 0).double().mean()) for width, one in found.items()
    }
    gain = float(moderate.errors.mean()) - means[MODERATE]
    return Evidence.all_of(
        Evidence.at_most("largest training loss", max(one.loss for one in found.values()), 1e-3),
        Evidence.close(
            "exponent of the fluctuations in N",
            slope,
            -0.25,
            absolute=0.08,
            standard_error=error,
            note=f"widths {widths[0]} to {widths[-1]}",
        ),
        Evidence.at_most(
            f"test error of the mean of {MEMBERS} networks of width {MODERATE}",
            means[MODERATE],
            largest.errors.mean(),
            f"not above the mean error of single networks of width {widths[-1]}",
        ),
        Evidence.at_most(
            f"fall of the mean's error from width {MODERATE} to {widths[-1]} over what averaging gains at {MODERATE}",
            (means[MODERATE] - means[widths[-1]]) / gain if gain > 0 else float("inf"),
            0.5,
            "the mean predictor hardly improves",
        ),
        figures=(spreads(found, slope), errors_curve(found, means), table(found, means)),
    )


class Dense(nn.Module):
    """A ReLU network with one output and weights of variance 1, scaled in the forward pass by the width."""

    def __init__(self, width: int, depth: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (INPUTS, *[width] * depth, 1)
        draw = lambda after, before: nn.Parameter(torch.randn(after, before, generator=generator))
        self.weights = nn.ParameterList([draw(after, before) for before, after in pairwise(sizes)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(after)) for after in sizes[1:]])

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N,)."""
        for layer, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.relu(x) if layer else x
            x = ((2.0 if layer else 1.0) / h.shape[1]) ** 0.5 * (h @ w.T) + 0.1 * b
        return x[:, 0]


def two_classes(examples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Odd and even digits by the ten leading principal components of the training examples; labels -1 and 1."""
    data = digits()
    images = torch.cat([data.train_x, data.test_x]).flatten(1).double()
    labels = torch.cat([data.train_y, data.test_y])
    centred = images - images[:examples].mean(0)
    directions = torch.linalg.svd(centred[:examples], full_matrices=False).Vh[:INPUTS]
    x = centred @ directions.T
    x = (x * (INPUTS / x[:examples].square().sum(1).mean()).sqrt()).float()
    y = (2 * (labels % 2) - 1).float()
    return x[:examples], y[:examples], x[examples:], y[examples:]


def hinge(model: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """max(0, 1 - y (f(x) - offset)) for targets (N, 2) of y and the offset."""
    return torch.relu(1 - targets[:, 0] * (model(x) - targets[:, 1]))


def trained(models: list[Dense], x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, steps: int) -> Width:
    """Gradient descent on all examples until the hinge loss is 0."""
    with torch.no_grad():
        start, test_start = (torch.stack([model(z) for model in models]) for z in (x, test_x))
    targets = torch.stack([y.expand(len(models), -1), start], 2)
    run = fit_many(
        models,
        hinge,
        x,
        targets[0],
        targets=targets,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE),
        batch_size=len(x),
        steps=steps,
        generators=[torch.Generator().manual_seed(0) for _ in models],
    )
    outputs = (run.ensemble.outputs(test_x) - test_start).double()
    errors = (outputs * test_y <= 0).double().mean(1)
    parameters = sum(parameter.numel() for parameter in models[0].parameters())
    return Width(parameters, outputs, errors, float(run.series["train_loss"][:, -1].max()))


def exponent(found: list[Width]) -> tuple[float, float]:
    """Slope of log spread over log N, and its standard error by leaving out one member of every width at a time."""
    logs = torch.tensor([one.parameters for one in found], dtype=torch.float64).log()
    centred = logs - logs.mean()

    def slope(kept: Tensor | None) -> float:
        spread = torch.tensor([one.spread(kept) for one in found], dtype=torch.float64).log()
        return float(centred @ spread / centred.square().sum())

    members = len(found[0].outputs)
    left_out = [torch.arange(members) != k for k in range(members)]
    slopes = torch.tensor([slope(kept) for kept in left_out], dtype=torch.float64)
    error = ((members - 1) / members * (slopes - slopes.mean()).square().sum()).sqrt()
    return slope(None), float(error)


def spreads(found: dict[int, Width], slope: float) -> Curve:
    """Fluctuations over the number of parameters."""
    x = numbers(one.parameters for one in found.values())
    y = numbers(one.spread() for one in found.values())
    line = tuple(y[-1] * (n / x[-1]) ** -0.25 for n in x)
    return Curve(
        "Fluctuations from one initialisation to another",
        Axis("parameters N", log=True),
        Axis("spread of the outputs on test inputs", log=True),
        (Line(f"measured, slope {slope:.2f}", x, y), Line("slope -1/4", x, line)),
        caption="Root mean square over test inputs of the standard deviation over 20 networks.",
    )


def errors_curve(found: dict[int, Width], means: dict[int, float]) -> Curve:
    """Test errors of single networks and of their mean."""
    x = numbers(one.parameters for one in found.values())
    middle = torch.stack([one.errors.mean() for one in found.values()])
    half = torch.stack([2 * one.errors.std() / len(one.errors) ** 0.5 for one in found.values()])
    return Curve(
        "Test error past interpolation",
        Axis("parameters N", log=True),
        Axis("test error"),
        (
            Line("single networks", x, numbers(middle), numbers(middle - half), numbers(middle + half)),
            Line(f"mean of {MEMBERS} networks", x, tuple(means.values())),
        ),
        caption="More parameters bring single networks down to where the mean of 20 small ones already is.",
    )


def table(found: dict[int, Width], means: dict[int, float]) -> Table:
    """All widths."""
    rows = tuple(
        (width, one.parameters, one.spread(), float(one.errors.mean()), means[width], one.loss)
        for width, one in found.items()
    )
    columns = (
        "width",
        "parameters",
        "spread",
        "mean test error",
        f"test error of the mean of {MEMBERS}",
        "loss",
    )
    return Table("Networks by width", columns, rows)


CLAIM = Claim(
    id="fluctuations_shrink_with_width",
    theme=Theme.KERNELS,
    title="Fluctuations shrink with width",
    statement=(
        "Trained to zero loss, networks of N parameters spread around their mean over initialisations like N^(-1/4); the "
        "mean of 20 networks of moderate size is at least as good as a single much larger one."
    ),
    source="Geiger et al. 2020 (scaling description of generalization with number of parameters), sections 3 and 4",
    assumptions=(
        "Hidden layers feed hidden layers, so that N grows like the square of the width, and N is past interpolation.",
        "The tangent parameterisation, with the initial function subtracted, and gradient descent with small steps; the "
        "power holds for wide networks, and narrow ones spread more than it says.",
    ),
    refuted_by="an exponent outside -0.25 +- 0.08, or a mean of 20 networks that is worse than one of the largest width",
    run=run,
    counterexample=counterexample,
    rows=("K09",),
    errata=(
        Erratum(
            "E42",
            stated="Above zero training error more parameters reduce the variance but do not actually help",
            correct="The reduced variance is the help: the fluctuations of the outputs fall like N^(-1/4) and cost the test "
            "error about N^(-1/2); it is the mean over initialisations that hardly changes",
        ),
    ),
)
