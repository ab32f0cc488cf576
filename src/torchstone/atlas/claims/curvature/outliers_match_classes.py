r"""The Hessian of a K-class network has K - 1 or K outliers, and its largest eigenvalue is the gradient's local Lipschitz constant.

Where cross-entropy has come to rest, features of a class are alike and the Gauss-Newton matrix is nearly made of K vectors
(e_c - p_c) x h_c, one a class, and of K(K - 2) weaker ones: shifts between two wrong classes. For features that share a
common mean one combination of the K is weak too, which leaves K - 1. The gap test is that of
`torchstone.linalg.count_outliers`.

The gradient g is Lipschitz near theta with the constant sup |g(a) - g(b)| / |a - b|, over a and b near theta. The supremum is at
least lambda_max, as the quotient along its eigenvector tends to it, and a single quotient is at most max |lambda|. So a
quotient bounds lambda_max from below only, and only the supremum reaches it. That is why a small lambda_max is good: gradient
descent is stable for steps up to 2/lambda_max.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import grad, hessian

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Marker, Spectrum, numbers
from torchstone.linalg import OutlierCount, count_outliers, top_eigenpairs
from torchstone.linalg.outliers import EDGE_VALUES
from torchstone.objectives import Classification
from torchstone.operators.hessian import Hessian
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.stateless import StatelessCall
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit

CLASSES = (3, 5, 10)
DECAY = 0.03  # keeps the loss from vanishing: at rest its gradient balances that of the penalty
STEP = 1e-5  # distance of the difference quotients
DIRECTIONS = 50


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Networks at rest, and the supremum over directions."""
    return experiment(scale, generator, weight_decay=DECAY, along_top=True)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Without weight decay the loss vanishes and the outliers with it; and random directions miss the sharpest one."""
    return experiment(scale, generator, weight_decay=0.0, along_top=False)


def experiment(scale: Scale, generator: torch.Generator, weight_decay: float, along_top: bool) -> Evidence:
    """Count outliers for several numbers of classes, then compare lambda_max and difference quotients along a training."""
    epochs = 40 if scale is Scale.QUICK else 400
    checks, figures = [], []
    for classes in CLASSES:
        spectrum, residuals, found = outliers(classes, epochs, weight_decay, generator)
        checks.append(
            Evidence.close(
                f"outliers of the Hessian, {classes} classes",
                float(found.count),
                classes - 0.5,
                absolute=0.5,
                note="K - 1 or K",
            )
        )
        if classes == max(CLASSES):
            figures.append(spectrum_plot(spectrum, residuals, found, classes))
    largest, reached, others = quotients(6 if scale is Scale.QUICK else 60, generator)
    supremum = torch.maximum(reached, others) if along_top else others
    return Evidence.all_of(
        *checks,
        Evidence.at_most(
            "lambda_max less the largest difference quotient of the gradient, along training",
            (largest - supremum).max(),
            1e-6,
            "the Lipschitz constant is at least lambda_max",
        ),
        Evidence.at_most(
            "largest difference quotient less lambda_max, steps of 1e-5",
            (torch.maximum(reached, others) - largest).max(),
            1e-6,
            "and locally it is no larger",
        ),
        figures=(*figures, quotient_curve(largest, reached, others)),
    )


def outliers(
    classes: int, epochs: int, weight_decay: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, OutlierCount]:
    """Largest eigenvalues of the Hessian of a dense network trained on the first digits, and the gap test among 3K."""
    data = digits()
    kept = data.train_y < classes
    x, y = data.train_x[kept], data.train_y[kept]
    model = mlp([64, 64, 64, classes], generator=generator)
    batches = -(-len(x) // 128) * epochs
    fit(
        model,
        cross_entropy,
        x,
        y,
        optimizer=lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=weight_decay),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, batches),
        batch_size=128,
        epochs=epochs,
        generator=generator,
    )
    specimen = Specimen(model, Classification(), (x, y), batch_size=len(x))
    most = 3 * classes
    pairs = top_eigenpairs(Hessian(specimen), most + EDGE_VALUES, tolerance=1e-3, generator=generator)
    return pairs.values, pairs.residuals, count_outliers(pairs.values, most)


def quotients(points: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Along a training of a small smooth network: lambda_max, and the largest |g(a) - g(b)| / |a - b| around each point.

    Returns:
        lambda_max; the quotients along its eigenvector; the largest over random directions; each (points,).
    """
    slope, curvature, weights = smooth_problem(generator)
    found = []
    for _ in range(points):
        values, vectors = torch.linalg.eigh(curvature(weights))
        top = quotient(slope, weights, vectors[:, -1], STEP)
        drawn = torch.randn(DIRECTIONS, len(weights), generator=generator, dtype=weights.dtype)
        others = max(quotient(slope, weights, v / v.norm(), STEP) for v in drawn)
        found.append((float(values[-1]), top, others))
        for _ in range(20):
            weights = weights - 0.3 * slope(weights)
    largest, reached, others = torch.tensor(found, dtype=torch.float64).T
    return largest, reached, others


def quotient(slope: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor, step: float) -> float:
    """|g(a) - g(b)| / |a - b| for a and b at a distance of `step` on both sides."""
    ends = slope(at + step * direction) - slope(at - step * direction)
    return float(ends.norm()) / (2 * step)


def smooth_problem(
    generator: torch.Generator,
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]:
    """Gradient and Hessian of the cross-entropy of a small tanh network on digits 0 to 2, and its first weights."""
    data = digits()
    kept = (data.train_y < 3).nonzero()[:120, 0]
    # Blocks of four pixels: 16 inputs keep the dense Hessian small.
    x = nn.functional.avg_pool2d(data.train_x[kept], 2).double()
    model = mlp([16, 6, 3], nn.Tanh, generator=generator).double()
    call = StatelessCall(model)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return nn.functional.cross_entropy(call(named, x), data.train_y[kept])

    start = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    return grad(loss), functools.partial(_symmetric, hessian(loss)), start


def _symmetric(curvature: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    matrix = curvature(at)
    return (matrix + matrix.T) / 2


def spectrum_plot(values: Tensor, residuals: Tensor, found: OutlierCount, classes: int) -> Spectrum:
    """Largest eigenvalues and the edge that the test found."""
    return Spectrum(
        f"Largest Hessian eigenvalues of a network with {classes} classes",
        numbers(values),
        numbers(residuals),
        log=True,
        markers=(Marker("edge of the bulk", found.edge), Marker("K - 1", classes - 0.5, "x")),
        caption="The eigenvalues before the vertical line stand apart from those behind it, which follow each other closely.",
    )


def quotient_curve(largest: Tensor, reached: Tensor, others: Tensor) -> Curve:
    """lambda_max along the training, and difference quotients."""
    steps = numbers(range(0, 20 * len(largest), 20))
    return Curve(
        "The gradient's local Lipschitz constant along a training",
        Axis("step of gradient descent"),
        Axis("|g(a) - g(b)| / |a - b|", log=True),
        (
            Line("largest eigenvalue", steps, numbers(largest)),
            Line("quotient along its eigenvector", steps, numbers(reached)),
            Line(f"largest of {DIRECTIONS} random directions", steps, numbers(others)),
        ),
        caption="The first two lie on each other. A random direction sees a small part of the curvature only.",
    )


CLAIM = Claim(
    id="outliers_match_classes",
    theme=Theme.CURVATURE,
    title="As many Hessian outliers as classes",
    statement=(
        "At rest the Hessian of a network with K classes has K - 1 or K eigenvalues that a gap parts from the others, "
        "and its largest eigenvalue is the local Lipschitz constant of the gradient."
    ),
    source="Sagun, Evci, Guney, Dauphin & Bottou 2018, section 3; Papyan 2019, section 3; Ghorbani, Krishnan & Xiao 2019; "
    "gap test: Onatski 2010; Nesterov 2018, lemma 1.2.2",
    assumptions=(
        "Training has come to rest at a loss that has not vanished: here by weight decay. When cross-entropy on separable "
        "data goes to 0, a few examples carry what is left of the curvature, and the spectrum falls off like a power.",
        "Classes are equally frequent.",
        "For the second part the loss is twice differentiable.",
    ),
    refuted_by="a number of outliers other than K - 1 or K, or a largest eigenvalue above every difference quotient of the "
    "gradient by more than 1e-6",
    run=run,
    counterexample=counterexample,
    rows=("H13",),
)
