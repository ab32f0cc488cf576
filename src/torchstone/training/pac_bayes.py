r"""Training a stochastic network for its own certificate: PAC-Bayes with backprop.

The weights become independent Gaussians, :math:`Q = N(\mu, \mathrm{diag}\,\sigma^2)`, the prior is :math:`P = N(\mu_0, \lambda I)`, and
:math:`\mu, \sigma` descend the quadratic PAC-Bayes bound itself,

.. math:: \Big(\sqrt{\hat R_{ce}(Q) + B} + \sqrt B\Big)^2, \qquad
    B = \frac{\mathrm{KL}(Q \| P) + \ln(2 \sqrt n / \delta)}{2n},

on minibatches, with one draw of the weights a step. The risk is a cross-entropy squeezed into [0, 1], because the error has no
gradient and a bound needs a bounded loss. :math:`\lambda` is at its best value given :math:`\mu, \sigma`,
:math:`(|\mu - \mu_0|^2 + |\sigma|^2)/d`, at every step; its derivative vanishes there. The certificate rounds it to a grid and pays
for the choice.

The prior centre may be any weights that do not depend on the examples of the bound: initial weights, or weights
trained on other examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from torchstone.bounds.risk_bound import check_at_least, check_count, check_delta
from torchstone.errors import NumericalError, SettingError
from torchstone.training.evaluation import PerExample
from torchstone.training.gaussian_weights import (
    GaussianWeights,
    StochasticCall,
    check_examples,
    perturbed,
    taken,
    trained_weights,
)
from torchstone.training.optimizers import OptimizerFactory, made_optimizer, take_step

FLOOR = 1e-4


def bounded(losses: PerExample, floor: float = FLOOR) -> PerExample:
    r"""A cross-entropy squeezed into [0, 1]: :math:`\ln((1-a) e^{-\ell} + a) / \ln a`, with probabilities kept above a.

    Args:
        losses: Cross-entropy :math:`\ell \ge 0` by example in nats.
        floor: a, in (0, 1).

    Raises:
        SettingError: A floor outside (0, 1).

    Source: Perez-Ortiz et al. 2021, section 5.2 (there by clipping, which has no gradient below the floor).
    """
    if not 0 < floor < 1:
        raise SettingError("floor must lie strictly between 0 and 1", str(floor), "Use for example 1e-4.")

    def squeezed(model: nn.Module, x: Any, y: Any) -> Tensor:
        return ((1 - floor) * torch.exp(-losses(model, x, y)) + floor).log() / math.log(floor)

    return squeezed


@dataclass(frozen=True)
class PacBayesFit:
    """A stochastic network and how its training went.

    Args:
        posterior: The law of its weights.
        centre: Centre of the prior.
        series: One value an epoch: "risk" (bounded cross-entropy before each update), "divergence" in nats for the best
            prior variance, "objective".
    """

    posterior: GaussianWeights
    centre: Mapping[str, Tensor]
    series: Mapping[str, tuple[float, ...]]


def fit_pac_bayes(
    model: nn.Module,
    losses: PerExample,
    x: Any,
    y: Any,
    *,
    batch_size: int,
    epochs: int,
    generator: torch.Generator,
    optimizer: OptimizerFactory | None = None,
    centre: Mapping[str, Tensor] | None = None,
    std: float = 0.03,
    delta: float = 0.05,
    price: float = 1.0,
    largest_variance: float = math.inf,
) -> PacBayesFit:
    r"""Train a Gaussian law over a network's weights to minimise its quadratic PAC-Bayes bound.

    The means start at the model's weights. The network runs in eval mode throughout, so that a draw of the weights is a
    function of its input and nothing else; buffers and frozen parameters stay as they are, and must not depend on
    these examples either.

    Cost: one forward and one backward pass an epoch, noise and two parameters for each weight a step. Memory: about
    eight copies of the weights, and one batch's graph.

    Args:
        model: The network; not changed.
        losses: Bounded loss by example, in [0, 1]: `bounded(evaluation.cross_entropy)`.
        x: Inputs (N, ...) of the examples that the bound is for, a tensor or a tree of them.
        y: Targets (N, ...), likewise.
        batch_size: Examples a step.
        epochs: Passes over the examples.
        generator: On the CPU; the only source of randomness.
        optimizer: Makes an optimiser of two parameter groups, means and log standard deviations; Adam with rates 1e-3 and
            5e-3 unless told.
        centre: Prior centre by parameter name; the model's weights unless told.
        std: Standard deviation to start from.
        delta: Probability of failure in the objective.
        price: Factor of the divergence in the objective; below 1 the network is fitted harder than its bound likes.
        largest_variance: What the prior's variance may not exceed, where the certificate's grid has an end.

    Returns:
        The law. Its bound is for `certify` to say.

    Raises:
        SettingError: No examples, no trainable weights, a centre that does not fit, or a number out of range.
        ObjectiveError: `losses` does not return one number per example.
        NumericalError: The objective is not finite; the epoch is named.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from torchstone.training.evaluation import cross_entropy
        >>> x = torch.linspace(-1, 1, 200)[:, None]
        >>> model = nn.utils.skip_init(nn.Linear, 1, 2)
        >>> for parameter in model.parameters():
        ...     _ = nn.init.zeros_(parameter)
        >>> run = fit_pac_bayes(
        ...     model, bounded(cross_entropy), x, (x[:, 0] > 0).long(), batch_size=50, epochs=60,
        ...     generator=torch.Generator().manual_seed(0),
        ...     optimizer=lambda groups: torch.optim.Adam(groups, lr=0.03),
        ... )
        >>> run.series["objective"][-1] < run.series["objective"][0]
        True

    Source: Dziugaite & Roy 2017, section 4; Perez-Ortiz, Rivasplata, Shawe-Taylor & Szepesvari 2021, section 5.
    """
    count = check_examples(x, y)
    check_count("batch_size", batch_size)
    check_count("epochs", epochs)
    check_at_least("price", price)
    check_delta(delta)
    if not largest_variance > 0:
        raise SettingError("largest_variance must be positive", str(largest_variance), "Leave it out.")
    start = trained_weights(model)
    centre = checked_centre(start, centre)
    law = GaussianWeights.around(start, std)
    means = {name: mean.clone().requires_grad_() for name, mean in law.means.items()}
    logs = {name: one.log().requires_grad_() for name, one in law.stds.items()}
    stepper = _optimizer(optimizer, list(means.values()), list(logs.values()))
    network = StochasticCall(model, losses)
    objective = _Objective(centre, law.coordinates, largest_variance, count, delta, price)
    series: dict[str, list[float]] = {"risk": [], "divergence": [], "objective": []}
    device = tree_leaves(x)[0].device
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator)
        sums = dict.fromkeys(series, 0.0)
        with network.seeded(device, generator):
            for rows in order.split(batch_size):
                weights = perturbed(means, {name: log.exp() for name, log in logs.items()}, generator)
                some_x, some_y = taken((x, y), rows)
                risk = network(weights, some_x, some_y, len(rows)).double().mean()
                seen = objective(risk, means, logs)
                stepper.zero_grad()
                seen["objective"].backward()
                take_step(stepper)
                sums = {name: total + len(rows) * float(seen[name].detach()) for name, total in sums.items()}
        for name, total in sums.items():
            series[name].append(total / count)
        _check_finite(series, epoch + 1)
    posterior = GaussianWeights(
        {name: mean.detach() for name, mean in means.items()},
        {name: log.detach().exp() for name, log in logs.items()},
    )
    return PacBayesFit(posterior, centre, {name: tuple(values) for name, values in series.items()})


@dataclass(frozen=True)
class _Objective:
    """The quadratic bound as a function of the risk and the law."""

    centre: Mapping[str, Tensor]
    coordinates: int
    largest: float
    count: int
    delta: float
    price: float

    def __call__(
        self, risk: Tensor, means: Mapping[str, Tensor], logs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        divergence = self.divergence(means, logs)
        room = math.log(2 * math.sqrt(self.count) / self.delta)
        half = (self.price * divergence.clamp(min=0) + room) / (2 * self.count)
        value = ((risk + half).sqrt() + half.sqrt()).square()
        return {"risk": risk, "divergence": divergence, "objective": value}

    def divergence(self, means: Mapping[str, Tensor], logs: Mapping[str, Tensor]) -> Tensor:
        """KL to the prior of the best variance, float64."""
        total_log = torch.stack([log.double().sum() for log in logs.values()]).sum()
        spread = torch.stack(
            [
                (mean - self.centre[name]).square().double().sum() + (2 * logs[name]).exp().double().sum()
                for name, mean in means.items()
            ]
        ).sum()
        variance = min(float(spread.detach()) / self.coordinates, self.largest)
        return 0.5 * (spread / variance + self.coordinates * (math.log(variance) - 1)) - total_log


def _optimizer(factory: OptimizerFactory | None, means: list[Tensor], logs: list[Tensor]) -> Optimizer:
    if factory is not None:
        return made_optimizer(factory, [{"params": means}, {"params": logs}])
    return torch.optim.Adam([{"params": means, "lr": 1e-3}, {"params": logs, "lr": 5e-3}])


def checked_centre(weights: Mapping[str, Tensor], centre: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The centre's entries for these weights, of their type and device; the weights themselves where it is None.

    Raises:
        SettingError: One is missing or of another shape.
    """
    if centre is None:
        return {name: weight.clone() for name, weight in weights.items()}
    for name, weight in weights.items():
        if name not in centre or centre[name].shape != weight.shape:
            got = tuple(centre[name].shape) if name in centre else "nothing"
            raise SettingError(
                f"The prior's centre must hold {name} of shape {tuple(weight.shape)}",
                str(got),
                "Pass the state of the same network before training.",
            )
    return {name: centre[name].detach().to(weight).clone() for name, weight in weights.items()}


def _check_finite(series: Mapping[str, list[float]], epoch: int) -> None:
    if not math.isfinite(series["objective"][-1]):
        raise NumericalError(
            f"The PAC-Bayes objective must stay finite; it did not in epoch {epoch}",
            str(series["objective"][-1]),
            "Lower the learning rate.",
        )
