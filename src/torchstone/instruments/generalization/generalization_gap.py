"""How much worse is the network on data it has not seen?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.details import Axis, Bars, Histogram, Scalar, Scalars, numbers
from torchstone.instruments.settings import require_between
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench

SOURCE = "Vapnik 1991 (empirical risk); Devroye, Gyorfi & Lugosi 1996, ch. 8 (held-out estimate)"


@dataclass(frozen=True)
class GeneralizationGap:
    """Mean test loss minus mean training loss, with the sampling error of both.

    gap = (1/n_test) sum l(f(x'), y') - (1/n) sum l(f(x), y). The standard error adds the variances of the two means.

    Cost: one forward pass over training and test data. Bias: none for the given network; the training mean is of the
    very examples it was fitted to, which is what makes the difference a gap.
    Source: Vapnik 1991; Devroye, Gyorfi & Lugosi 1996, chapter 8.
    """

    META: ClassVar[Meta] = Meta(
        id="generalization_gap",
        question=Question.GENERALIZATION,
        title="Generalization gap",
        asks="How much worse is it on data it has not seen?",
        cost=CostClass.INSTANT,
        needs=(Need.TRAIN, Need.TEST),
        unit="loss",
        source=SOURCE,
    )
    attention_share: float = 0.5
    """Share of the test loss that the gap may take before it deserves attention."""

    def __post_init__(self) -> None:
        require_between(self, "attention_share", 0.0, 1.0)

    def measure(self, bench: Workbench) -> Reading:
        """Compare the two mean losses."""
        train, test = bench.losses("train"), bench.losses("test")
        gap = float(test.mean() - train.mean())
        error = float((_variance_of_mean(test) + _variance_of_mean(train)).sqrt())
        uncertainty = Uncertainty.from_standard_error(gap, error, covers="examples")
        test_loss = float(test.mean())
        verdict = judge(gap, uncertainty.low, test_loss, self.attention_share)
        return Reading.of(
            self.META,
            value=gap,
            uncertainty=uncertainty,
            verdict=verdict,
            headline=f"Mean loss is {train.mean():.3g} on training and {test_loss:.3g} on test data.",
            explanation=(
                "The gap is the mean test loss minus the mean training loss. Its interval covers the draw of both "
                "sets of examples, not retraining."
            ),
            remedies=_remedies(verdict),
            details=(_means(train, test), _histogram(train, test)),
        )


def judge(gap: float, low: float, test_loss: float, share: float) -> Verdict:
    """Attention where the gap is beyond chance and most of the test loss; the share is a convention, not a theorem."""
    threshold = f"gap above {share:.0%} of the test loss, and above 0 beyond sampling error"
    source = "convention of this report; the interval is the normal one for a difference of means"
    if low > 0 and gap > share * test_loss:
        return Verdict(
            Level.ATTENTION, f"the gap is {gap / test_loss:.0%} of the test loss", threshold, source
        )
    reason = (
        "no gap beyond sampling error" if low <= 0 else f"the gap is {gap / test_loss:.0%} of the test loss"
    )
    return Verdict(Level.GOOD, reason, threshold, source)


def _variance_of_mean(losses: Tensor) -> Tensor:
    return losses.var() / len(losses) if len(losses) > 1 else torch.tensor(float("nan"), dtype=torch.float64)


def _means(train: Tensor, test: Tensor) -> Scalars:
    items = []
    for name, losses in (("training", train), ("test", test)):
        mean, half = float(losses.mean()), 1.96 * float(_variance_of_mean(losses).sqrt())
        items.append(Scalar(f"{name} loss", mean, "loss", mean - half, mean + half))
    return Scalars("Mean loss", tuple(items))


def _histogram(train: Tensor, test: Tensor) -> Histogram:
    both = torch.cat([train, test]).clamp(min=1e-8).log10()
    edges = torch.linspace(float(both.min()), float(both.max()) + 1e-9, 41, dtype=torch.float64)
    groups = []
    for name, losses in (("training", train), ("test", test)):
        counts = torch.histc(losses.clamp(min=1e-8).log10(), 40, float(edges[0]), float(edges[-1]))
        groups.append(Bars(name, numbers(100 * counts / len(losses))))
    return Histogram(
        "Loss of single examples",
        Axis("log10 of the loss (below 1e-8 shown as 1e-8)"),
        numbers(edges),
        tuple(groups),
        caption="Bars: percent of each set. Mass on the right in test only is what the network did not learn.",
        y=Axis("share of the set", "%"),
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy("Add data or augmentation: the gap shrinks with the number of distinct training examples."),
        Remedy(
            "Regularise (weight decay, early stopping) and compare the test loss, not the gap.",
            "torch.optim.AdamW",
        ),
    )


INSTRUMENT = GeneralizationGap
