r"""Memorisation and influence: what changes when a training example is left out, from networks trained on subsets.

With A(S) a network trained on S,

.. math:: \mathrm{mem}(i) = P[A(S)(x_i) = y_i] - P[A(S \setminus i)(x_i) = y_i], \qquad
          \mathrm{infl}(i, j) = P[A(S)(x'_j) = y'_j] - P[A(S \setminus i)(x'_j) = y'_j].

Leaving out examples one by one would take N times many trainings. Networks trained on random subsets of size m estimate
all of them at once: example i is held by some and not by others, and the two groups' accuracies are compared. This
estimates the same quantities at sample size m, averaged over the other examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError


@dataclass(frozen=True)
class LeaveOutScores:
    """A difference of two accuracies for each training example, or for each pair of a training and a test example.

    Args:
        score: Accuracy of the networks that held the training example minus that of the others, in [-1, 1].
        standard_error: Of the score over trainings, never 0.
        held: How many networks held each training example, (N,).
        left_out: How many did not, (N,).
    """

    score: Tensor
    standard_error: Tensor
    held: Tensor
    left_out: Tensor


def balanced_subsets(count: int, members: int, share: float, generator: torch.Generator) -> Tensor:
    """Random subsets of equal size that leave every example out equally often, up to one.

    Each subset alone is uniform among those of its size. Independent subsets would leave some example out in no
    member at all, and its scores without a comparison; equal numbers also lower the variance of the scores.

    Args:
        count: N.
        members: K.
        share: Of the examples in each subset; the size is rounded.
        generator: On the CPU.

    Returns:
        Increasing row numbers, (K, m).

    Raises:
        SettingError: A share that leaves nothing in or out, or fewer than one member.

    Example:
        >>> import torch
        >>> rows = balanced_subsets(10, 5, 0.8, torch.Generator().manual_seed(0))
        >>> rows.shape, torch.bincount(rows.flatten()).tolist()
        (torch.Size([5, 8]), [4, 4, 4, 4, 4, 4, 4, 4, 4, 4])
    """
    out = count - round(share * count) if math.isfinite(share) else 0
    if not 0 < out < count or members < 1:
        raise SettingError(
            f"share must leave some of {count} examples in and some out, for at least one member",
            f"share={share}, {members} members",
            "Use for example share=0.7.",
        )
    held = torch.ones(members, count, dtype=torch.bool)
    queue = torch.randperm(count, generator=generator)
    for k in range(members):
        if len(queue) < out:
            # What is still due in this round goes first; the rest comes from the next one.
            fresh = torch.randperm(count, generator=generator)
            due = torch.isin(fresh, queue)
            needed = out - len(queue)
            queue = torch.cat(
                [queue, fresh[~due][:needed], _shuffled(fresh, fresh[~due][:needed], generator)]
            )
        held[k, queue[:out]] = False
        queue = queue[out:]
    return held.nonzero()[:, 1].reshape(members, count - out)


def _shuffled(all_of_them: Tensor, taken: Tensor, generator: torch.Generator) -> Tensor:
    rest = all_of_them[~torch.isin(all_of_them, taken)]
    return rest[torch.randperm(len(rest), generator=generator)]


def memorization(correct: Tensor, included: Tensor) -> LeaveOutScores:
    r"""How much more often each training example is right when it was trained on.

    Bias: none for networks trained on m of N examples. Variance: that of two proportions; the standard error
    :math:`\sqrt{\tilde p_1 (1 - \tilde p_1) / (k_1 - 1) + \tilde p_0 (1 - \tilde p_0) / (k_0 - 1)}` takes proportions with one success and one failure
    added, so that it stays honest where all networks agree: from 24 networks two of them cover about 95% for accuracies
    in the middle, and more near 0 and 1.

    Args:
        correct: Whether network k is right on training example i, (K, N) of 0 and 1, or probabilities of being right.
        included: Whether it was trained on it, (K, N) of bool.

    Returns:
        Scores (N,); NaN where every network, or none, held the example. The standard error is infinite for groups of one.

    Raises:
        SettingError: Shapes that do not fit, or values outside [0, 1].

    Example:
        >>> import torch
        >>> correct = torch.tensor([[1, 1], [1, 1], [0, 1], [0, 1]])  # example 0 is right only where it was seen
        >>> seen = torch.tensor([[True, False], [True, True], [False, True], [False, False]])
        >>> memorization(correct, seen).score.tolist()
        [1.0, 0.0]

    Source: Feldman & Zhang 2020, section 2 and algorithm 1; the added success and failure after Agresti & Caffo 2000.
    """
    values, held = _checked(correct, included, correct.shape[-1])
    held_count = held.sum(0)
    return _difference(
        (values * held).sum(0), held_count, (values * (1 - held)).sum(0), len(held) - held_count
    )


def influence(correct: Tensor, included: Tensor) -> LeaveOutScores:
    """How much more often each test example is right when a training example was trained on, for all pairs.

    Cost: one product of an (N, K) and a (K, M) matrix. Memory: two (N, M) matrices.

    Args:
        correct: Whether network k is right on test example j, (K, M).
        included: Whether it was trained on training example i, (K, N) of bool.

    Returns:
        Scores (N, M); as for `memorization`.

    Raises:
        SettingError: Shapes that do not fit, or values outside [0, 1].

    Source: Feldman & Zhang 2020, section 2.
    """
    values, held = _checked(correct, included, included.shape[-1])
    with_it = held.T @ values
    counts = held.sum(0)[:, None]
    scores = _difference(with_it, counts, values.sum(0) - with_it, len(held) - counts)
    return LeaveOutScores(scores.score, scores.standard_error, scores.held[:, 0], scores.left_out[:, 0])


@dataclass(frozen=True)
class ChanceOfPairs:
    """How many pairs pass a threshold, and how many would if nobody influenced anybody.

    Args:
        found: Pairs at or above the threshold.
        by_chance: Mean number under permutations.
        most_by_chance: Largest number met under them.
    """

    found: int
    by_chance: float
    most_by_chance: int

    @property
    def false_share(self) -> float:
        """Estimated share of chance among the pairs found, at most 1; NaN where none was found."""
        return min(1.0, self.by_chance / self.found) if self.found else math.nan


def chance_of_pairs(
    correct: Tensor, included: Tensor, threshold: float, generator: torch.Generator, permutations: int = 10
) -> ChanceOfPairs:
    """Among all pairs some look influential by chance: count them with the networks' subsets dealt out anew.

    Exact under the hypothesis that no training example influences any test example, where the subsets are exchangeable
    between networks.

    Cost: `permutations` times that of `influence`.

    Args:
        correct: (K, M), as for `influence`.
        included: (K, N).
        threshold: Least influence that counts.
        generator: On the CPU.
        permutations: How often the subsets are dealt out.

    Raises:
        SettingError: As `influence`, or no permutation.
    """
    if permutations < 1:
        raise SettingError("permutations must be at least 1", str(permutations), "Use 10 or more.")

    def passing(subsets: Tensor) -> int:
        return int((influence(correct, subsets).score >= threshold).sum())

    met = [passing(included[torch.randperm(len(included), generator=generator)]) for _ in range(permutations)]
    return ChanceOfPairs(passing(included), sum(met) / permutations, max(met))


def _checked(correct: Tensor, included: Tensor, examples: int) -> tuple[Tensor, Tensor]:
    fits = correct.ndim == included.ndim == 2 and len(correct) == len(included) > 0
    if not fits or included.shape[1] != examples or included.dtype != torch.bool:
        raise SettingError(
            "correct must have shape (K, ...) and included (K, N) of bool, for the same K networks and examples",
            f"shapes {tuple(correct.shape)} and {tuple(included.shape)} of {included.dtype}",
            "Pass one row for each network.",
        )
    values = correct.double()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise SettingError(
            "correct must hold numbers from 0 to 1",
            f"{float(values.min())} to {float(values.max())}",
            "Pass 1 where the network is right, else 0.",
        )
    return values, included.double()


def _difference(in_sum: Tensor, in_count: Tensor, out_sum: Tensor, out_count: Tensor) -> LeaveOutScores:
    score = in_sum / in_count - out_sum / out_count
    variance = torch.zeros_like(score)
    for total, count in ((in_sum, in_count), (out_sum, out_count)):
        smooth = (total + 1) / (count + 2)
        variance = variance + smooth * (1 - smooth) / (count - 1).clamp(min=0)
    known = (in_count > 0) & (out_count > 0)
    error = torch.where(known, variance.sqrt(), torch.inf)
    return LeaveOutScores(score, error, in_count.long(), out_count.long())
