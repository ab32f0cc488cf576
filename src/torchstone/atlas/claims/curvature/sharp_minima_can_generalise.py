r"""Rescaling layers makes a minimum as sharp as one likes without changing the function.

relu(a z) = a relu(z) for a > 0, so theta = (theta_1, theta_2) and T_a theta = (a theta_1, theta_2 / a), with theta_1 the weights
and biases of the first layer and theta_2 the weights of the second, compute the same function and have the same loss. With
J = diag(a I, I / a) the Hessian at T_a theta is J^-1 H J^-1: its blocks are H_11 / a^2, H_12 and a^2 H_22, and its largest
eigenvalue is at least lambda_max(H_11) / a^2, without bound as a -> 0. So do all measures that are taken in a ball of
weights; a ball of relative changes |theta| u is carried along by T_a, and so is what happens in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.details import Axis, Curve, Line, Table, numbers
from torchstone.objectives import Classification
from torchstone.operators import Hessian
from torchstone.operators.sharpness import RiskAround, ball_sharpness
from torchstone.specimen import Specimen

ALPHAS = (0.01, 0.1, 0.3, 3.0, 10.0)
RADIUS, RELATIVE_RADIUS = 0.05, 0.1
IN, WIDTH, OUT = 4, 6, 3


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Invariance is claimed of the adaptive sharpness."""
    return experiment(scale, generator, adaptive=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Invariance expected of the sharpness in a plain ball of weights."""
    return experiment(scale, generator, adaptive=False)


@dataclass(frozen=True)
class Measured:
    """What is measured at one T_a theta."""

    outputs: Tensor
    hessian: Tensor
    sharpness: float
    plain: float

    @property
    def top(self) -> float:
        """The largest eigenvalue."""
        return float(torch.linalg.eigvalsh(self.hessian)[-1])


def experiment(scale: Scale, generator: torch.Generator, adaptive: bool) -> Evidence:
    """A trained network, rescaled by each a."""
    examples = 60 if scale is Scale.QUICK else 2000
    x, y, weights = trained(examples, generator)
    start = int(torch.randint(2**31, (1,), generator=generator))
    base = measured(x, y, weights, 1.0, adaptive, start)
    moved = {alpha: measured(x, y, weights, alpha, adaptive, start) for alpha in ALPHAS}
    first, second = blocks()
    scaled = lambda alpha, part, power: relative(
        moved[alpha].hessian[part, part], alpha**power * base.hessian[part, part]
    )
    block_top = float(torch.linalg.eigvalsh(base.hessian[first, first])[-1])
    worst = lambda values: max(float(value) for value in values)
    return Evidence.all_of(
        Evidence.at_most(
            "largest change of an output",
            worst((one.outputs - base.outputs).abs().max() for one in moved.values()),
            1e-10,
        ),
        Evidence.at_most(
            "first block of the Hessian against H_11 / a^2: relative distance",
            worst(scaled(alpha, first, -2) for alpha in ALPHAS),
            1e-8,
        ),
        Evidence.at_most(
            "second block of the Hessian against a^2 H_22: relative distance",
            worst(scaled(alpha, second, 2) for alpha in ALPHAS),
            1e-8,
        ),
        Evidence.at_least(
            f"largest eigenvalue at a = {ALPHAS[0]} over that of H_11 / a^2",
            moved[ALPHAS[0]].top * ALPHAS[0] ** 2 / block_top,
            1 - 1e-8,
            "so it grows without bound",
        ),
        Evidence.at_least(
            f"plain sharpness at a = {ALPHAS[0]} over that at a = 1", moved[ALPHAS[0]].plain / base.plain, 10
        ),
        Evidence.at_most(
            "largest relative change of the sharpness that should stay",
            worst(abs(one.sharpness / base.sharpness - 1) for one in moved.values()),
            1e-6,
        ),
        figures=(curve({1.0: base} | moved), table({1.0: base} | moved)),
    )


def blocks() -> tuple[slice, slice]:
    """Where the first layer and the second layer's weights lie in the vector of parameters."""
    split = WIDTH * IN + WIDTH
    return slice(0, split), slice(split, split + OUT * WIDTH)


def network(weights: Tensor, alpha: float) -> nn.Sequential:
    """T_a of the network with the given vector of parameters."""
    first = nn.Linear(IN, WIDTH, device="meta", dtype=torch.float64)
    last = nn.Linear(WIDTH, OUT, bias=False, device="meta", dtype=torch.float64)
    model = nn.Sequential(first, nn.ReLU(), last).to_empty(device="cpu")
    one, two = blocks()
    vector = weights.clone()
    vector[one] *= alpha
    vector[two] /= alpha
    nn.utils.vector_to_parameters(vector, model.parameters())
    return model


def trained(examples: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels with some noise, and the parameters in which descent with weight decay ends."""
    x = torch.randn(examples, IN, generator=generator, dtype=torch.float64)
    noise = torch.randn(examples, OUT, generator=generator, dtype=torch.float64)
    y = (x[:, :OUT] + noise).argmax(1)
    _, last = blocks()
    weights = torch.randn(last.stop, generator=generator, dtype=torch.float64)
    model = network(weights, 1.0)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        penalty = torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()
        loss = nn.functional.cross_entropy(model(x), y) + 0.005 * penalty
        loss.backward()
        return loss.detach()

    optimiser.step(closure)  # type: ignore[arg-type]
    return x, y, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def measured(x: Tensor, y: Tensor, weights: Tensor, alpha: float, adaptive: bool, start: int) -> Measured:
    """Outputs, Hessian and sharpness at T_a theta; every search starts from the same random point."""
    model = network(weights, alpha)
    specimen = Specimen(model, Classification(), (x, y), batch_size=len(x))
    around = RiskAround(specimen)
    search = lambda radius, adaptive: (
        ball_sharpness(
            around,
            radius,
            adaptive=adaptive,
            evaluations=20,
            restarts=1,
            generator=torch.Generator().manual_seed(start),
        ).rise
    )
    plain = search(RADIUS, False)
    hessian = Hessian(specimen)
    dense = hessian.matmat(torch.eye(hessian.shape[0], dtype=torch.float64))
    with torch.no_grad():
        outputs = model(x)
    return Measured(
        outputs, (dense + dense.T) / 2, search(RELATIVE_RADIUS, True) if adaptive else plain, plain
    )


def relative(found: Tensor, expected: Tensor) -> Tensor:
    """Distance over the length of what is expected."""
    return (found - expected).norm() / expected.norm()


def curve(found: dict[float, Measured]) -> Curve:
    """Three measures of sharpness over a."""
    alphas = sorted(found)
    line = lambda name, pick: Line(name, numbers(alphas), numbers(pick(found[alpha]) for alpha in alphas))
    return Curve(
        "Sharpness of one function at differently scaled weights",
        Axis("a", log=True),
        Axis("eigenvalue, or rise of the loss", log=True),
        (
            line("largest eigenvalue of the Hessian", lambda one: one.top),
            line(f"largest rise at distance {RADIUS:g}", lambda one: one.plain),
            line("the sharpness that is claimed to stay", lambda one: one.sharpness),
        ),
        caption="The network computes the same function everywhere on the x axis. A measure that is not level there tells "
        "nothing about the function by itself.",
    )


def table(found: dict[float, Measured]) -> Table:
    """The numbers behind the curve."""
    rows = tuple(
        (alpha, one.top, float(one.hessian.trace()), one.plain, one.sharpness)
        for alpha, one in sorted(found.items())
    )
    columns = ("a", "largest eigenvalue", "trace of the Hessian", "plain sharpness", "sharpness that stays")
    return Table("One function, many sharpnesses", columns, rows)


CLAIM = Claim(
    id="sharp_minima_can_generalise",
    theme=Theme.CURVATURE,
    title="Sharp minima can generalise",
    statement=(
        "Multiplying a ReLU layer by a and dividing the next by a changes no output, while the Hessian's blocks are multiplied "
        "by a^-2 and a^2 and its largest eigenvalue grows without bound; adaptive sharpness stays as it is."
    ),
    source="Dinh, Pascanu, Bengio & Bengio 2017, sections 3 and 4; Kwon, Kim, Park & Choi 2021, section 3 (adaptive)",
    assumptions=(
        "The activation is positively homogeneous, as ReLU is, and a is positive.",
        "The biases of the first layer are rescaled with its weights.",
    ),
    refuted_by="an output that changes by 1e-10, blocks that are off by 1e-8, or adaptive sharpness that moves by 1e-6",
    run=run,
    counterexample=counterexample,
    rows=("H08",),
)
