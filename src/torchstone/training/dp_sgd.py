"""Differentially private SGD: clipped gradients of single examples, with noise; and what it costs in privacy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from torchstone.errors import SettingError
from torchstone.stateless import StatelessCall
from torchstone.training.evaluation import PerExample, check_generator
from torchstone.training.optimizers import made_optimizer, take_step

ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 384, 512, 1024)


@dataclass(frozen=True)
class PrivateRun:
    """How a private training went.

    Args:
        losses: Mean loss of each step's batch, (steps,); NaN for an empty batch.
        epsilon: The run is (epsilon, delta)-differentially private for the adding or removing of one example.
        delta: That delta.
        clipped: Share of presented examples whose gradient was clipped.
    """

    losses: Tensor
    epsilon: float
    delta: float
    clipped: float


def fit_privately(
    model: nn.Module,
    losses: PerExample,
    x: Tensor,
    y: Tensor,
    *,
    optimizer: Callable[[Any], torch.optim.Optimizer],
    batch_size: int,
    steps: int,
    clip: float,
    noise: float,
    generator: torch.Generator,
    delta: float | None = None,
) -> PrivateRun:
    r"""Train in place with :math:`\frac1B\bigl(\sum_{i} g_i \min(1, C/\|g_i\|) + \sigma C\,\xi\bigr)`, xi ~ N(0, I).

    Each example joins a batch independently with probability B/N (Poisson sampling), which the privacy bound needs; B is
    the expected size. The sum over examples is of whole-network gradients of single examples, by `torch.func`.

    Cost: the passes of `steps` batches, with a gradient an example in memory.

    Args:
        model: Trained in place, in eval mode: dropout and batch statistics would mix examples or hide noise.
        losses: Loss by example.
        x: Inputs (N, ...).
        y: Targets (N, ...).
        optimizer: Makes an optimiser of a list of parameters; it sees the private gradients alone.
        batch_size: Expected size B of a batch.
        steps: Updates.
        clip: C.
        noise: sigma; 0 only clips and promises nothing (epsilon is infinite).
        generator: Draws batches and noise.
        delta: By default 1 / (10 N).

    Returns:
        The course of the loss and the privacy spent.

    Raises:
        SettingError: A size, clip or noise out of range.

    Source: Abadi et al. 2016, algorithm 1; Mironov, Talwar & Zhang 2019 (privacy).
    """
    check_generator(generator)
    count = len(x)
    if not 1 <= batch_size <= count or steps < 1 or not clip > 0 or not 0 <= noise < math.inf:
        raise SettingError(
            f"fit_privately needs 1 <= batch_size <= {count}, steps >= 1, clip > 0 and noise >= 0",
            f"{batch_size}, {steps}, {clip}, {noise}",
            "Try clip=1.0 and noise=1.0.",
        )
    model.eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    moving = made_optimizer(optimizer, list(named.values()))
    gradients = _example_gradients(model, losses, named)
    rate, seen, cut, course = batch_size / count, 0, 0, []
    for _ in range(steps):
        rows = (torch.rand(count, generator=generator) < rate).nonzero()[:, 0]
        total = {name: torch.zeros_like(p) for name, p in named.items()}
        course.append(math.nan)
        if len(rows):
            each, values = gradients(x[rows], y[rows])
            norms = sum(g.flatten(1).square().sum(1) for g in each.values())
            assert isinstance(norms, Tensor)
            factors = (clip / norms.sqrt().clamp(min=1e-12)).clamp(max=1.0)
            total = {name: torch.einsum("n,n...->...", factors, g) for name, g in each.items()}
            seen, cut = seen + len(rows), cut + int((factors < 1).sum())
            course[-1] = float(values.double().mean())
        for name, p in named.items():
            draw = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = (total[name] + noise * clip * draw.to(p)) / batch_size
        take_step(moving)
        moving.zero_grad(set_to_none=True)
    spared = delta if delta is not None else 1 / (10 * count)
    spent = epsilon(noise, rate, steps, spared)
    return PrivateRun(torch.tensor(course, dtype=torch.float64), spent, spared, cut / max(1, seen))


def _example_gradients(model: nn.Module, losses: PerExample, named: dict[str, nn.Parameter]) -> Any:
    loss = StatelessCall(model, lambda network, x, y: losses(network, x[None], y[None])[0])
    mapped = vmap(grad_and_value(loss), in_dims=(None, 0, 0))
    return lambda some_x, some_y: mapped({name: p.detach() for name, p in named.items()}, some_x, some_y)


def epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    r"""The epsilon of (epsilon, delta)-privacy after `steps` Poisson-sampled Gaussian mechanisms.

    At integer order a the Renyi divergence of one step is at most

    .. math:: \frac{1}{a-1} \log \sum_{k=0}^{a} \binom{a}{k} (1-q)^{a-k} q^k e^{k(k-1)/(2\sigma^2)},

    it adds up over steps, and :math:`\epsilon = \min_a \bigl(\text{steps} \cdot D_a + \log\frac{a-1}{a} -
    \frac{\log\delta + \log a}{a-1}\bigr)`.

    Args:
        noise: sigma, in units of the clipping norm.
        rate: q, probability that an example is in a batch.
        steps: Steps.
        delta: In (0, 1).

    Returns:
        epsilon; infinite without noise.

    Raises:
        SettingError: Arguments out of range.

    Source: Mironov, Talwar & Zhang 2019, section 3.3; Canonne, Kamath & Steinke 2020, proposition 12 (conversion).
    """
    if not noise >= 0 or not 0 <= rate <= 1 or steps < 0 or not 0 < delta < 1:
        raise SettingError(
            "epsilon() needs noise >= 0, rate in [0, 1], steps >= 0 and delta in (0, 1)",
            f"{noise}, {rate}, {steps}, {delta}",
            "See fit_privately.",
        )
    if rate == 0 or steps == 0:
        return 0.0
    if noise == 0:
        return math.inf
    found = []
    for order in ORDERS:
        total = steps * _renyi(noise, rate, order)
        found.append(total + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1))
    return max(0.0, min(found))


def _renyi(noise: float, rate: float, order: int) -> float:
    """Renyi divergence of one step at an integer order."""
    if rate == 1:
        return order / (2 * noise**2)
    terms = []
    for k in range(order + 1):
        binomial = math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        terms.append(
            binomial + (order - k) * math.log1p(-rate) + k * math.log(rate) + k * (k - 1) / (2 * noise**2)
        )
    top = max(terms)
    return (top + math.log(sum(math.exp(term - top) for term in terms))) / (order - 1)
