r"""Expected error of a learning algorithm split into bias, variance over training sets and variance over seeds.

The design is nested: D independent training sets, and on each M networks with seeds of their own. Every decomposition
here adds up exactly to the mean loss, and each part carries a standard error over training sets, seeds and examples.
Variance components of few groups are skewed: with 4 to 6 training sets that move all examples together, nominal 95%
intervals of `data` and `initialisation` cover about 90%, those of the bias more than 95%.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from torchstone.bounds.crossed import CrossedError, crossed_jackknife
from torchstone.errors import NumericalError, SettingError


@dataclass(frozen=True)
class Part:
    """One part of an expected loss, with its standard error over training sets and seeds, and over examples."""

    value: float
    error: CrossedError


@dataclass(frozen=True)
class BiasVariance:
    """Parts of an expected loss, which add up to it.

    Args:
        risk: Mean loss over training sets, seeds and examples.
        bias: Loss of the average prediction, noise in the targets included.
        variance: What the draw of training set and seed adds to it.
        share: Variance over risk; NaN where there is no risk. Its error is that of the ratio, linearised.
        data: Share of the variance that averaging over seeds leaves; None with one network a training set (0-1 loss: fewer
            than three, of which the most frequent prediction tells nothing).
        initialisation: Share of the variance that averaging over seeds removes; None likewise.
        draws: Number of training sets.
        seeds: Networks trained on each.
        examples: Test examples.
        per_example: The parts of each example by name, (N,).
    """

    risk: Part
    bias: Part
    variance: Part
    share: Part
    data: Part | None
    initialisation: Part | None
    draws: int
    seeds: int
    examples: int
    per_example: dict[str, Tensor]

    @property
    def parts(self) -> dict[str, Part]:
        """The finest parts that add up to the risk."""
        if self.data is None or self.initialisation is None:
            return {"bias": self.bias, "variance": self.variance}
        return {"bias": self.bias, "data": self.data, "initialisation": self.initialisation}


def squared_bias_variance(predictions: Tensor, targets: Tensor) -> BiasVariance:
    r"""Unbiased bias-variance decomposition of the squared error.

    With :math:`\bar f_d` the mean over the seeds of training set d, :math:`\bar f` the mean of all, and the mean squares
    between and within training sets :math:`B = \frac{M}{D-1}\sum_d(\bar f_d-\bar f)^2`,
    :math:`W = \frac{1}{D(M-1)}\sum_{dm}(f_{dm}-\bar f_d)^2`, each example's parts are

    .. math:: \text{bias}^2 = (\bar f - y)^2 - \tfrac{B}{DM}, \qquad \text{data} = \tfrac{B - W}{M}, \qquad
              \text{initialisation} = W,

    the unbiased estimates of :math:`(E f - y)^2`, :math:`Var_{data} E[f | data]` and :math:`E Var[f | data]` (the law of
    total variance). They add up to the mean squared error exactly, and being unbiased they may be negative.

    Noise in the targets is in the bias; subtract its variance where it is known, or pass noiseless targets.

    Cost: D + 1 passes over the predictions. Bias: none if training sets and seeds are independent; training sets that
    share examples make data too small, seeds that are shared between training sets make initialisation pass for bias.

    Args:
        predictions: (D, M, N) or (D, M, N, C): D >= 2 training sets, M >= 1 seeds, N >= 2 examples, C outputs.
        targets: (N,) or (N, C). The error of an example is averaged over its outputs.

    Returns:
        The parts with jackknife errors; their part over training sets is NaN where D = 2.

    Raises:
        SettingError: Shapes that do not pair up, too few training sets or examples.
        NumericalError: Values that are not finite.

    Example:
        >>> import torch
        >>> found = squared_bias_variance(torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]]), torch.tensor([0.0, 0.0]))
        >>> found.risk.value, found.bias.value, found.variance.value
        (4.5, 3.5, 1.0)

    Source: Geman, Bienenstock & Doursat 1992, section 3; Neal et al. 2018, section 3.3 (law of total variance); Searle,
    Casella & McCulloch 1992, section 3.6 (variance components of a nested design).
    """
    given = predictions[..., None] if predictions.ndim == 3 else predictions
    aims = targets[..., None] if targets.ndim == 1 else targets
    if given.ndim != 4 or aims.shape != given.shape[2:]:
        raise SettingError(
            "predictions must have shape (D, M, N, C) and targets (N, C), or both without C",
            f"{tuple(predictions.shape)} and {tuple(targets.shape)}",
            "Stack training sets first, then seeds.",
        )
    aims = aims.double().cpu()

    def statistic(table: Tensor) -> Tensor:
        draws, seeds = table.shape[:2]
        of_set = table.mean(1)
        between = of_set.var(0)  # B / M
        within = table.var(1).mean(0) if seeds > 1 else torch.zeros_like(between)
        bias = (of_set.mean(0) - aims).square() - between / draws
        parts = torch.stack([bias, between - within / seeds, within])
        return parts.mean(-1)

    return _decomposed(_checked(given, aims), statistic)


def cross_entropy_bias_variance(scores: Tensor, labels: Tensor) -> BiasVariance:
    r"""Bias-variance decomposition of the cross-entropy.

    For scores z with :math:`\log p = z - A(z)`, :math:`A = \log\sum\exp`, the average prediction is the normalised
    geometric mean :math:`\bar p \propto \exp E \log p`, the one whose divergence from all is least, and

    .. math:: E[-\log p_y] = -\log \bar p_y + E\,KL(\bar p \,\|\, p), \qquad E\,KL(\bar p\|p) = E A(z) - A(E z).

    The variance splits as the gaps of A telescope: initialisation is :math:`E_d[E_m A(z) - A(E_m z)]` and data is
    :math:`E_d A(E_m z) - A(E z)`. A is no polynomial, so no unbiased estimate exists; A(E z) is corrected by leaving out
    one training set, and A(E_m z) by leaving out one seed, at a time, which leaves a bias of order D^-2 and M^-2. The sum is
    the mean loss exactly.

    Cost: (D + 1)^2 passes over the scores.

    Args:
        scores: Logits or log-probabilities (D, M, N, C): D >= 3 training sets, M >= 1 seeds, N >= 2 examples.
        labels: Class indices (N,), or probabilities (N, C), whose entropy is then in the bias.

    Returns:
        The parts, in nats, with jackknife errors.

    Raises:
        SettingError: Shapes that do not pair up, labels out of range, fewer than two training sets.
        NumericalError: Scores that are not finite.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 0.0]])[:, None, None].expand(3, 1, 2, 2)
        >>> found = cross_entropy_bias_variance(scores, torch.tensor([0, 1]))
        >>> round(abs(found.bias.value + found.variance.value - found.risk.value), 12)
        0.0

    Source: Yang et al. 2020, section 2.2; Heskes 1998; Adlam, Gupta, Mariet & Smith 2022 (Bregman divergences: law of
    total variance).
    """
    given = _checked_scores(scores)
    aims = _probabilities(labels, given.shape[2], given.shape[3])

    def statistic(table: Tensor) -> Tensor:
        of_set = table.mean(1)
        mean = of_set.mean(0)
        lse = lambda z: torch.logsumexp(z, -1)
        single, seeds = lse(table).mean((0, 1)), table.shape[1]
        middle = single if seeds == 1 else _corrected(table.transpose(0, 1), lse).mean(0)
        last = _corrected(of_set, lse)
        bias = last - (aims * mean).sum(-1)
        return torch.stack([bias, middle - last, single - middle])

    return _decomposed(given, statistic)


def zero_one_bias_variance(predictions: Tensor, labels: Tensor) -> BiasVariance:
    r"""Domingos' bias-variance decomposition of the share of wrong predictions.

    The main prediction is the most frequent one. The bias is its error; the variance counts with a sign: where the main
    prediction is right, deviating from it costs, where it is wrong, deviating to the label gains, so the variance here is
    Domingos' *net* variance :math:`E[c_2 V]` and may be negative. It splits by the main prediction of each training set:
    data is the mean error of those minus the bias, initialisation the rest. `per_example` also holds the plain deviation
    from the main prediction under "unbiased variance" and "biased variance", of the examples where the main prediction is
    right and wrong.

    Classes that tie for the main prediction count in equal shares. Labels are taken as free of noise.

    Cost: D + 1 counts of votes. Bias: the main prediction of few networks is a plug-in; where votes are close the bias part
    is too large for few training sets. The sum is the error rate exactly.

    Args:
        predictions: Predicted classes (D, M, N): D >= 2 training sets, M >= 1 seeds, N >= 2 examples.
        labels: Classes (N,).

    Returns:
        The parts with jackknife errors.

    Raises:
        SettingError: Shapes that do not pair up, classes that are no whole numbers from 0, too few training sets.

    Example:
        >>> import torch
        >>> found = zero_one_bias_variance(torch.tensor([[[0, 1]], [[0, 0]], [[1, 0]]]), torch.tensor([0, 0]))
        >>> round(found.risk.value, 4), found.bias.value, round(found.variance.value, 4)
        (0.3333, 0.0, 0.3333)

    Source: Domingos 2000, theorem 2 and section 3 (c2 = -P(label | other than main) where the main prediction is wrong).
    """
    whole = [not t.is_floating_point() and t.numel() > 0 and int(t.min()) >= 0 for t in (predictions, labels)]
    if predictions.ndim != 3 or labels.shape != predictions.shape[2:] or not all(whole):
        raise SettingError(
            "predictions must be classes (D, M, N) and labels classes (N,), whole numbers from 0",
            f"{predictions.dtype} {tuple(predictions.shape)} and {labels.dtype} {tuple(labels.shape)}",
            "Take the argmax of the scores.",
        )
    predictions, labels = predictions.cpu().long(), labels.cpu().long()
    classes = 1 + int(max(predictions.max(), labels.max()))
    votes = _checked(one_hot(predictions, classes), labels)
    right = one_hot(labels, classes).bool()

    def error(shares: Tensor) -> Tensor:
        return 1 - shares.masked_fill(~right, 0).sum(-1)

    def statistic(table: Tensor) -> Tensor:
        bias = error(_main(table.mean((0, 1))))
        middle = error(_main(table.mean(1))).mean(0)
        return torch.stack([bias, middle - bias, error(table).mean((0, 1)) - middle])

    found = _decomposed(votes, statistic, split=votes.shape[1] > 2)
    main = _main(votes.mean((0, 1)))
    away = 1 - (main * votes.mean((0, 1))).sum(-1)
    biased = error(main)
    found.per_example.update({"unbiased variance": away * (1 - biased), "biased variance": away * biased})
    return found


def _decomposed(table: Tensor, statistic: Callable[[Tensor], Tensor], split: bool = True) -> BiasVariance:
    """Evaluate bias, data and initialisation parts (3, N), with their sums and all error bars."""
    draws, seeds, examples = table.shape[:3]

    def with_sums(some: Tensor) -> Tensor:
        bias, data, initialisation = statistic(some)
        return torch.stack([bias + data + initialisation, bias, data + initialisation, data, initialisation])

    names = ("risk", "bias", "variance", "data", "initialisation")
    whole = with_sums(table)
    risk, variance = float(whole[0].mean()), float(whole[2].mean())
    share = variance / risk if risk else math.nan

    def with_share(some: Tensor) -> Tensor:
        sums = with_sums(some)
        # The ratio moves as (variance - share * risk) / risk does.
        return torch.cat([sums, (sums[2] - share * sums[0])[None] / (risk or math.nan)])

    found = [Part(*pair) for pair in crossed_jackknife(table, with_share, leave_out=draws > 2)]
    parts: dict[str, Part] = dict(zip(names, found[:-1], strict=True))
    alone = seeds == 1 or not split
    values: dict[str, Tensor] = dict(zip(names, whole, strict=True))
    if alone:
        del values["data"], values["initialisation"]
    return BiasVariance(
        risk=parts["risk"],
        bias=parts["bias"],
        variance=parts["variance"],
        share=Part(share, found[-1].error),
        data=None if alone else parts["data"],
        initialisation=None if alone else parts["initialisation"],
        draws=draws,
        seeds=seeds,
        examples=examples,
        per_example=values,
    )


def _corrected(draws: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of the mean of draws (D, ...), corrected for bias by the jackknife."""
    count = len(draws)
    mean = draws.mean(0)
    without = (count * mean - draws) / (count - 1)
    return count * function(mean) - (count - 1) * function(without).mean(0)


def _main(shares: Tensor) -> Tensor:
    """The classes of the most votes, in equal shares."""
    best = shares >= shares.amax(-1, keepdim=True) - 1e-12
    return best.double() / best.sum(-1, keepdim=True)


def _checked(table: Tensor, targets: Tensor) -> Tensor:
    if len(table) < 2 or table.shape[1] < 1 or table.shape[2] < 2 or not table.shape[3]:
        raise SettingError(
            "A decomposition needs at least 2 training sets, 1 seed, 2 examples and 1 output",
            f"shape {tuple(table.shape)}",
            "Train on more training sets; with one training set, pass its seeds as D.",
        )
    if not (bool(torch.isfinite(table).all()) and bool(torch.isfinite(targets).all())):
        raise NumericalError(
            "A decomposition needs finite predictions and targets",
            "NaN or infinity",
            "Leave out networks that diverged, and say so.",
        )
    return table.detach().double().cpu()


def _checked_scores(scores: Tensor) -> Tensor:
    if scores.ndim != 4:
        raise SettingError(
            "scores must have shape (D, M, N, C)", f"{tuple(scores.shape)}", "Stack training sets first."
        )
    # Log-probabilities: the loss is then minus the label's entry, whatever was added to all scores.
    return _checked(scores, scores.new_zeros(())).log_softmax(-1)


def _probabilities(labels: Tensor, count: int, classes: int) -> Tensor:
    if labels.shape == (count,) and not labels.is_floating_point():
        if int(labels.min()) >= 0 and int(labels.max()) < classes:
            return one_hot(labels.cpu().long(), classes).double()
    elif labels.shape == (count, classes) and labels.is_floating_point():
        shares = labels.detach().double().cpu()
        if bool((shares >= 0).all()) and torch.allclose(shares.sum(1), torch.ones(()).double(), atol=1e-6):
            return shares
    raise SettingError(
        f"labels must be {count} classes below {classes}, or probabilities ({count}, {classes})",
        f"{labels.dtype} of shape {tuple(labels.shape)}",
        "Pass class indices.",
    )
