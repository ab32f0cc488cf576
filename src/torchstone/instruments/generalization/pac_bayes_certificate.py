"""Which error rate is certain on new data, without a test set?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torchstone.bounds.proportion import clopper_pearson
from torchstone.details import Axis, Curve, Line, Marker, Scalar, Scalars, Table, numbers
from torchstone.errors import NotApplicableError, NumericalError
from torchstone.instruments.settings import require_between, require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.certified import Certified, certified_around, certified_from_data


@dataclass(frozen=True)
class PacBayesCertificate:
    r"""PAC-Bayes certificates: error rates that stochastic versions of the network stay below with probability 1 - delta.

    The weights become Gaussian, and kl(risk on the examples || risk) <= (KL(posterior || prior) + ln(2 sqrt n / delta)) / n.
    Two certificates share delta. Around the examined network: the posterior is centred at its weights, the prior at
    the initial ones, and the noise has the width that makes the bound smallest. With a prior from data: the recipe trains a
    network on half of the training examples, which centres the prior, and the posterior is trained on the other half by
    descent on its own bound; the bound is on that half.

    Cost: half a training, `epochs` passes over half of the examples with random weights, and about 2,500 minibatches forward.
    Bias: upper bounds; they hold for the stochastic networks, which draw new weights for every example.
    Source: Dziugaite & Roy 2017; Perez-Ortiz et al. 2021; Maurer 2004, theorem 5.
    """

    META: ClassVar[Meta] = Meta(
        id="pac_bayes_certificate",
        question=Question.GENERALIZATION,
        title="PAC-Bayes certificate",
        asks="Which error rate is certain on new data, without a test set?",
        cost=CostClass.RETRAINING,
        needs=(Need.TRAIN, Need.LABELS, Need.SCORES, Need.PARAMETERS, Need.INDEPENDENT_EXAMPLES),
        unit="error rate",
        source="Dziugaite & Roy 2017; Perez-Ortiz et al. 2021; Maurer 2004, theorem 5",
    )
    delta: float = 0.05
    """Probability that a certificate is wrong, over the training examples."""
    prior_share: float = 0.5
    """Share of the training examples that centres the prior."""
    epochs: int = 5
    """Passes over the other examples."""
    noise: float = 0.01
    """Standard deviation of the weights that training starts from."""
    draws: int = 1000
    """Pairs of random weights and a minibatch of 64 for each certificate."""

    def __post_init__(self) -> None:
        require_between(self, "delta", 1e-12, 0.5)
        require_between(self, "prior_share", 0.05, 0.95)
        require_count(self, "epochs", 1, 10_000)
        require_between(self, "noise", 1e-9, 10.0)
        require_count(self, "draws", 10)

    def measure(self, bench: Workbench) -> Reading:
        """Make both certificates, as far as the recipe allows."""
        guess = _guessing(bench)
        found, notes = self._certificates(bench)
        best = min(found, key=lambda one: one.certificate.value)
        value = best.certificate.value
        verdict = judge(value, guess)
        return Reading.of(
            self.META,
            value=value,
            uncertainty=Uncertainty(
                0.0, value, "examples", "PAC-Bayes upper bound on the error", confidence=1 - self.delta
            ),
            verdict=verdict,
            headline=_headline(best, value, guess, self.delta),
            explanation=(
                "A certificate holds for a stochastic network, which draws its weights anew for every example from a "
                "Gaussian law, and uses training examples only. It grows with the error on the examples and with the "
                "divergence of the law from a prior that must not have seen them, per example. What it says of the "
                "network with fixed weights is indirect: the two err alike where the noise is small."
            ),
            remedies=_remedies(verdict),
            details=(
                _table(found),
                _errors(bench, found, guess, self.delta),
                *(_trade_off(one) for one in found if one.widths),
            ),
            notes=(*notes, *_effort(found, self)),
        )

    def _certificates(self, bench: Workbench) -> tuple[list[Certified], tuple[str, ...]]:
        """One or two certificates, which share delta, and why one is missing."""
        recipe = bench.specimen.recipe
        has_start = recipe is not None and bool(recipe.initial_state)
        can_train = recipe is not None and recipe.build is not None
        if not (has_start or can_train):
            raise NotApplicableError(
                "needs weights that do not depend on the data: Recipe(initial_state=...) or Recipe(build=...)"
            )
        share = self.delta / (has_start + can_train)
        found, notes = [], []
        generator = bench.generator(self.META.id)
        if has_start:
            try:
                found.append(certified_around(bench, share, self.draws, generator))
            except NotApplicableError as answer:
                notes.append(f"No certificate around the examined network: {answer.reason}.")
        if can_train:
            try:
                found.append(
                    certified_from_data(
                        bench, share, self.draws, generator, self.prior_share, self.epochs, self.noise
                    )
                )
            except NotApplicableError as answer:
                notes.append(f"No certificate with a prior from data: {answer.reason}.")
            except NumericalError as error:
                notes.append(f"No certificate with a prior from data: {error}")
        else:
            notes.append(
                "With Recipe(build=...) a prior is trained on half of the data, which is worth much."
            )
        if not found:
            raise NotApplicableError(" ".join(notes))
        return found, tuple(notes)


def judge(certificate: float, guess: float) -> Verdict:
    """Good where it is below the error of guessing; a vacuous one is no fault of the network, so it is informative."""
    threshold = f"certificate below {guess:.3g}, the error of always naming the most frequent class"
    source = "convention of this report; a certificate of 1 holds for every network"
    if certificate < guess:
        return Verdict(
            Level.GOOD, f"an error below {certificate:.3g} is certified without test data", threshold, source
        )
    return Verdict(
        Level.INFORMATIVE, "the certificate promises nothing that guessing would not reach", threshold, source
    )


def _guessing(bench: Workbench) -> float:
    labels = bench.labels("train")
    return 1 - float(labels.unique(return_counts=True)[1].max()) / len(labels)


def _headline(best: Certified, value: float, guess: float, delta: float) -> str:
    if value >= guess:
        return f"The certificate is {value:.3g}, no better than guessing: it promises nothing."
    what = {
        "around": "The examined network with noise on its weights",
        "data": "A noisy network, trained by the recipe on half of the data,",
    }[best.kind]
    return f"{what} errs on at most {value:.1%} of new data, with probability {1 - delta:.0%}."


def _table(found: list[Certified]) -> Table:
    columns = (
        "certificate",
        "bound on the error",
        "error on the examples",
        "KL (nats)",
        "examples",
        "mean noise of a weight",
        "test error with noise",
        "test error of the mean weights",
    )
    rows = tuple(
        (
            one.name,
            one.certificate.value,
            one.certificate.risk,
            one.certificate.bound.divergence,
            one.certificate.bound.n,
            one.noise,
            one.test_stochastic,
            one.test_mean,
        )
        for one in found
    )
    return Table(
        "Certificates",
        columns,
        rows,
        caption="The bound holds for the network with noise. KL is what moving away from the prior costs: a certificate says "
        "something where KL is well below the number of examples.",
    )


def _errors(bench: Workbench, found: list[Certified], guess: float, delta: float) -> Scalars:
    items = [Scalar("error of guessing", guess)]
    if bench.specimen.has("test"):
        wrong = bench.errors("test")
        # One-sided at delta, as the certificates are.
        limit = clopper_pearson(int(wrong.sum()), len(wrong), 1 - 2 * delta).high
        items += [
            Scalar("test error of the examined network", float(wrong.double().mean())),
            Scalar(f"its upper limit from the {len(wrong):,} test examples", limit),
        ]
    items += [Scalar(f"certificate: {one.name}", one.certificate.value) for one in found]
    return Scalars(
        "Error rates",
        tuple(items),
        caption="A limit from test examples is nearly always lower; a certificate leaves them for other uses.",
    )


def _trade_off(one: Certified) -> Curve:
    widths = numbers(width for width, _, _ in one.widths)
    return Curve(
        "Width of the noise around the examined network",
        Axis("standard deviation of each weight", log=True),
        Axis("error rate"),
        (
            Line("error on the examples", widths, numbers(risk for _, risk, _ in one.widths)),
            Line("bound", widths, numbers(bound for _, _, bound in one.widths)),
        ),
        (Marker("noise of the certificate", one.noise, "x"),),
        caption="More noise costs errors, less noise costs divergence from the prior. The bound is lowest between, if anywhere.",
    )


def _effort(found: list[Certified], settings: PacBayesCertificate) -> tuple[str, ...]:
    notes = []
    if len(found) > 1:
        notes.append(
            f"Each certificate may fail with probability {settings.delta / 2:g}, so that both hold together with "
            f"probability {1 - settings.delta:g}."
        )
    for one in found:
        lost = one.certificate.risk_upper - one.certificate.risk
        notes.append(
            f"Certificate {one.name}: knowing the error from {one.certificate.draws:,} draws of the weights only adds {lost:.2g} to it."
        )
        notes.extend(one.notes)
    return tuple(notes)


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is Level.GOOD:
        return ()
    return (
        Remedy(
            "For a certificate, train the network with noise for its own bound, with a prior trained on part of the data.",
            "torchstone.training.certified.train_certified",
            "certificate_from_training_data",
        ),
    )


INSTRUMENT = PacBayesCertificate
