r"""The tangent kernel of a random network tends to a fixed one with its width, and training follows it.

In the tangent parameterisation, z_{l+1} = sigma_w W phi(z_l) / sqrt(n) + sigma_b b with standard normal W and b,

    || Theta_n - Theta_inf ||_F / || Theta_inf ||_F  is of order  n^(-1/2),

and under gradient descent on (1/2) sum_i (f(x_i) - y_i)^2 outputs obey, up to terms that vanish with the width,

    f_t(x) = f_0(x) + Theta(x, X) Theta(X, X)^-1 (I - (I - eta Theta(X, X))^t) (y - f_0(X)).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Erratum, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, numbers, thin
from torchstone.kernels import dense_kernels
from torchstone.operators import ntk

WEIGHT, BIAS = 2.0, 0.1  # variances
INPUTS, TRAIN, TEST, DEPTH = 5, 10, 6, 2
STEPS = 150
TOLERANCE = 0.03  # of outputs in training, relative to what there is to learn; of order 1 / sqrt(width)


@dataclass(frozen=True)
class Sizes:
    """How much is done at a scale."""

    widths: tuple[int, ...]
    draws: int
    trained: int


SIZES = {
    Scale.QUICK: Sizes((32, 64, 128, 256), 16, 1024),
    Scale.FULL: Sizes((32, 64, 128, 256, 512, 1024, 2048), 32, 4096),
}


class Dense(nn.Module):
    """A random ReLU network with one output, in the tangent or the standard parameterisation."""

    def __init__(self, width: int, scaled: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.scaled = scaled
        sizes = (INPUTS, *[width] * DEPTH, 1)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise(sizes):
            w = torch.randn(after, before, generator=generator, dtype=torch.float64)
            b = torch.randn(after, generator=generator, dtype=torch.float64)
            self.weights.append(w if scaled else w * (WEIGHT / before) ** 0.5)
            self.biases.append(b if scaled else b * BIAS**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N,)."""
        for position, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.relu(x) if position else x
            w_scale, b_scale = ((WEIGHT / h.shape[1]) ** 0.5, BIAS**0.5) if self.scaled else (1.0, 1.0)
            x = w_scale * (h @ w.T) + b_scale * b
        return x[:, 0]


@dataclass(frozen=True)
class Trajectory:
    """Outputs on training and test inputs over the steps, (STEPS + 1, TRAIN + TEST), of a network and of its kernel."""

    network: Tensor
    kernel: Tensor
    scale: float

    @property
    def distance(self) -> float:
        """Largest distance in training, relative to the distance of the targets from the first outputs."""
        return float((self.network - self.kernel).norm(dim=1).max()) / self.scale


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Wide networks in the tangent parameterisation."""
    return experiment(scale, generator, SIZES[scale].trained, scaled=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """A narrow network in the standard parameterisation: its kernel moves while it is trained."""
    return experiment(scale, generator, 16, scaled=False)


def experiment(scale: Scale, generator: torch.Generator, trained: int, scaled: bool) -> Evidence:
    """Fit the rate at which kernels converge, and train one network beside its kernel."""
    sizes = SIZES[scale]
    x = torch.randn(TRAIN + TEST, INPUTS, generator=generator, dtype=torch.float64)
    x = nn.functional.normalize(x, dim=1) * INPUTS**0.5
    y = torch.sign(x[:TRAIN, 0] * x[:TRAIN, 1])
    limit = dense_kernels(x, depth=DEPTH, weight_variance=WEIGHT, bias_variance=BIAS).ntk
    distances = torch.tensor([
        [_distance(kernel_of(Dense(width, scaled, generator), x), limit) for width in sizes.widths]
        for _ in range(sizes.draws)
    ], dtype=torch.float64)  # fmt: skip
    slopes = fitted_slopes(sizes.widths, distances)
    model = Dense(trained, scaled, generator)
    outputs = model(x).detach()
    path = trajectory(model, x, y)
    return Evidence.all_of(
        Evidence.close(
            "exponent of the distance to the limit in the width",
            slopes.mean(),
            -0.5,
            absolute=0.1,
            standard_error=float(slopes.std()) / len(slopes) ** 0.5,
        ),
        Evidence.at_least("smallest eigenvalue of the limit over the largest", _smallest(limit), -1e-8),
        Evidence.at_most(
            f"largest distance of outputs from the kernel's prediction in training, width {trained}",
            path.distance,
            TOLERANCE,
            note="relative to the targets' distance from the first outputs; training and test inputs",
        ),
        Evidence.at_least(
            "distance of f(x) f(x') from the limit: no derivative, no kernel",
            _distance(outputs[:, None] * outputs, limit),
            0.3,
        ),
        figures=(distance_curve(sizes.widths, distances), training_curve(path)),
    )


def kernel_of(model: Dense, x: Tensor) -> Tensor:
    """The empirical kernel (N, N)."""
    return ntk(model, x, outputs="trace").values


def _distance(found: Tensor, limit: Tensor) -> float:
    return float((found - limit).norm() / limit.norm())


def _smallest(kernel: Tensor) -> float:
    values = torch.linalg.eigvalsh(kernel)
    return float(values[0] / values[-1])


def fitted_slopes(widths: tuple[int, ...], distances: Tensor) -> Tensor:
    """Least-squares slope of log distance over log width, of every draw."""
    logs = torch.tensor(widths, dtype=torch.float64).log()
    logs = logs - logs.mean()
    return distances.log() @ logs / logs.square().sum()


def trajectory(model: Dense, x: Tensor, y: Tensor) -> Trajectory:
    """Train by gradient descent at half of the largest stable rate of the kernel, and predict by the kernel."""
    theta = kernel_of(model, x)
    own = theta[:TRAIN, :TRAIN]
    rate = 1.0 / float(torch.linalg.eigvalsh(own)[-1])
    start = model(x).detach()
    error = y - start[:TRAIN]
    seen, predicted = [], []
    residual, moved = error.clone(), torch.zeros(TRAIN, dtype=torch.float64)
    parameters = list(model.parameters())
    for _ in range(STEPS + 1):
        outputs = model(x)
        seen.append(outputs.detach())
        predicted.append(start + theta[:, :TRAIN] @ moved)
        loss = (outputs[:TRAIN] - y).square().sum() / 2
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data.sub_(gradient, alpha=rate)
        moved = moved + rate * residual  # sum of eta (I - eta Theta)^s (y - f_0): no inverse needed
        residual = residual - rate * (own @ residual)
    return Trajectory(torch.stack(seen), torch.stack(predicted), float(error.norm()))


def distance_curve(widths: tuple[int, ...], distances: Tensor) -> Curve:
    """Distance over width, with the power -1/2."""
    means, spread = distances.log().mean(0), distances.log().std(0) / len(distances) ** 0.5
    x = numbers(widths)
    reference = [float(means[0].exp()) * (width / widths[0]) ** -0.5 for width in widths]
    lines = (
        Line(
            "random networks", x, numbers(means.exp()),
            numbers((means - 1.96 * spread).exp()), numbers((means + 1.96 * spread).exp()),
        ),
        Line("power -1/2", x, numbers(reference)),
    )  # fmt: skip
    return Curve(
        "Tangent kernels converge with the width",
        Axis("width of the hidden layers", log=True),
        Axis("relative Frobenius distance to the limit", log=True),
        lines,
        caption="Band: 95% of the geometric mean over networks. Parallel lines mean the power -1/2.",
    )


def training_curve(path: Trajectory) -> Curve:
    """One training and one test output."""
    kept = thin(STEPS + 1, 150)
    x = numbers(kept)
    lines = []
    for name, column in (("training input", 0), ("test input", TRAIN)):
        lines.append(Line(f"{name}, network", x, numbers(path.network[kept, column])))
        lines.append(Line(f"{name}, kernel", x, numbers(path.kernel[kept, column])))
    return Curve(
        "Training follows the kernel",
        Axis("step of gradient descent"),
        Axis("output"),
        tuple(lines),
        caption="Each pair of lines belongs to one input: the network, and what its kernel at initialisation foretells.",
    )


CLAIM = Claim(
    id="tangent_kernel_limit",
    theme=Theme.KERNELS,
    title="The tangent kernel and its limit",
    statement=(
        "The tangent kernel of a random network approaches a deterministic kernel like width^(-1/2), and gradient descent on "
        "a wide network follows kernel gradient descent, on training and on other inputs."
    ),
    source="Jacot, Gabriel & Hongler 2018, theorems 1 and 2; Lee et al. 2019, theorem 2.1",
    assumptions=(
        "Weights and biases are standard normal and scaled in the tangent parameterisation.",
        "The learning rate is below 2 over the kernel's largest eigenvalue, the loss is squared, and training is full-batch.",
    ),
    refuted_by=(
        "an exponent outside -0.5 +- 0.1, or outputs of a network of width 1024 that leave the prediction by more than "
        "3% of what there is to learn"
    ),
    run=run,
    counterexample=counterexample,
    rows=("K02",),
    errata=(
        Erratum(
            "E41",
            stated="The tangent kernel is <f(theta, x)/dtheta, f(theta, x')/dtheta>",
            correct=(
                "<df(theta, x)/dtheta, df(theta, x')/dtheta>, inner products of derivatives; products of outputs "
                "average to the NNGP kernel over random networks instead"
            ),
        ),
    ),
)
