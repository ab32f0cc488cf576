r"""A stochastic network's error is certified from its training data alone, well below one half.

With probability 1 - delta over n examples, for all Gaussian laws Q over the weights at once,

    kl(risk of Q on the examples || risk of Q) <= (KL(Q || P) + ln(2 sqrt n / delta)) / n,

where the prior P must not depend on these examples. The experiment trains networks for their own bound on odd against
even digits, with P around the initial weights and around weights trained on the other half of the data, and compares
each certificate with the error on images that nothing has seen. Certificates on random labels must not promise more
than guessing. The counterexample lets the prior see the examples of the bound: its certificates are wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.bounds.prior_grid import CentredGrid
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers
from torchstone.specimens.networks import mlp
from torchstone.training.certificate import Certificate, certify
from torchstone.training.certified import train_certified
from torchstone.training.evaluation import cross_entropy, misclassified
from torchstone.training.fit import fit
from torchstone.training.gaussian_weights import GaussianWeights, stochastic_losses
from torchstone.training.pac_bayes import bounded, fit_pac_bayes

DELTA = 0.05
TRAIN = 1400
NOISE, WIDE_NOISE = 0.03, 0.2  # of the weights, for a trained and for an initial prior
FROM_DATA, FROM_START = "prior from half of the data", "prior at the initial weights"


@dataclass(frozen=True)
class Outcome:
    """One certificate and what it is compared with."""

    prior: str
    certificate: Certificate
    test: float


Maker = Callable[[str, Tensor, Tensor, torch.Generator], tuple[Certificate, nn.Module, GaussianWeights]]


def honest(
    prior: str, x: Tensor, y: Tensor, generator: torch.Generator
) -> tuple[Certificate, nn.Module, GaussianWeights]:
    """A prior that has not seen the examples of the bound."""
    settings: dict[str, Any] = {
        FROM_DATA: {"prior_share": 0.5, "epochs": 3, "std": NOISE},
        FROM_START: {"prior_share": 0.0, "epochs": 60, "std": WIDE_NOISE, "price": 0.5, "optimizer": adam},
    }[prior]
    made = train_certified(
        network(generator), x, y, generator=generator, delta=DELTA, batch_size=70, draws=500, **settings
    )
    return made.certificate, made.model, made.posterior


def peeking(
    prior: str, x: Tensor, y: Tensor, generator: torch.Generator
) -> tuple[Certificate, nn.Module, GaussianWeights]:
    """A prior trained on the very examples of the bound, whose labels are random here: the assumption broken."""
    del prior
    x, y = x[:400], torch.randint(2, (400,), generator=generator)
    model = network(generator, width=200)
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    fit(model, cross_entropy, x, y, optimizer=sgd, batch_size=50, epochs=60, generator=generator)
    given: dict[str, Any] = {"generator": generator, "delta": DELTA}
    law = fit_pac_bayes(model, bounded(cross_entropy), x, y, batch_size=100, epochs=2, std=0.01, **given)
    certificate = certify(
        model, law.posterior, law.centre, misclassified, x, y, grid=CentredGrid(1e-4), **given
    )
    return certificate, model, law.posterior


def network(generator: torch.Generator, width: int = 16) -> nn.Module:
    """One hidden layer."""
    return mlp([64, width, 2], generator=generator)


def adam(groups: Any) -> torch.optim.Optimizer:
    """Rates that move an initial network within 60 passes."""
    return torch.optim.Adam([{**groups[0], "lr": 1e-2}, {**groups[1], "lr": 3e-2}])


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """Priors that do not depend on the examples of the bound."""
    return experiment(scale, generator, honest)


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """Priors that do."""
    return experiment(scale, generator, peeking)


def experiment(scale: Scale, generator: torch.Generator, make: Maker) -> Evidence:
    """Certificates and test errors over fresh splits of the digits."""
    splits = 2 if scale is Scale.QUICK else 20
    data = digits()
    images = torch.cat([data.train_x, data.test_x]).flatten(1)
    odd = torch.cat([data.train_y, data.test_y]) % 2
    found = {FROM_DATA: [], FROM_START: []}
    for _ in range(splits):
        order = torch.randperm(len(odd), generator=generator)
        train, test = order[:TRAIN], order[TRAIN:]
        for prior, outcomes in found.items():
            certificate, model, law = make(prior, images[train], odd[train], generator)
            labels = odd[test]
            if make is peeking:
                labels = torch.randint(2, (len(test),), generator=generator)
            errors = stochastic_losses(
                model, law, misclassified, images[test], labels, draws=100, minibatch=64, generator=generator
            )
            outcomes.append(Outcome(prior, certificate, float(errors.mean())))
    random = torch.randint(2, (TRAIN,), generator=generator)
    on_noise, *_ = honest(FROM_DATA, images[:TRAIN], random, generator)
    every = [one for outcomes in found.values() for one in outcomes]
    return Evidence.all_of(
        *(average(prior, outcomes) for prior, outcomes in found.items()),
        Evidence.at_most(
            "share of networks whose test error exceeds their certificate",
            sum(one.test > one.certificate.value for one in every) / len(every),
            DELTA,
        ),
        Evidence.at_least(
            "certificate on random labels", on_noise.value, 0.5, "every classifier errs on half of them"
        ),
        figures=(comparison(found), table(every)),
    )


def average(prior: str, outcomes: list[Outcome]) -> Evidence:
    """The mean certificate over splits and two standard errors: of two splits that is above the larger one."""
    values = torch.tensor([one.certificate.value for one in outcomes], dtype=torch.float64)
    error = float(values.std()) / len(values) ** 0.5
    note = f"from {float(values.min()):.3f} to {float(values.max()):.3f} over {len(values)} splits"
    return Evidence.at_most(
        f"mean certificate and two standard errors, {prior}", float(values.mean()) + 2 * error, 0.5, note
    )


def comparison(found: dict[str, list[Outcome]]) -> Curve:
    """Certificates above test errors, split by split."""
    lines = []
    for prior, outcomes in found.items():
        splits = numbers(range(1, len(outcomes) + 1))
        lines.append(
            Line(f"certificate, {prior}", splits, numbers(one.certificate.value for one in outcomes))
        )
        lines.append(Line(f"test error, {prior}", splits, numbers(one.test for one in outcomes)))
    return Curve(
        "Certificates and test errors, odd against even digits",
        Axis("split of the data"),
        Axis("error rate"),
        tuple(lines),
        (Marker("guessing", 0.5),),
        caption="A certificate uses training images only. It may fall below the test error in 5% of the splits at most.",
    )


def table(every: list[Outcome]) -> Table:
    """What each certificate is made of."""
    columns = ("prior", "certificate", "error on the examples", "KL (nats)", "examples", "test error")
    rows = tuple(
        (
            one.prior,
            one.certificate.value,
            one.certificate.risk,
            one.certificate.bound.divergence,
            one.certificate.bound.n,
            one.test,
        )
        for one in every
    )
    return Table("What the certificates are made of", columns, rows)


CLAIM = Claim(
    id="certificate_from_training_data",
    theme=Theme.RISK,
    title="Non-vacuous certificates from training data",
    statement=(
        "A stochastic network trained for its own PAC-Bayes bound gets a certificate of its error from training data alone "
        "that is below one half on odd against even digits, on average over splits of the data, and that its error on new "
        "images does not exceed."
    ),
    source="Dziugaite & Roy 2017, section 6; Perez-Ortiz, Rivasplata, Shawe-Taylor & Szepesvari 2021, section 7; the bound is "
    "Maurer 2004, theorem 5",
    assumptions=(
        "Examples are independent draws of one law.",
        "The prior does not depend on the examples of the bound.",
        "The certificate is for the network that draws its weights anew for every image.",
    ),
    refuted_by="a mean certificate of one half or more, or test errors above their certificates in more than 5% of the splits",
    run=run,
    counterexample=counterexample,
    rows=("R15",),
)
