"""From an untrained network and data to a stochastic network with a certificate, in one call."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchstone.bounds.prior_grid import CentredGrid
from torchstone.errors import SettingError
from torchstone.training.certificate import Certificate, certify
from torchstone.training.evaluation import PerExample, check_pairs, cross_entropy, misclassified
from torchstone.training.fit import fit
from torchstone.training.gaussian_weights import GaussianWeights
from torchstone.training.optimizers import OptimizerFactory
from torchstone.training.pac_bayes import PacBayesFit, bounded, fit_pac_bayes


@dataclass(frozen=True)
class CertifiedNetwork:
    """A stochastic network, what its error stays below, and what that rests on.

    Args:
        certificate: The bound and its parts.
        fit: Posterior, prior centre and series of the training.
        model: The network at the prior's centre in eval mode; its weights are replaced by draws from the posterior.
        prior_rows: Examples that the prior's centre was trained on; empty for a prior at the initial weights.
    """

    certificate: Certificate
    fit: PacBayesFit
    model: nn.Module
    prior_rows: Tensor

    @property
    def posterior(self) -> GaussianWeights:
        """The law of the weights."""
        return self.fit.posterior

    @property
    def centre(self) -> Mapping[str, Tensor]:
        """Centre of the prior."""
        return self.fit.centre


def train_certified(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    prior_share: float = 0.5,
    prior_optimizer: OptimizerFactory | None = None,
    prior_epochs: int = 20,
    epochs: int = 20,
    batch_size: int = 64,
    losses: PerExample = cross_entropy,
    errors: PerExample = misclassified,
    optimizer: OptimizerFactory | None = None,
    std: float = 0.03,
    delta: float = 0.05,
    draws: int = 1000,
    price: float = 1.0,
) -> CertifiedNetwork:
    r"""PAC-Bayes with backprop, from the prior to the certificate.

    A share of the examples, drawn at random, trains the prior's centre by plain minimisation of the loss; the others
    train the posterior, and the bound is on them alone. With a share of 0 the prior is centred at the weights as given,
    which must not have been trained on these data, and the bound is on all examples.

    Cost: prior_epochs passes over the one part, epochs passes over the other, and the draws of `certify`.

    Args:
        model: An untrained network; not changed.
        x: Inputs (N, ...), on the model's device.
        y: Targets (N, ...).
        generator: On the CPU; the only source of randomness.
        prior_share: Of the examples, in [0, 1).
        prior_optimizer: For the prior's centre; SGD with rate 0.05 and momentum 0.9 unless told.
        prior_epochs: Passes for it.
        epochs: Passes for the posterior.
        batch_size: Examples a step.
        losses: Cross-entropy by example, squeezed into [0, 1] for the posterior.
        errors: What the certificate is about, in [0, 1].
        optimizer: See `fit_pac_bayes`.
        std: Standard deviation of the weights to start from; its square is the guess of the prior's variance.
        delta: Probability of failure altogether.
        draws: Monte-Carlo draws of the certificate.
        price: See `fit_pac_bayes`.

    Returns:
        The stochastic network with its certificate.

    Raises:
        SettingError: A share that leaves no examples for one of the parts, or a number out of range.
        NumericalError: A training diverged.

    Source: Perez-Ortiz, Rivasplata, Shawe-Taylor & Szepesvari 2021, sections 5 and 6; prior from data: Ambroladze,
    Parrado-Hernandez & Shawe-Taylor 2007.
    """
    check_pairs(x, y, batch_size)
    order = torch.randperm(len(x), generator=generator)
    held = _held(prior_share, len(x))
    prior_rows, rows = order[:held].to(x.device), order[held:].to(x.device)
    start = copy.deepcopy(model).eval()
    if held:
        default = lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
        fit(
            start,
            losses,
            x[prior_rows],
            y[prior_rows],
            optimizer=prior_optimizer or default,
            batch_size=batch_size,
            epochs=prior_epochs,
            generator=generator,
        )
    some_x, some_y = x[rows], y[rows]
    trained = fit_pac_bayes(
        start,
        bounded(losses),
        some_x,
        some_y,
        batch_size=batch_size,
        epochs=epochs,
        generator=generator,
        optimizer=optimizer,
        std=std,
        delta=delta,
        price=price,
    )
    given = {"generator": generator, "delta": delta, "draws": draws, "grid": CentredGrid(std**2)}
    certificate = certify(start, trained.posterior, trained.centre, errors, some_x, some_y, **given)
    return CertifiedNetwork(certificate, trained, start, prior_rows.cpu())


def _held(share: float, count: int) -> int:
    """How many examples the prior is trained on."""
    held = round(share * count) if 0 <= share < 1 else count
    if held >= count or (share > 0 and held == 0):
        raise SettingError(
            "prior_share must lie in [0, 1) and leave examples on both sides",
            f"{share} of {count} examples",
            "Use 0.5, or 0 for a prior at the initial weights.",
        )
    return held
