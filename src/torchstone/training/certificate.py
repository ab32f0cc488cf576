"""The certificate of a stochastic network: from its law and the examples of the bound to one number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.bounds.binary_kl import stochastic_risk_upper
from torchstone.bounds.pac_bayes import PacBayesBound, pac_bayes_kl
from torchstone.bounds.prior_grid import PriorGrid, VarianceGrid
from torchstone.bounds.risk_bound import check_delta
from torchstone.errors import SettingError
from torchstone.training.evaluation import PerExample
from torchstone.training.gaussian_weights import GaussianWeights, check_examples, stochastic_losses
from torchstone.training.pac_bayes import checked_centre


@dataclass(frozen=True)
class Certificate:
    """An error rate that a stochastic network stays below on new data with probability at least 1 - delta.

    Args:
        bound: The kl bound, at the upper limit of the risk on the examples.
        risk: Monte-Carlo estimate of the stochastic network's mean loss on the examples.
        risk_upper: What it is below with probability 1 - delta_draws.
        draws: Monte-Carlo draws.
        prior_variance: Of the grid.
        prior_index: Its place in the grid; the bound pays for the choice.
        delta: Probability of failure, of the sample and of the draws together.
    """

    bound: PacBayesBound
    risk: float
    risk_upper: float
    draws: int
    prior_variance: float
    prior_index: int
    delta: float

    @property
    def value(self) -> float:
        """The certificate; 1 says nothing."""
        return self.bound.value


def certify(
    model: nn.Module,
    posterior: GaussianWeights,
    centre: Mapping[str, Tensor],
    errors: PerExample,
    x: Any,
    y: Any,
    *,
    generator: torch.Generator,
    delta: float = 0.05,
    draws: int = 1000,
    draws_share: float = 0.2,
    minibatch: int = 64,
    grid: VarianceGrid | None = None,
) -> Certificate:
    r"""Bound the error of a stochastic network from examples that its prior has not seen.

    Three things fail with probability :math:`\delta` together: the estimate of :math:`\hat R(Q)` by draws (`stochastic_risk_upper`), the
    choice of the prior's variance from a grid (`bounds.prior_grid`), and the PAC-Bayes bound (`pac_bayes_kl`).

    Cost: draws * minibatch examples forward.
    Bias: an upper bound; the draws alone cost about :math:`\ln(1/\delta)/m`, less the more of them.

    Args:
        model: The network; its buffers and frozen parameters must not depend on the examples.
        posterior: Law of its trainable weights, which may depend on the examples.
        centre: Prior centre by parameter name, which may not.
        errors: Loss in [0, 1] by example, such as `evaluation.misclassified`.
        x: Inputs (N, ...) of the examples.
        y: Targets (N, ...).
        generator: On the CPU.
        delta: Probability of failure altogether.
        draws: m.
        draws_share: Share of delta for the draws.
        minibatch: Examples in each draw.
        grid: Prior variances, fixed beforehand: `PriorGrid(1.0)` unless told, `CentredGrid` where one has a guess.

    Returns:
        The certificate.

    Raises:
        SettingError: A loss outside [0, 1], or a number out of range.

    Source: Dziugaite & Roy 2017, section 3; Perez-Ortiz et al. 2021, section 6.
    """
    check_delta(delta)
    if not 0 < draws_share < 1:
        raise SettingError(
            "draws_share must lie strictly between 0 and 1", str(draws_share), "Use for example 0.2."
        )
    count, grid = check_examples(x, y), grid or PriorGrid(1.0)
    centre = checked_centre(posterior.means, centre)
    means = stochastic_losses(
        model, posterior, _checked(errors), x, y, draws=draws, minibatch=minibatch, generator=generator
    )
    upper = stochastic_risk_upper(float(means.mean()), draws, draws_share * delta)
    index = grid.best(posterior.spread(centre), posterior.coordinates)
    variance = grid.variance(index)
    left = grid.delta(index, (1 - draws_share) * delta)
    bound = pac_bayes_kl(upper, posterior.divergence(centre, variance), count, left)
    return Certificate(bound, float(means.mean()), upper, draws, variance, index, delta)


def _checked(errors: PerExample) -> PerExample:
    """The same losses, each of which must lie in [0, 1]."""

    def checked(model: nn.Module, x: Any, y: Any) -> Tensor:
        values = errors(model, x, y)
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise SettingError(
                "A certificate needs losses in [0, 1]",
                f"a loss from {float(values.min()):.3g} to {float(values.max()):.3g}",
                "Pass errors, or a bounded loss.",
            )
        return values

    return checked
