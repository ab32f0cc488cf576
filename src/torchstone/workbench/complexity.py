"""A panel of complexity measures of one network, each as the logarithm of a number that grows with complexity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from torchstone.bounds.margin import margins
from torchstone.errors import NotApplicableError, TorchstoneError
from torchstone.operators.gradient_norms import gradient_norms
from torchstone.operators.sharpness import RiskAround, average_sharpness, ball_sharpness
from torchstone.specimen import Specimen
from torchstone.stateless import StatelessCall
from torchstone.workbench.chain import ChainLayer, chain

RISE = 0.1  # of the mean loss that noise of the width sigma may cost
RADIUS = 0.5  # of the ball of relative changes
NOISES = tuple(10 ** (-2 + 0.6 * k) for k in range(5))  # in units of the weights' size
PAIRS = 2

NAMES: dict[str, str] = {
    "number of parameters": "capacity",
    "squared norm of the weights": "norm",
    "product of squared Frobenius norms": "norm",
    "product of squared spectral norms": "norm",
    "squared path norm": "norm",
    "squared distance from initialisation": "distance",
    "distance over spectral norms": "distance",
    "1 / margin²": "margin",
    "Frobenius product / margin²": "margin",
    "spectral product / margin²": "margin",
    "spectral complexity / margin²": "margin",
    "path norm / margin²": "margin",
    "worst relative sharpness": "flatness",
    "1 / sigma², noise that costs 0.1": "flatness",
    "1 / sigma², relative noise": "flatness",
    "PAC-Bayes: distance² / 4 sigma²": "flatness",
    "squared gradient of an example": "stability",
    "training loss": "optimisation",
}
"""Every measure and its family."""


@dataclass(frozen=True)
class Panel:
    """Measures of one network.

    Args:
        logs: Natural logarithm by name; minus infinity for 0, infinity where it is unbounded (no positive margin).
        missing: Why others have no value, by name.
        sigma: Standard deviation of noise on the weights that costs a rise of 0.1; None if not measured.
    """

    logs: Mapping[str, float]
    missing: Mapping[str, str]
    sigma: float | None = None

    def value(self, name: str) -> float:
        """The measure C itself; infinite where it exceeds the range of float64."""
        log = self.logs[name]
        return float(f"{math.exp(log):.12g}") if log < 709.78 else math.inf  # a count stays whole


def complexity_panel(
    specimen: Specimen,
    initial: Mapping[str, Tensor] | None,
    generator: torch.Generator,
) -> Panel:
    r"""Every measure that the network allows, with the reason for each that it does not.

    Norms by layer need a chain of dense and convolution layers (`workbench.chain`); the path norm is one forward pass of ones
    through squared weights, for chains without batch normalisation; margins need class scores, at their lower
    decile; distances need the initial weights.

    Cost: singular values of each layer, one forward pass for the margins, per-example gradients, and for flatness about
    40 forward and 6 forward and backward passes.

    Args:
        specimen: The network and the examples to use.
        initial: Weights before training, by name.
        generator: Draws the noise.

    Source: Jiang et al. 2020, appendix C; Dziugaite et al. 2020, appendix C.
    """
    logs: dict[str, float] = {}
    missing: dict[str, str] = {}
    weights = {name: p.detach().double() for name, p in specimen.trainable.items()}
    logs["number of parameters"] = _log(sum(p.numel() for p in weights.values()))
    logs["squared norm of the weights"] = _log(_squared(weights))
    distance = _distance(weights, initial)
    if distance is None:
        missing["squared distance from initialisation"] = "needs Recipe(initial_state=...) that fits"
    else:
        logs["squared distance from initialisation"] = _log(distance)
    _norms_of_layers(specimen, initial, logs, missing)
    _margins(specimen, logs, missing)
    sigma = _flatness(specimen, distance, logs, missing, generator)
    _stability(specimen, logs, missing)
    ordered = {name: logs[name] for name in NAMES if name in logs}
    return Panel(ordered, {name: missing[name] for name in NAMES if name in missing}, sigma)


def _norms_of_layers(
    specimen: Specimen, initial: Mapping[str, Tensor] | None, logs: dict[str, float], missing: dict[str, str]
) -> None:
    """Products of norms, the path norm and distances by layer."""
    names = [
        "product of squared Frobenius norms",
        "product of squared spectral norms",
        "squared path norm",
        "distance over spectral norms",
    ]
    try:
        layers = chain(specimen)
    except NotApplicableError as answer:
        missing.update(dict.fromkeys(names, answer.reason))
        return
    squares = [_log(float(one.layer.weight.double().square().sum())) for one in layers]
    norms = [2 * _log(one.layer.norm_bound()) for one in layers]
    logs[names[0]], logs[names[1]] = math.fsum(squares), math.fsum(norms)
    if any(isinstance(m, nn.modules.batchnorm._NormBase) for m in specimen.model.modules()):
        missing[names[2]] = "batch normalisation has no path norm"
    elif any(map(parametrize.is_parametrized, specimen.model.modules())):
        missing[names[2]] = "a parametrised weight has no squared weights of its own"
    else:
        logs[names[2]] = _log(squared_path_norm(specimen))
    try:
        start = chain(specimen, dict(initial)) if initial else None
    except NotApplicableError as answer:
        missing[names[3]] = answer.reason
        return
    if start is None:
        missing[names[3]] = "needs Recipe(initial_state=...)"
    else:
        logs[names[3]] = _log(math.fsum(_relative_moves(layers, start, norms)))


def _relative_moves(layers: list[ChainLayer], start: list[ChainLayer], norms: list[float]) -> list[float]:
    """Squared Frobenius distances over squared spectral norms."""
    moves = [
        float((one.layer.weight.double() - other.layer.weight.double()).square().sum())
        for one, other in zip(layers, start, strict=True)
    ]
    return [
        move / math.exp(norm) if norm > -math.inf else 0.0 for move, norm in zip(moves, norms, strict=True)
    ]


def squared_path_norm(specimen: Specimen) -> float:
    r"""Sum over all paths of the product of squared weights: outputs for an input of ones under squared weights.

    Exact for dense and convolution layers with ReLU; maximum pooling keeps the largest path of each window.

    Cost: one forward pass of one example.

    Args:
        specimen: A chain of dense and convolution layers.

    Source: Neyshabur, Tomioka & Srebro 2015; computed as in Jiang et al. 2020, appendix C.4.
    """
    batch = specimen.objective.take(next(specimen.batches("train")), torch.tensor([0]))
    inputs = specimen.objective.inputs(batch)
    if inputs is None:
        raise NotApplicableError("needs continuous inputs")
    ones = specimen.objective.with_inputs(batch, torch.ones_like(inputs, dtype=torch.float64))
    squared = {name: p.detach().double().square() for name, p in specimen.model.named_parameters()}
    with specimen.measuring(), torch.no_grad():
        outputs = StatelessCall(specimen.model, specimen.objective.outputs)(squared, ones)
    return float(outputs.double().sum())


def _margins(specimen: Specimen, logs: dict[str, float], missing: dict[str, str]) -> None:
    """Measures over the lower decile of the margin."""
    tops = {
        "1 / margin²": 0.0,
        "Frobenius product / margin²": logs.get("product of squared Frobenius norms"),
        "spectral product / margin²": logs.get("product of squared spectral norms"),
        "spectral complexity / margin²": _sum(
            logs.get("product of squared spectral norms"), logs.get("distance over spectral norms")
        ),
        "path norm / margin²": logs.get("squared path norm"),
    }
    decile = _lower_decile(specimen)
    for name, top in tops.items():
        if isinstance(decile, str):
            missing[name] = decile
        elif top is None:
            missing[name] = "its norm has no value"
        else:
            logs[name] = top - 2 * math.log(decile) if decile > 0 else math.inf


def _lower_decile(specimen: Specimen) -> float | str:
    """The lower decile of the training margins, or why there is none."""
    objective = specimen.objective

    @torch.no_grad()
    def of_batch(batch: object) -> Tensor:
        scores = objective.scores(specimen.forward(batch))
        labels = objective.labels(batch)
        if scores is None or labels is None or bool((labels < 0).any()) or scores.shape[1] < 2:
            raise NotApplicableError("needs a class label and scores for every example")
        return margins(scores, labels)

    try:
        return float(specimen.map_over(of_batch).quantile(0.1))
    except (NotApplicableError, TorchstoneError) as error:
        return error.reason if isinstance(error, NotApplicableError) else str(error)


def _flatness(
    specimen: Specimen,
    distance: float | None,
    logs: dict[str, float],
    missing: dict[str, str],
    generator: torch.Generator,
) -> float | None:
    """How far the loss rises, and the widest noise that it bears."""
    around = RiskAround(specimen)
    size = float(around.here.double().square().mean().sqrt())
    names = [name for name, family in NAMES.items() if family == "flatness"]
    if not (math.isfinite(around.risk) and size > 0):
        missing.update(dict.fromkeys(names, "needs a finite loss and weights that are not all 0"))
        return None
    worst = ball_sharpness(around, RADIUS, adaptive=True, evaluations=6, restarts=0, generator=generator)
    logs[names[0]] = _log(max(0.0, worst.rise))
    widths = []
    for relative, unit in ((False, size), (True, 1.0)):
        noises = [unit * noise for noise in NOISES]
        found = average_sharpness(around, noises, relative=relative, pairs=PAIRS, generator=generator)
        widths.append(tolerated_noise([(one.noise, one.rise) for one in found], RISE))
    logs[names[1]], logs[names[2]] = (-2 * math.log(width) for width in widths)
    if distance is None:
        missing[names[3]] = "needs Recipe(initial_state=...)"
    else:
        logs[names[3]] = _log(distance / (4 * widths[0] ** 2))
    return widths[0]


def tolerated_noise(rises: list[tuple[float, float]], limit: float) -> float:
    """The width of noise whose rise is the limit, by log-log interpolation; quadratic below the first width.

    Args:
        rises: Increasing widths, each with its rise; NaN and infinity are above every limit.
        limit: Positive.

    Returns:
        The width; the largest one where none costs as much.
    """
    before: tuple[float, float] | None = None
    for width, rise in rises:
        if not rise < limit:
            if before is None:
                return width * math.sqrt(limit / rise) if math.isfinite(rise) else width
            if not (before[1] > 0 and math.isfinite(rise)):
                return math.sqrt(before[0] * width)
            share = math.log(limit / before[1]) / math.log(rise / before[1])
            return before[0] * (width / before[0]) ** share
        before = width, rise
    return rises[-1][0]


def _stability(specimen: Specimen, logs: dict[str, float], missing: dict[str, str]) -> None:
    """What one example can move: its gradient; and the loss that training left."""
    logs["training loss"] = _log(max(0.0, specimen.risk()))
    if specimen.coupled:
        missing["squared gradient of an example"] = "needs examples that do not influence each other"
        return
    try:
        logs["squared gradient of an example"] = _log(gradient_norms(specimen).second_moment)
    except (NotApplicableError, TorchstoneError) as error:
        reason = error.reason if isinstance(error, NotApplicableError) else str(error)
        missing["squared gradient of an example"] = reason


def _distance(weights: Mapping[str, Tensor], initial: Mapping[str, Tensor] | None) -> float | None:
    if not initial or any(n not in initial or initial[n].shape != w.shape for n, w in weights.items()):
        return None
    return math.fsum(float((w - initial[n].to(w)).square().sum()) for n, w in weights.items())


def _squared(weights: Mapping[str, Tensor]) -> float:
    return math.fsum(float(w.square().sum()) for w in weights.values())


def _log(value: float) -> float:
    if math.isnan(value):
        return math.inf  # beyond the range of numbers
    return math.log(value) if value > 0 else -math.inf


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second
