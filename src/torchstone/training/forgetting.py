"""Forgetting events: examples that were classified rightly when last presented and no longer are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError


@dataclass(frozen=True)
class Forgetting:
    """What a record of presentations says of each example, averaged over runs where there are several.

    Args:
        events: Forgetting events of each run, (K, N); those of an example that was never learned are 0 here.
        learned: Whether it was ever classified rightly, (K, N) of bool.
        first_learned: Presentation, from 0, at which it was first right, (K, N); -1 where it never was.
        presentations: How often it was presented, (K, N).
    """

    events: Tensor
    learned: Tensor
    first_learned: Tensor
    presentations: Tensor

    @property
    def unforgettable(self) -> Tensor:
        """Learned and never forgotten, (K, N) of bool."""
        return self.learned & (self.events == 0)

    @property
    def counts(self) -> Tensor:
        """Events with never learned counted as one more than any record of that length can hold, (K, N), float64.

        T presentations hold at most floor(T/2) events, so that never learned is floor(T/2) + 1.
        """
        most = self.presentations // 2 + 1
        return torch.where(self.learned, self.events, most).double()

    @property
    def score(self) -> Tensor:
        """How hard each example is, (N,), float64: mean count over runs, ties parted by how late it was first learned.

        The second part is in [0, 1) and divided by the number of runs, so that it never outweighs one event in one run.
        NaN where an example was presented in no run.
        """
        seen = self.presentations > 0
        late = torch.where(self.learned, self.first_learned, self.presentations).double()
        late /= self.presentations.clamp(min=1) + 1
        runs = seen.sum(0)
        mean = lambda values: torch.where(seen, values, 0.0).sum(0) / runs
        return mean(self.counts) + mean(late) / runs

    def ranking(self, generator: torch.Generator | None = None) -> Tensor:
        """Rows from the least to the most forgotten, (N,); those never presented come last.

        Args:
            generator: Orders ties at random; without one they stay in the data's order.
        """
        score = self.score.nan_to_num(nan=torch.inf)
        if generator is None:
            return score.argsort(stable=True)
        mixed = torch.randperm(len(score), generator=generator)
        return mixed[score[mixed].argsort(stable=True)]


def count_forgetting(correct: Tensor) -> Forgetting:
    """Count the forgetting events of a record of presentations.

    With a_t in {0, 1} whether an example was right at its t-th presentation (just before the update), a forgetting event
    is a_t = 1, a_(t+1) = 0. Presentations that are missing (NaN) are skipped: the next one is compared with the last
    there was. The first presentation can be no event.

    Args:
        correct: 1 where right, 0 where wrong, NaN where not presented: (T, N), or (K, T, N) of K runs. T is the number
            of presentations. A ledger of errors is 1 - correct.

    Returns:
        Counts of each run, (K, N).

    Raises:
        SettingError: Another shape, no presentation, or values other than 0, 1 and NaN.

    Example:
        >>> import torch
        >>> record = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.0]])  # 4 presentations of 3 examples
        >>> found = count_forgetting(record)
        >>> found.events.tolist(), found.learned.tolist(), found.first_learned.tolist()
        ([[1, 1, 0]], [[True, True, False]], [[1, 0, -1]])

    Source: Toneva, Sordoni, Tachet des Combes, Trischler, Bengio & Gordon 2019, section 3 and algorithm 1.
    """
    record = _checked(correct)
    runs, _, count = record.shape
    events, presentations = (torch.zeros(runs, count, dtype=torch.long) for _ in range(2))
    first = torch.full((runs, count), -1)
    last = torch.zeros(runs, count, dtype=torch.bool)
    for now in record.unbind(1):
        seen, right = ~now.isnan(), now == 1
        events += last & seen & ~right
        first = torch.where((first < 0) & right, presentations, first)
        last = torch.where(seen, right, last)
        presentations += seen
    return Forgetting(events, first >= 0, first, presentations)


def from_ledger(ledger: Tensor) -> Forgetting:
    """Counts that were kept as one number an example: its events, or -1 where it was never learned.

    How often it was presented and when it was first learned are not in such a ledger: never learned then counts as one
    event more than the most forgotten example, and ties stay.

    Args:
        ledger: (N,) whole numbers, as `torchstone.watching` keeps them.

    Raises:
        SettingError: Another shape or other numbers.

    Example:
        >>> import torch
        >>> from_ledger(torch.tensor([0, 2, -1])).counts.tolist()
        [[0.0, 2.0, 3.0]]
    """
    values = torch.as_tensor(ledger).detach().cpu().double()
    whole = bool(((values >= -1) & (values == values.round()) & values.isfinite()).all())
    if values.ndim != 1 or not len(values) or not whole:
        raise SettingError(
            "A ledger of forgetting holds one whole number of events an example, -1 where it was never learned",
            f"shape {tuple(values.shape)}" if values.ndim != 1 or not len(values) else "other numbers",
            "Pass the ledger that watching keeps.",
        )
    events, learned = values.clamp(min=0).long()[None], (values >= 0)[None]
    return Forgetting(events, learned, learned.long() - 1, (2 * events.max()).clamp(min=1).expand_as(events))


def _checked(correct: Tensor) -> Tensor:
    record = torch.as_tensor(correct).detach().cpu().double()
    record = record[None] if record.ndim == 2 else record
    if record.ndim != 3 or 0 in record.shape:
        raise SettingError(
            "A record of presentations has shape (T, N) or (K, T, N), at least one of each",
            f"shape {tuple(correct.shape)}",
            "Stack one row of N results for each pass over the data.",
        )
    strange = ~((record == 0) | (record == 1) | record.isnan())
    if bool(strange.any()):
        raise SettingError(
            "A record of presentations holds 1 (right), 0 (wrong) and NaN (not presented)",
            f"{float(record[strange][0]):g}",
            "Compare predictions with labels first.",
        )
    return record


def separation(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counting half.

    Args:
        scores: (N,).
        positive: Which are to score high, (N,) of bool.

    Returns:
        In [0, 1]; NaN where one of the two groups is empty.

    Example:
        >>> import torch
        >>> separation(torch.tensor([3.0, 1.0, 2.0, 2.0]), torch.tensor([True, False, True, False]))
        0.875
    """
    order = scores.double().unique(return_inverse=True, return_counts=True)
    before = order[2].cumsum(0) - order[2]
    ranks = (before + (order[2] + 1) / 2)[order[1]].double()
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return float("nan")
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))
