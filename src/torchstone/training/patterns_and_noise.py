"""Measures of memorisation along a training: inequality, speed of fitting, what is learned at once, effective capacity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.training.ensemble import Ensemble
from torchstone.training.evaluation import PerExample


def gini(values: Tensor) -> Tensor:
    r"""Gini coefficient :math:`\frac{\sum_{ij} |v_i - v_j|}{2 n^2 \bar v}` of non-negative values along the last axis.

    0 where all are equal, (n - 1)/n where one has everything, NaN where all are zero.

    Args:
        values: (..., n), none negative, n >= 1.

    Returns:
        (...), float64.

    Raises:
        SettingError: No values, or one that is negative or not finite.

    Example:
        >>> import torch
        >>> gini(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 3.0]])).tolist()
        [0.0, 0.75]

    Source: Gini 1912; for loss sensitivities, Arpit et al. 2017.
    """
    count = values.shape[-1] if values.ndim else 0
    if not count or not bool(((values >= 0) & values.isfinite()).all()):
        raise SettingError(
            "gini() takes finite numbers that are not negative, at least one",
            f"shape {tuple(values.shape)}",
            "Take norms or absolute values first.",
        )
    ordered = values.double().sort(dim=-1).values
    weights = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=values.device) - count - 1
    return (ordered * weights).sum(-1) / (count * ordered.sum(-1))


def corrupt_labels(labels: Tensor, share: float, classes: int, generator: torch.Generator) -> Tensor:
    """Labels of which exactly round(share * N) are drawn anew, uniformly over all classes ("randY").

    A redrawn label can be the right one. For labels that are always wrong see `torchstone.data.label_noise`.

    Args:
        labels: Class indices (N,).
        share: In [0, 1].
        classes: Number of classes.
        generator: Where the choice comes from.

    Raises:
        SettingError: A share outside [0, 1].

    Source: Arpit et al. 2017 (randY).
    """
    rows = _some(len(labels), share, generator)
    corrupted = labels.clone()
    corrupted[rows] = torch.randint(classes, (len(rows),), generator=generator).to(labels)
    return corrupted


def corrupt_inputs(inputs: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Inputs of which round(share * N) are replaced by Gaussian noise with the data's mean and deviation ("randX").

    Args:
        inputs: (N, ...), floating point.
        share: In [0, 1].
        generator: Where the choice and the noise come from.

    Raises:
        SettingError: A share outside [0, 1].

    Source: Arpit et al. 2017 (randX); Zhang et al. 2017.
    """
    rows = _some(len(inputs), share, generator)
    noise = torch.randn((len(rows), *inputs.shape[1:]), generator=generator, dtype=torch.float64)
    corrupted = inputs.clone()
    corrupted[rows] = (inputs.double().mean() + inputs.double().std() * noise).to(inputs)
    return corrupted


def _some(count: int, share: float, generator: torch.Generator) -> Tensor:
    if not 0 <= share <= 1:
        raise SettingError("The share to corrupt must lie in [0, 1]", repr(share), "Pass for example 0.4.")
    return torch.randperm(count, generator=generator)[: round(share * count)]


def epochs_to_fit(error_by_epoch: Tensor, level: float = 0.01) -> Tensor:
    """First epoch, from 1, after which the training error is at most `level`; infinite where it never is.

    Args:
        error_by_epoch: (..., E).
        level: In [0, 1].

    Example:
        >>> import torch
        >>> epochs_to_fit(torch.tensor([[0.5, 0.2, 0.0], [0.5, 0.4, 0.3]]), 0.25).tolist()
        [2.0, inf]
    """
    reached = error_by_epoch <= level
    first = reached.to(torch.uint8).argmax(dim=-1).double() + 1
    return torch.where(reached.any(dim=-1), first, torch.inf)


def easy_example_variance(correct: Tensor) -> float:
    r"""Variance over examples of their probability to be right, from K independent trainings.

    The variance of the shares :math:`\hat p_i` holds that of the trainings too; it is taken off without bias:
    :math:`\mathrm{var}_i(\hat p_i) - \frac1n \sum_i \frac{\hat p_i (1 - \hat p_i)}{K - 1}`. Near 0 (or below, by chance)
    where no example is easier than another, at most 1/4.

    Args:
        correct: 0 or 1 for each training and example, (K, n), K >= 2, n >= 2.

    Raises:
        SettingError: Fewer trainings or examples.

    Example:
        >>> import torch
        >>> easy_example_variance(torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]]))  # two easy and two hard ones
        0.3333333333333333

    Source: Arpit et al. 2017 (easy examples after the first epoch).
    """
    if correct.ndim != 2 or min(correct.shape) < 2:
        raise SettingError(
            "easy_example_variance() needs two trainings and two examples or more",
            f"shape {tuple(correct.shape)}",
            "Train again from another seed.",
        )
    shares = correct.double().mean(0)
    return float(shares.var() - (shares * (1 - shares)).mean() / (len(correct) - 1))


def loss_sensitivity(losses: PerExample, ensemble: Ensemble, x: Tensor, y: Tensor) -> Tensor:
    r"""Mean absolute derivative of each example's loss in its input, :math:`\frac1d \|\partial L_i / \partial x_i\|_1`.

    Averaged over the updates of a training it is the loss sensitivity; the Gini coefficient over examples says whether a
    few examples are responsible for it.

    Cost: K forward and backward passes.

    Args:
        losses: Loss by example.
        ensemble: The networks.
        x: Inputs (N, ...).
        y: Targets (N, ...).

    Returns:
        (K, N), float64.

    Source: Arpit et al. 2017 (loss sensitivity).
    """
    found = []
    for k in range(len(ensemble)):
        model: nn.Module = ensemble.member(k)
        leaf = x.detach().clone().requires_grad_()
        total = losses(model, leaf, y).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        found.append(gradient.flatten(1).abs().mean(1).double())
    return torch.stack(found)


def effective_capacity(fitted: Tensor, sizes: Tensor) -> Tensor:
    """Largest number of examples that a training still fits: the last size before the first that is not fitted.

    Args:
        fitted: Whether each size was fitted, (..., S) of bool.
        sizes: Numbers of examples, increasing, (S,).

    Returns:
        (...), 0 where not even the smallest was.

    Example:
        >>> import torch
        >>> effective_capacity(torch.tensor([True, True, False, True]), torch.tensor([10, 20, 40, 80])).item()
        20
    """
    unbroken = fitted.to(torch.long).cumprod(dim=-1)
    return (unbroken * sizes).amax(dim=-1)
