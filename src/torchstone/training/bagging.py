r"""Bagging: the mean of networks trained on resampled data, and its error on what each of them has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from torchstone.bounds.interval import Interval
from torchstone.bounds.mean import mean_interval
from torchstone.bounds.proportion import clopper_pearson
from torchstone.errors import SettingError
from torchstone.training.evaluation import PerExample
from torchstone.training.fit_many import TrainedMany, fit_many

Predict = Callable[[Tensor], Tensor]
"""From outputs (..., C) to what is averaged, such as `lambda z: z.softmax(-1)`."""


def bootstrap_rows(
    examples: int, members: int, generator: torch.Generator
) -> Int[Tensor, "members examples"]:
    """Rows of bootstrap samples, drawn with replacement: each example is left out with probability about 1/e.

    Raises:
        SettingError: No examples or no members.

    Source: Breiman 1996.
    """
    _check_sizes(examples, members, examples)
    return torch.randint(examples, (members, examples), generator=generator)


def subsample_rows(
    examples: int, members: int, size: int, generator: torch.Generator
) -> Int[Tensor, "members size"]:
    """Rows of subsamples, drawn without replacement ("subagging"); half of the examples behaves much like a bootstrap.

    Raises:
        SettingError: No examples or no members, or a size that leaves nothing out.

    Source: Buhlmann & Yu 2002, section 3.
    """
    _check_sizes(examples, members, size)
    if size >= examples:
        raise SettingError(
            f"A subsample must be smaller than the {examples} examples", str(size), "Use half of them."
        )
    return torch.stack([torch.randperm(examples, generator=generator)[:size] for _ in range(members)])


def out_of_bag(rows: Sequence[Tensor] | Tensor, examples: int) -> Bool[Tensor, "members examples"]:
    """Which examples each member has not been trained on.

    >>> out_of_bag(torch.tensor([[0, 0, 2]]), 4).tolist()
    [[False, True, False, True]]
    """
    mask = torch.ones(len(rows), examples, dtype=torch.bool)
    for member, some in enumerate(rows):
        mask[member, some.cpu()] = False
    return mask


def out_of_bag_mean(predictions: Tensor, mask: Bool[Tensor, "members examples"]) -> Tensor:
    """Mean over the members that have not seen an example; NaN where every member has.

    Args:
        predictions: (K, N, ...).
        mask: (K, N), from `out_of_bag`.

    Returns:
        (N, ...) in float64.

    Raises:
        SettingError: A mask of other members or examples.
    """
    if predictions.shape[:2] != mask.shape:
        raise SettingError(
            f"The mask must be (members, examples) = {tuple(predictions.shape[:2])}",
            f"{tuple(mask.shape)}",
            "Pass out_of_bag(rows, examples) of the same rows.",
        )
    weights = mask.to(predictions.device).double().reshape(*mask.shape, *[1] * (predictions.ndim - 2))
    return (predictions.double() * weights).sum(0) / weights.sum(0)  # 0 / 0 is NaN, as promised


@dataclass(frozen=True)
class OutOfBagError:
    """The error of a bag on its own training examples, each judged by the members that have not seen it.

    Attributes:
        value: Mean over the examples that some member has not seen.
        interval: For it, over examples.
        examples: How many were judged.
        voters: Mean number of members that judged an example; the whole bag has more, and is rather better.
    """

    value: float
    interval: Interval
    examples: int
    voters: float


@dataclass(frozen=True)
class Bag:
    """Networks trained on resampled data, and the mean of what they predict.

    Args:
        run: The members and how their training went.
        rows: Training rows of each.
        predict: From outputs to what is averaged.
    """

    run: TrainedMany
    rows: Sequence[Tensor] | Tensor
    predict: Predict

    def __len__(self) -> int:
        return len(self.run)

    def __call__(self, x: Any) -> Tensor:
        """Mean prediction of the members that did not diverge, (N, ...). Cost: a forward pass a member."""
        return self.members(x)[self.run.finite].mean(0)

    def members(self, x: Any) -> Tensor:
        """Prediction of every member, (K, N, ...)."""
        return self.predict(self.run.ensemble.outputs(x))

    def out_of_bag(self, x: Any) -> Tensor:
        """Mean prediction for each training example by those that have not seen it, (N, ...), NaN where all have.

        Args:
            x: The training inputs, in their order.
        """
        predictions = self.members(x)
        mask = out_of_bag(self.rows, predictions.shape[1]) & self.run.finite[:, None]
        return out_of_bag_mean(torch.nan_to_num(predictions), mask)

    def out_of_bag_error(
        self,
        x: Any,
        y: Tensor,
        error: Callable[[Tensor, Tensor], Tensor] | None = None,
        confidence: float = 0.95,
    ) -> OutOfBagError:
        """Error on the training examples, an estimate of the error on new ones that needs no held-out data.

        Bias: upwards, because fewer members judge an example than the bag holds, about 37% of them for bootstrap samples.
        The interval takes the examples' errors for independent: Clopper-Pearson for shares of wrong ones, else Student's.

        Args:
            x: The training inputs, in their order.
            y: Their targets (N, ...).
            error: From predictions and targets to one number an example; misclassification by default.
            confidence: Of the interval.

        Raises:
            SettingError: Fewer than two examples that some member has not seen.

        Source: Breiman 1996b, out-of-bag estimation.
        """
        predictions = self.members(x)
        mask = out_of_bag(self.rows, predictions.shape[1]) & self.run.finite[:, None]
        unseen = mask.any(0)
        if int(unseen.sum()) < 2:
            raise SettingError(
                "Two examples must be out of some member's bag", f"{int(unseen.sum())}", "Add members."
            )
        mean = out_of_bag_mean(torch.nan_to_num(predictions), mask)
        kept = unseen.to(mean.device)
        errors = (error or _misclassified)(mean[kept], y[kept]).detach().double().cpu()
        return OutOfBagError(
            float(errors.mean()),
            _interval(errors, confidence),
            int(kept.sum()),
            float(mask[:, unseen].double().sum(0).mean()),
        )


def bag(
    models: Sequence[nn.Module],
    losses: PerExample,
    x: Any,
    y: Any,
    rows: Sequence[Tensor] | Tensor,
    predict: Predict = lambda outputs: outputs,
    **recipe: Any,
) -> Bag:
    r"""Train a network on each resample, all as one, and average their predictions.

    Bagging lowers the variance of unstable predictors (hard decisions that a few examples can turn) and leaves linear ones
    as they are: for the indicator of a mean at its threshold the variance falls from 1/4 to 1/12.

    Cost: that of `fit_many`.

    Args:
        models: One initialised network for each resample; not changed.
        losses: Loss by example.
        x: Inputs (N, ...).
        y: Targets (N, ...).
        rows: From `bootstrap_rows` or `subsample_rows`.
        predict: From outputs to what is averaged: `lambda z: z.softmax(-1)` for class scores.
        **recipe: How to train, as for `fit_many`: optimizer, batch_size, generators, epochs or steps, ...

    Returns:
        The bag.

    Raises:
        SettingError: Not one row of `rows` a model; and what `fit_many` raises.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from torchstone.training.evaluation import cross_entropy
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(60, 2, generator=generator)
        >>> y = (x[:, 0] > 0).long()
        >>> forest = bag(
        ...     [nn.Linear(2, 2) for _ in range(20)], cross_entropy, x, y, bootstrap_rows(60, 20, generator),
        ...     lambda z: z.softmax(-1), batch_size=60, epochs=100,
        ...     generators=[torch.Generator().manual_seed(k) for k in range(20)],
        ...     optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        ... )
        >>> forest.out_of_bag_error(x, y).value < 0.2
        True

    Source: Breiman 1996; Buhlmann & Yu 2002.
    """
    if len(rows) != len(models):
        raise SettingError(
            f"bag needs one row of `rows` for each of {len(models)} models", str(len(rows)), "Draw as many."
        )
    return Bag(fit_many(models, losses, x, y, rows=rows, **recipe), rows, predict)


def _misclassified(predictions: Tensor, labels: Tensor) -> Tensor:
    return (predictions.argmax(-1) != labels.to(predictions.device)).double()


def _interval(errors: Tensor, confidence: float) -> Interval:
    if bool(((errors == 0) | (errors == 1)).all()):
        return clopper_pearson(int(errors.sum()), len(errors), confidence)
    return mean_interval(errors, confidence)


def _check_sizes(examples: int, members: int, size: int) -> None:
    if min(examples, members, size) < 1:
        raise SettingError(
            "Resamples need examples, members and a size of at least 1",
            f"{examples}, {members}, {size}",
            "Raise them.",
        )
