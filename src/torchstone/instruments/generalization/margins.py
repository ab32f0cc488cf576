"""How clearly are the examples classified?"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.bounds.dense import DenseLayer
from torchstone.bounds.margin import margins, path_norm, product_norm
from torchstone.details import Axis, Bars, Detail, Histogram, Marker, Scalar, Scalars, numbers
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench
from torchstone.workbench.chain import chain


@dataclass(frozen=True)
class Margins:
    r"""Margins f_y - max_{j != y} f_j of training and test examples, in units of the scores' spread.

    Raw margins grow when the last layer is scaled up, without any change of the classifier, so they are divided by the
    root mean square of the centred training scores. The value is the lower `quantile` of the training margins, with the
    exact order-statistic interval. Norms beside it show the same trap: rescaling two layers by (c, 1/c) keeps the
    function and its margins, but changes the Euclidean norm of the weights.

    Cost: one forward pass over training and test data. Bias: none.
    Source: Bartlett, Foster & Telgarsky 2017; Neyshabur, Tomioka & Srebro 2015; Dinh et al. 2017 (rescaling).
    """

    META: ClassVar[Meta] = Meta(
        id="margins",
        question=Question.GENERALIZATION,
        title="Margins",
        asks="How clearly are examples classified?",
        cost=CostClass.INSTANT,
        needs=(Need.TRAIN, Need.LABELS, Need.SCORES),
        unit="score spreads",
        source="Bartlett, Foster & Telgarsky 2017; Neyshabur, Tomioka & Srebro 2015; Dinh et al. 2017",
    )
    quantile: float = 0.1

    def __post_init__(self) -> None:
        require_between(self, "quantile", 0.001, 0.999)

    def measure(self, bench: Workbench) -> Reading:
        """Margins of both sets in common units."""
        scores = bench.scores("train")
        spread = float((scores - scores.mean(1, keepdim=True)).square().mean().sqrt())
        if not spread > 0:
            raise NotApplicableError("all scores are equal, so there is no margin")
        splits = {"training": margins(scores, bench.labels("train")) / spread}
        if bench.specimen.has("test"):
            splits["test"] = margins(bench.scores("test"), bench.labels("test")) / spread
        value, low, high = quantile_interval(splits["training"], self.quantile)
        verdict = judge(value)
        return Reading.of(
            self.META,
            value=value,
            uncertainty=Uncertainty(low, high, "examples", "order statistics"),
            verdict=verdict,
            headline=(
                f"{1 - self.quantile:.0%} of the training examples have a margin above {value:.3g} score spreads; "
                f"{float((splits['training'] <= 0).double().mean()):.1%} are not separated."
            ),
            explanation=(
                "The score of the right class minus the best other one, divided by the root mean square of the centred "
                "scores, so that scaling the outputs changes nothing."
            ),
            remedies=_remedies(verdict),
            details=(_histogram(splits), _quantiles(splits), *_norms(bench)),
        )


def judge(quantile: float) -> Verdict:
    """Attention where the lower quantile is not positive: then no margin bound below that level exists."""
    threshold = "lower quantile of the training margins above 0"
    source = (
        "Bartlett, Foster & Telgarsky 2017, theorem 1.1: the bound's first term is the share below the margin"
    )
    if not quantile > 0:
        return Verdict(Level.ATTENTION, "many training examples have no margin", threshold, source)
    return Verdict(Level.GOOD, "training examples are separated with a margin", threshold, source)


def quantile_interval(
    values: Tensor, quantile: float, confidence: float = 0.95
) -> tuple[float, float, float]:
    """A sample quantile and its exact distribution-free interval.

    The number of values below the true quantile is Binomial(n, quantile); the order statistics at its outer
    `confidence` quantiles enclose it.

    Returns:
        Value, low, high (infinite where the sample is too small for an end).
    """
    from scipy.stats import binom

    ordered, count = values.double().sort().values, len(values)
    value = float(torch.quantile(ordered, quantile))
    tail = (1 - confidence) / 2
    below = int(binom.ppf(tail, count, quantile))  # P[B < below] <= tail
    above = int(binom.isf(tail, count, quantile))  # P[B > above] <= tail
    low = float(ordered[below - 1]) if below >= 1 else -math.inf
    high = float(ordered[above]) if above < count else math.inf
    return value, min(low, value), max(high, value)


def _histogram(splits: dict[str, Tensor]) -> Histogram:
    everything = torch.cat(list(splits.values()))
    low, high = float(everything.min()), float(everything.max())
    edges = torch.linspace(low, high if high > low else low + 1, 41, dtype=torch.float64)
    groups = tuple(
        Bars(name, numbers(100 * torch.histogram(values, edges).hist / len(values)))
        for name, values in splits.items()
    )
    return Histogram(
        "Margins",
        Axis("margin", "score spreads"),
        numbers(edges),
        groups,
        (Marker("decision boundary", 0.0, "x"),),
        caption="Percent of each set. Left of 0 is misclassified; a test curve left of the training curve is the gap.",
        y=Axis("share of the set", "%"),
    )


def _quantiles(splits: dict[str, Tensor]) -> Scalars:
    items = []
    for name, values in splits.items():
        for label, level in (("lower decile", 0.1), ("median", 0.5)):
            value, low, high = quantile_interval(values, level)
            items.append(Scalar(f"{label}, {name}", value, "score spreads", low, high))
    return Scalars("Quantiles of the margin", tuple(items))


def _norms(bench: Workbench) -> tuple[Detail, ...]:
    weights = [parameter for parameter in bench.specimen.model.parameters() if parameter.is_floating_point()]
    if not weights:
        return ()
    total = math.sqrt(sum(float(weight.detach().double().square().sum()) for weight in weights))
    items = [Scalar("Euclidean norm of all parameters (changes under layer rescaling)", total)]
    with suppress(NotApplicableError):
        layers = [one.layer for one in chain(bench.specimen)]
        product = sum(math.log10(max(layer.norm_bound(), 1e-300)) for layer in layers)
        items.append(Scalar("log10 of the product of spectral norms (invariant)", product))
        if all(isinstance(layer, DenseLayer) for layer in layers):
            matrices = [layer.weight for layer in layers]
            items.append(Scalar("path norm (invariant)", path_norm(matrices)))
            items.append(Scalar("product of Frobenius norms (invariant)", product_norm(matrices)))
    return (Scalars("Norms of the network", tuple(items)),)


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy("Train longer or with a larger network: the training data are not separated yet."),
        Remedy("Look for wrong labels among the examples of negative margin (suspect_labels)."),
    )


INSTRUMENT = Margins
