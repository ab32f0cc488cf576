"""Stochastic versions of an examined network with a PAC-Bayes certificate from its training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.batches import Batch
from torchstone.bounds.prior_grid import CentredGrid, PriorGrid
from torchstone.errors import NotApplicableError
from torchstone.specimen import Specimen
from torchstone.training.certificate import Certificate, certify
from torchstone.training.evaluation import PerExample
from torchstone.training.gaussian_weights import (
    GaussianWeights,
    StochasticCall,
    stochastic_losses,
    taken,
    trained_weights,
)
from torchstone.training.pac_bayes import bounded, fit_pac_bayes
from torchstone.workbench.example_tensors import ExampleTensors
from torchstone.workbench.initial_state import at_initialisation
from torchstone.workbench.retraining import train_many
from torchstone.workbench.workbench import Workbench

MINIBATCH = 64
WIDTHS = tuple(10 ** (-3 + k / 3) for k in range(8))
"""Standard deviations of the weights that are tried, 0.001 to 0.2."""
TRIALS = 20
TEST_DRAWS = 100
CHUNK = 1024


@dataclass(frozen=True)
class Certified:
    """A stochastic network, its certificate, and how it does on test examples.

    Args:
        kind: "around" the examined network, or with a prior from "data".
        name: In words.
        certificate: The bound and its parts.
        noise: Root mean square of the weights' standard deviations.
        test_stochastic: Test error of the stochastic network, from draws; None without test examples.
        test_mean: Test error of the network at the posterior's mean.
        widths: Noise widths that were tried, each with the error on the examples and the bound, both by estimate.
        notes: What the reader must know.
    """

    kind: str
    name: str
    certificate: Certificate
    noise: float
    test_stochastic: float | None
    test_mean: float | None
    widths: tuple[tuple[float, float, float], ...] = ()
    notes: tuple[str, ...] = ()


def certified_around(bench: Workbench, delta: float, draws: int, generator: torch.Generator) -> Certified:
    """A Gaussian law around the examined weights against a prior around the initial ones, at its best width.

    Cost: `draws` minibatches forward, and 20 for each of 8 widths.

    Raises:
        NotApplicableError: The recipe's initial state does not fit, or leaves running statistics to the data.
    """
    specimen = bench.specimen
    start, reason = at_initialisation(specimen)
    if start is None:
        raise NotApplicableError(reason[0])
    known = start.recipe.initial_state if start.recipe is not None else None
    _check_buffers(specimen.model, known or {})
    train = _Examples.of(specimen, "train", start.model)
    weights = trained_weights(specimen.model)
    centre = trained_weights(start.model)
    tried = []
    for width in WIDTHS:
        law = GaussianWeights.around(weights, width)
        given = {"delta": delta, "draws": TRIALS, "generator": generator, "minibatch": MINIBATCH}
        trial = certify(start.model, law, centre, train.errors, train.x, train.y, **given)
        tried.append((width, trial.risk, trial.value))
    width = _best_width(tried)
    posterior = GaussianWeights.around(weights, width)
    certificate = certify(
        start.model,
        posterior,
        centre,
        train.errors,
        train.x,
        train.y,
        delta=delta,
        draws=draws,
        generator=generator,
        minibatch=MINIBATCH,
        grid=PriorGrid(1.0),
    )
    _count(specimen, (draws + TRIALS * len(WIDTHS)) * MINIBATCH)
    stochastic, mean = _on_test(specimen, start.model, posterior, generator)
    name = "around the examined network, prior at the initial weights"
    return Certified("around", name, certificate, width, stochastic, mean, tuple(tried))


def certified_from_data(
    bench: Workbench,
    delta: float,
    draws: int,
    generator: torch.Generator,
    prior_share: float,
    epochs: int,
    noise: float,
) -> Certified:
    """A network trained by the recipe on a share of the examples centres the prior; the rest train and certify.

    Cost: that share of a training, `epochs` passes over the rest forward and backward, and `draws` minibatches.

    Raises:
        NotApplicableError: The recipe does not say how to train, its training diverged, or there are too few examples.
    """
    specimen, count = bench.specimen, bench.specimen.size("train")
    held = round(prior_share * count)
    if not 2 <= held <= count - 2:
        raise NotApplicableError(f"{count} training examples are too few to be split")
    order = torch.randperm(count, generator=generator)
    prior_rows, rows = order[:held].sort().values, order[held:].sort().values
    seed = int(torch.randint(2**31, (), generator=generator))
    siblings = train_many(specimen, [seed], rows=[prior_rows])
    if siblings.run is not None and siblings.run.diverged:
        raise NotApplicableError("training on a part of the examples diverged")
    model = siblings.member(0)
    train = _Examples.of(specimen, "train", model)
    x, y = taken((train.x, train.y), rows)
    batch_size = min(MINIBATCH, len(rows))
    fitted = fit_pac_bayes(
        model,
        bounded(train.losses),
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        generator=generator,
        std=noise,
        delta=delta,
    )
    certificate = certify(
        model,
        fitted.posterior,
        fitted.centre,
        train.errors,
        x,
        y,
        delta=delta,
        draws=draws,
        generator=generator,
        minibatch=MINIBATCH,
        grid=CentredGrid(noise**2),
    )
    _count(specimen, epochs * len(rows) + draws * MINIBATCH, backward=epochs * len(rows))
    stochastic, mean = _on_test(specimen, model, fitted.posterior, generator)
    name = f"prior trained on {held:,} examples, posterior on the other {len(rows):,}"
    wide = math.sqrt(fitted.posterior.spread(fitted.posterior.means) / fitted.posterior.coordinates)
    return Certified("data", name, certificate, wide, stochastic, mean)


@dataclass(frozen=True)
class _Examples:
    """A split as tensors, with errors and cross-entropies of a network that stands in for the specimen's."""

    x: Any
    y: Tensor
    errors: PerExample
    losses: PerExample

    @classmethod
    def of(cls, specimen: Specimen, split: str, model: nn.Module) -> _Examples:
        data, objective = ExampleTensors.of(specimen, split), specimen.objective.bind(model)

        def scored(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
            scores, labels = objective.scores(outputs), objective.labels(batch)
            if scores is None or labels is None:
                raise NotApplicableError("needs class scores and labels")
            return scores.float() if scores.dtype.itemsize < 4 else scores, labels

        def errors(outputs: Tensor, batch: Batch) -> Tensor:
            scores, labels = scored(outputs, batch)
            return (scores.argmax(1) != labels).float()

        def losses(outputs: Tensor, batch: Batch) -> Tensor:
            return F.cross_entropy(*scored(outputs, batch), reduction="none")

        return cls(data.x, data.y, data.mapped(objective, errors), data.mapped(objective, losses))


def _best_width(tried: list[tuple[float, float, float]]) -> float:
    """The width of the smallest bound; where all are vacuous, the widest that costs few errors."""
    best = min(tried, key=lambda one: one[2])
    if best[2] < 1 - 1e-9:
        return best[0]
    fewest = min(risk for _, risk, _ in tried)
    return max(width for width, risk, _ in tried if risk <= fewest + 0.02)


def _check_buffers(model: nn.Module, known: Mapping[str, Tensor]) -> None:
    """Running statistics come from the data, so that those of a prior must be the initial ones."""
    parameters = dict(model.named_parameters())
    for name, value in model.state_dict().items():
        if name not in parameters and name not in known and value.is_floating_point():
            raise NotApplicableError(
                f"the recipe's initial_state does not hold {name}, which may come from the data"
            )


def _on_test(
    specimen: Specimen, model: nn.Module, law: GaussianWeights, generator: torch.Generator
) -> tuple[float | None, float | None]:
    """Test errors with noise, and of the mean weights."""
    if not specimen.has("test"):
        return None, None
    test = _Examples.of(specimen, "test", model)
    size = specimen.size("test")
    noisy = stochastic_losses(
        model, law, test.errors, test.x, test.y, draws=TEST_DRAWS, minibatch=MINIBATCH, generator=generator
    )
    call, wrong = StochasticCall(model, test.errors), 0.0
    device = test.y.device
    with torch.no_grad(), call.seeded(device, generator):
        for rows in torch.arange(size).split(CHUNK):
            x, y = taken((test.x, test.y), rows)
            wrong += float(call(law.means, x, y, len(rows)).double().sum())
    _count(specimen, TEST_DRAWS * MINIBATCH + size)
    return float(noisy.mean()), wrong / size


def _count(specimen: Specimen, forward: int, backward: int = 0) -> None:
    specimen.passes.forward += forward
    specimen.passes.backward += backward
