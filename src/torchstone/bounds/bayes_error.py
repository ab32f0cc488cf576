r"""How low could any classifier's error go? A bracket for the Bayes error from nearest neighbours.

With C classes and 1-nearest-neighbour error e in the limit of infinite data, the Bayes error :math:`R^*` satisfies
:math:`R^* \le e \le R^* (2 - \frac{C}{C-1} R^*)`, hence (Cover & Hart 1967, theorem 2)

.. math:: \frac{C-1}{C}\left(1 - \sqrt{1 - \frac{C}{C-1} e}\right) \le R^* \le e.

The two sides differ in standing. The upper one holds at every sample size and in every feature space, for any
classifier: none beats the Bayes rule. The lower one holds in the limit only. At finite N the rule is usually worse than
its limit, by about :math:`N^{-2/d}` in d intrinsic dimensions (Snapp & Venkatesh 1998), which moves the lower end *up*,
and a feature map that loses information raises it too, so it can pass above :math:`R^*`. Read the lower end as "where
the Bayes error would be if neighbours were already close", not as a guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from torchstone.bounds.interval import Interval
from torchstone.bounds.proportion import clopper_pearson
from torchstone.errors import SettingError
from torchstone.kernels.nearest import Metric, majority_vote, nearest_neighbours


def cover_hart_bracket(nn_error: float, classes: int) -> tuple[float, float]:
    """The Bayes errors compatible with an asymptotic 1-nearest-neighbour error.

    Args:
        nn_error: Error of the 1-nearest-neighbour rule, in [0, 1]. Above (C - 1)/C, which no limit exceeds, it is
            taken for that.
        classes: Number of classes C, at least 2.

    Returns:
        Lower and upper end, in [0, (C - 1)/C].

    Raises:
        SettingError: An error outside [0, 1] or fewer than two classes.

    Example:
        >>> low, high = cover_hart_bracket(0.18, classes=2)
        >>> round(low, 6), high
        (0.1, 0.18)

    Source: Cover & Hart 1967, theorem 2; the inverted form is in Devroye, Gyorfi & Lugosi 1996, section 5.
    """
    if classes < 2:
        raise SettingError(
            "A Bayes error needs at least two classes", str(classes), "Pass the number of classes."
        )
    if not 0 <= nn_error <= 1:
        raise SettingError("nn_error must lie in [0, 1]", str(nn_error), "Pass a share of wrong predictions.")
    worst = (classes - 1) / classes
    error = min(nn_error, worst)
    # The conjugate form of 1 - sqrt(1 - u) keeps its digits where the error is small.
    root = math.sqrt(max(0.0, 1 - error / worst))
    return error / (1 + root), error


def bayes_error_interval(errors: int, trials: int, classes: int, confidence: float = 0.95) -> Interval:
    r"""The bracket with the sampling error of the test examples in it.

    Both ends of the bracket increase with the error, so an exact interval of the 1-nearest-neighbour error goes
    through: :math:`[f(e_{low}), e_{high}]` covers the bracket of the true error with at least `confidence`.
    It does not cover the finite-sample bias of the lower end (see the module).

    Args:
        errors: Wrong predictions of the 1-nearest-neighbour rule on test examples apart from its training examples.
            Leave-one-out errors depend on each other, so for them the confidence is only nominal.
        trials: Number of test examples.
        classes: Number of classes.
        confidence: Least coverage of the sampling of test examples.

    Returns:
        The interval.

    Raises:
        SettingError: Counts that no experiment could give.
    """
    exact = clopper_pearson(errors, trials, confidence)
    low, _ = cover_hart_bracket(exact.low, classes)
    _, high = cover_hart_bracket(exact.high, classes)
    return Interval(low, high, confidence, "Cover-Hart, Clopper-Pearson")


@dataclass(frozen=True)
class NeighbourError:
    """Test errors of one nearest-neighbour rule.

    Args:
        name: The feature map (and k), for the report.
        errors: Wrong predictions.
        trials: Test examples.
        neighbours: k; only k = 1 has a lower bound.
    """

    name: str
    errors: int
    trials: int
    neighbours: int = 1


@dataclass(frozen=True)
class BayesErrorBracket:
    """A bracket chosen among several rules, and the rules that gave its ends."""

    interval: Interval
    lowest_by: str
    highest_by: str


def tightest_bracket(
    measured: Sequence[NeighbourError], classes: int, confidence: float = 0.95
) -> BayesErrorBracket:
    """The best bracket over feature maps and numbers of neighbours.

    The upper end is the least of the rules' upper limits: each is the error of an actual classifier, so each bounds the
    Bayes error at any sample size. The lower end is the least of the 1-nearest-neighbour lower limits: a map can only
    raise the Bayes error and slow convergence, so the least is the least biased, yet still no guarantee (see the
    module). The confidence is split over the rules (Bonferroni), so choosing after looking is paid for.

    Args:
        measured: The rules; at least one with one neighbour.
        classes: Number of classes.
        confidence: Coverage of the sampling of test examples, jointly over all rules.

    Returns:
        The bracket and the rules behind its ends.

    Raises:
        SettingError: No 1-nearest-neighbour rule among them.

    Source: Rimanic, Renggli, Li & Zhang 2020; Renggli et al. 2023 (Snoopy), section 4.
    """
    single = [rule for rule in measured if rule.neighbours == 1]
    if not single:
        raise SettingError(
            "tightest_bracket needs at least one rule with neighbours=1",
            f"{len(measured)} rules",
            "Measure the 1-nearest-neighbour error too: only it has a lower bound.",
        )
    each = 1 - (1 - confidence) / len(measured)
    low, lowest = min(
        (bayes_error_interval(rule.errors, rule.trials, classes, each).low, rule.name) for rule in single
    )
    high, highest = min(
        (bayes_error_interval(rule.errors, rule.trials, classes, each).high, rule.name) for rule in measured
    )
    # With rules of different sizes the least upper limit can fall below the least lower one only by chance.
    interval = Interval(min(low, high), high, confidence, "Cover-Hart, Clopper-Pearson, least over rules")
    return BayesErrorBracket(interval, lowest, highest)


def nearest_neighbour_error(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor | None = None,
    test_y: Tensor | None = None,
    neighbours: int = 1,
    metric: Metric = "euclidean",
    memory_bytes: int = 2**28,
) -> Tensor:
    """Which test examples the k-nearest-neighbour rule gets wrong; without a test set, leave-one-out.

    Exact neighbours; equal distances go to the lower index and tied votes to the nearest of the tied labels.
    Leave-one-out examples influence each other's predictions: their mean is nearly unbiased for the error with N - 1
    examples, but a binomial interval does not strictly apply.

    Cost: one (M, d) x (d, N) product in chunks of `memory_bytes`.

    Args:
        train_x: Features (N, d).
        train_y: Labels (N,), integers from 0.
        test_x: Features (M, d); None leaves each training example out in turn.
        test_y: Labels (M,).
        neighbours: k.
        metric: "euclidean" or "cosine".
        memory_bytes: Budget for distances.

    Returns:
        Booleans (M,), true where the prediction is wrong.

    Raises:
        SettingError: Labels that do not pair up with features, or only one of `test_x` and `test_y`.
        NumericalError: NaN or infinite features.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [0.1], [1.0], [1.1]])
        >>> nearest_neighbour_error(x, torch.tensor([0, 0, 1, 0])).tolist()
        [False, False, True, True]
    """
    if (test_x is None) != (test_y is None):
        raise SettingError(
            "test_x and test_y must be given together",
            "one of them",
            "Pass both, or neither for leave-one-out.",
        )
    truth = train_y if test_y is None else test_y
    for x, y, name in ((train_x, train_y, "train"), (train_x if test_x is None else test_x, truth, "test")):
        if y.shape != (len(x),) or y.is_floating_point() or (y.numel() and int(y.min()) < 0):
            raise SettingError(
                f"{name} labels must be non-negative integers, one a row of features",
                f"labels {y.dtype} {tuple(y.shape)}, features {tuple(x.shape)}",
                "Pass class indices of shape (N,).",
            )
    if test_x is None:
        found = nearest_neighbours(train_x, None, neighbours, metric, memory_bytes)
    else:
        found = nearest_neighbours(test_x, train_x, neighbours, metric, memory_bytes)
    labels = train_y.long()[found.indices]
    predicted = labels[:, 0] if neighbours == 1 else majority_vote(labels, int(train_y.max()) + 1)
    return predicted != truth
