"""From which layer on are the classes separable, and does the head make use of it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchstone.bounds.bayes_error import nearest_neighbour_error
from torchstone.bounds.proportion import bonferroni_difference, clopper_pearson
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers, thin
from torchstone.errors import NotApplicableError
from torchstone.instruments.settings import require_between, require_count
from torchstone.kernels.uniformity import alignment, uniformity
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Remedy, Uncertainty, Verdict
from torchstone.workbench import Workbench


@dataclass(frozen=True)
class LinearProbe:
    """Test accuracy of a linear and a k-nearest-neighbour classifier on each layer's features.

    The linear probe is a multinomial logistic regression with L2 penalty on standardised training features, evaluated
    on test features. Beside it: alignment (mean squared distance within a class) and uniformity (log mean Gaussian
    potential) on the unit sphere. The value is the last hidden layer's linear accuracy.

    Cost: one forward pass over training and test data and a convex fit a layer. Bias: a lower bound of what is linearly
    decodable, because the probe itself is fitted to finitely many examples.
    Source: Alain & Bengio 2017; Wang & Isola 2020, eqs. (1) and (2).
    """

    META: ClassVar[Meta] = Meta(
        id="linear_probe",
        question=Question.REPRESENTATION,
        title="Linear probe",
        asks="Which layer separates the classes?",
        cost=CostClass.MINUTES,
        needs=(Need.TRAIN, Need.TEST, Need.LABELS, Need.SCORES),
        unit="share of test examples",
        source="Alain & Bengio 2017; Wang & Isola 2020",
    )
    layers: int = 8
    neighbours: int = 5
    penalty: float = 1.0
    """Inverse strength C of the L2 penalty, as scikit-learn counts it."""
    examples: int = 2000

    def __post_init__(self) -> None:
        require_count(self, "layers", 2, 24)
        require_count(self, "neighbours", 1, 1000)
        require_between(self, "penalty", 1e-9, 1e9)
        require_count(self, "examples", 2)

    def measure(self, bench: Workbench) -> Reading:
        """Probe up to `layers` layers, evenly chosen by depth."""
        train_y, test_y = bench.labels("train"), bench.labels("test")
        rows = bench.sample("train", self.examples, self.META.id)
        if len(train_y[rows].unique()) < 2:
            raise NotApplicableError("needs training examples of at least two classes")
        train, test = bench.features("train"), bench.features("test")
        shared = [name for name in train if name in test]
        names = [shared[i] for i in thin(len(shared), self.layers)]
        probes = [
            _probe(name, train[name][rows], train_y[rows], test[name], test_y, self.penalty, self.neighbours)
            for name in names
        ]
        network = int((~bench.errors("test")).sum())
        hidden = probes[-2] if len(probes) > 1 else probes[-1]
        verdict = judge(
            hidden.right, max(probe.right for probe in probes[:-1] or probes), network, len(test_y)
        )
        interval = clopper_pearson(hidden.right, len(test_y))
        return Reading.of(
            self.META,
            value=hidden.right / len(test_y),
            uncertainty=Uncertainty(interval.low, interval.high, "examples", "Clopper-Pearson"),
            verdict=verdict,
            headline=(
                f"A linear classifier on {hidden.name} is right on {hidden.right / len(test_y):.1%} of the test "
                f"examples; the network on {network / len(test_y):.1%}."
            ),
            explanation=(
                "Logistic regression and nearest neighbours are fitted to each layer's training features and evaluated "
                "on test features. Accuracy that rises with depth is what training is for."
            ),
            remedies=_remedies(verdict),
            details=(_curve(probes, network, len(test_y)), _table(probes, len(test_y))),
            notes=()
            if len(rows) == len(train_y)
            else (f"Probes fitted to {len(rows):,} training examples.",),
        )


@dataclass(frozen=True)
class _Probe:
    name: str
    width: int
    right: int
    neighbours_right: int
    alignment: float
    uniformity: float


def judge(last: int, best: int, network: int, count: int) -> Verdict:
    """Attention where the last hidden layer lost what an earlier one had, or the head misses what the probe finds."""
    threshold = (
        "last hidden layer's probe not below an earlier layer's or above the network's, beyond sampling error"
    )
    source = (
        "Alain & Bengio 2017: separability grows with depth; difference tested with exact binomial limits"
    )
    if bonferroni_difference(best, count, last, count).low > 0:
        return Verdict(Level.ATTENTION, "an earlier layer separates the classes better", threshold, source)
    if bonferroni_difference(last, count, network, count).low > 0:
        return Verdict(Level.ATTENTION, "a linear probe beats the network's own head", threshold, source)
    return Verdict(Level.GOOD, "the last layers separate the classes best", threshold, source)


def linear_probe(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, penalty: float = 1.0, iterations: int = 100
) -> Tensor:
    """Labels that a multinomial logistic regression on standardised features predicts for `test_x`.

    Args:
        train_x: (N, d) features.
        train_y: (N,) labels.
        test_x: (M, d) features.
        penalty: Inverse L2 strength C.
        iterations: Most L-BFGS iterations; a probe that stops there is a slightly more regularised one.

    Returns:
        (M,) labels.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = train_x.double().mean(0), train_x.double().std(0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    fitted_x, asked_x = (
        ((train_x.double() - mean) / scale).float(),
        ((test_x.double() - mean) / scale).float(),
    )
    model: Any = LogisticRegression(C=penalty, max_iter=iterations, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes is greater", UserWarning)
        model.fit(fitted_x.numpy(), train_y.numpy())
    return torch.from_numpy(model.predict(asked_x.numpy()))


def _probe(
    name: str,
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    penalty: float,
    neighbours: int,
) -> _Probe:
    if not bool(train_x.isfinite().all() and test_x.isfinite().all()):
        raise NotApplicableError(f"the features of {name} are not finite")
    predicted = linear_probe(train_x, train_y, test_x, penalty)
    wrong = nearest_neighbour_error(
        train_x, train_y, test_x, test_y, neighbours=min(neighbours, len(train_x))
    )
    return _Probe(
        name=name,
        width=train_x.shape[1],
        right=int((predicted == test_y).sum()),
        neighbours_right=int((~wrong).sum()),
        alignment=alignment(test_x, test_y),
        uniformity=uniformity(test_x) if len(test_x) > 1 else float("nan"),
    )


def _curve(probes: list[_Probe], network: int, count: int) -> Curve:
    x = numbers(range(1, len(probes) + 1))
    lines = []
    for name, rights in (
        ("linear probe", [probe.right for probe in probes]),
        ("nearest neighbours", [probe.neighbours_right for probe in probes]),
    ):
        ends = [clopper_pearson(right, count) for right in rights]
        y = numbers(right / count for right in rights)
        lines.append(Line(name, x, y, numbers(end.low for end in ends), numbers(end.high for end in ends)))
    return Curve(
        "Accuracy of probes by layer",
        Axis("layer, input to output"),
        Axis("test accuracy"),
        tuple(lines),
        (Marker("the network", network / count),),
        tuple(probe.name for probe in probes),
        caption="Bands are 95% intervals over test examples. A fall towards the end means that late layers lose what "
        "earlier ones had.",
    )


def _table(probes: list[_Probe], count: int) -> Table:
    rows = tuple(
        (
            probe.name,
            probe.width,
            probe.right / count,
            probe.neighbours_right / count,
            probe.alignment,
            probe.uniformity,
        )
        for probe in probes
    )
    columns = ("layer", "width", "linear accuracy", "k-NN accuracy", "alignment", "uniformity")
    return Table(
        "Layers",
        columns,
        rows,
        "Alignment and uniformity on the unit sphere (Wang & Isola); lower is better.",
    )


def _remedies(verdict: Verdict) -> tuple[Remedy, ...]:
    if verdict.level is not Level.ATTENTION:
        return ()
    return (
        Remedy(
            "Train the head longer or refit it on frozen features; the representation already separates the classes."
        ),
        Remedy("Check the last layers for dead units and collapse (activation_health, effective_rank)."),
    )


INSTRUMENT = LinearProbe
