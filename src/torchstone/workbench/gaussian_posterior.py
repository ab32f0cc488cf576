r"""The PAC-Bayes bound of a trained network with Gaussian noise on its weights.

The posterior is :math:`N(w, \sigma^2 I)` around the trained weights, the prior :math:`N(w_0, \lambda I)` around the initial ones where they
are known and zero else; :math:`\lambda` comes from a grid that the bound pays for (`CentredGrid`), and :math:`\sigma` may depend on the data.
No training: what a network certifies as it is. The bound is of the *noisy* network, drawn anew for each example.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.batches import Batch
from torchstone.bounds.binary_kl import stochastic_risk_upper
from torchstone.bounds.pac_bayes import mcallester, pac_bayes_kl
from torchstone.bounds.prior_grid import CentredGrid
from torchstone.errors import NotApplicableError
from torchstone.operators.finite_differences import shifted
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen
from torchstone.workbench.workbench import Workbench

_GRID = CentredGrid(0.01, precision=20)
_SHARES = tuple(2.0**k for k in range(-2, 5))
_SCOUTS = 1
_DRAWS_SHARE = 0.2


@dataclass(frozen=True)
class PosteriorBound:
    """A bound on the error of a network with noise on its weights.

    Args:
        value: The kl form where it is below 1, McAllester's else, which goes on beyond 1.
        noise: Standard deviation of the noise.
        risk: Mean training error of the noisy networks that were drawn.
        divergence: Of the posterior from the prior, nats.
        centre: Where the prior is centred, in words.
    """

    value: float
    noise: float
    risk: float
    divergence: float
    centre: str


def gaussian_posterior_bound(bench: Workbench, delta: float, draws: int) -> PosteriorBound:
    r"""The best bound over seven strengths of noise, from 1/4 to 16 times the weights' typical distance from the prior's centre.

    The strength is chosen by one network each; the bound is then evaluated with fresh draws. A fifth of `delta` is for the draws.

    Cost: 7 + `draws` forward passes.

    Args:
        bench: With class labels and scores.
        delta: Probability of failure.
        draws: Networks drawn for the final estimate.

    Raises:
        NotApplicableError: Nothing to train, or running statistics of the data (they are no Gaussian weights).
    """
    specimen = bench.specimen
    if not specimen.trainable:
        raise NotApplicableError("nothing to train")
    if any(buffer.is_floating_point() for buffer in specimen.model.buffers()):
        raise NotApplicableError("running statistics depend on the examples, and a prior must not")
    space = ParameterSpace.of(specimen)
    weights = space.values().double()
    centre, words = _centre(specimen, space)
    moved = float((weights - centre).square().sum())
    typical = (moved / len(weights)) ** 0.5 or 1e-3
    generator = bench.generator("gaussian_posterior")
    posterior = _Posterior(specimen, space, moved, delta, generator)
    scouted = {
        noise: posterior.bound(noise, posterior.error(noise, _SCOUTS))
        for noise in (share * typical for share in _SHARES)
    }
    noise = min(scouted, key=lambda one: scouted[one])
    risk = posterior.error(noise, draws)
    limit = stochastic_risk_upper(risk, draws, _DRAWS_SHARE * delta)
    return PosteriorBound(posterior.bound(noise, limit), noise, risk, posterior.divergence(noise)[0], words)


def _centre(specimen: Specimen, space: ParameterSpace) -> tuple[Tensor | float, str]:
    recipe = specimen.recipe
    state = {} if recipe is None else dict(recipe.initial_state or {})
    names = specimen.trainable
    if all(name in state and state[name].shape == parameter.shape for name, parameter in names.items()):
        parts = [state[name].detach().to(space.device) for name in names]
        return space.flatten(parts).double(), "the initial weights"
    return 0.0, "zero"


@dataclass(frozen=True)
class _Posterior:
    specimen: Specimen
    space: ParameterSpace
    moved: float
    delta: float
    generator: torch.Generator

    def divergence(self, noise: float) -> tuple[float, int]:
        """From the best prior of the grid, and its index."""
        d = self.space.size
        index = _GRID.best(self.moved + d * noise**2, d)
        variance = _GRID.variance(index)
        log_ratio = 2 * math.log(noise) - math.log(variance)
        return 0.5 * (d * (math.expm1(log_ratio) - log_ratio) + self.moved / variance), index

    def bound(self, noise: float, risk: float) -> float:
        """On the noisy network's error, from its training error or an upper limit of it."""
        divergence, index = self.divergence(noise)
        n, left = self.specimen.size("train"), _GRID.delta(index, (1 - _DRAWS_SHARE) * self.delta)
        exact = pac_bayes_kl(risk, divergence, n, left).value
        return exact if exact < 1 - 1e-9 else mcallester(risk, divergence, n, left).value

    @torch.no_grad()
    def error(self, noise: float, draws: int) -> float:
        """Mean training error of networks drawn from the posterior."""
        objective = self.specimen.objective

        def wrong(batch: Batch) -> Tensor:
            scores, labels = objective.scores(self.specimen.forward(batch)), objective.labels(batch)
            assert scores is not None
            assert labels is not None
            return (scores.argmax(1) != labels).double().sum()

        total = 0.0
        for _ in range(draws):
            # Drawn in one precision on the CPU, so that all devices and types get the same numbers.
            change = noise * torch.randn(self.space.size, generator=self.generator)
            change = change.to(self.space.device, self.space.dtype)
            with self.specimen.measuring(), shifted(self.space, change):
                total += float(self.specimen.mean_over(wrong, "train"))
        return min(total / draws, 1.0)
