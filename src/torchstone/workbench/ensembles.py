"""Networks trained like the examined one that several instruments share: from other seeds, or on random subsets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchstone.errors import NotApplicableError
from torchstone.training.memorization import balanced_subsets
from torchstone.workbench.retraining import train_many
from torchstone.workbench.siblings import Siblings
from torchstone.workbench.workbench import Workbench


@dataclass(frozen=True)
class SubsetEnsemble:
    """K networks, each trained on a random subset of the training examples from a seed of its own.

    Args:
        siblings: Those whose training did not diverge.
        included: Whether each was trained on each training example, (K, N) of bool.
        share: Of the examples in each subset.
        diverged: How many were left out.
    """

    siblings: Siblings
    included: Tensor
    share: float
    diverged: int

    def __len__(self) -> int:
        return len(self.included)


def subset_ensemble(bench: Workbench, members: int = 24, share: float = 0.7) -> SubsetEnsemble:
    """Networks trained as the recipe says on random subsets that leave every example out equally often, up to one.

    Cost: `members` trainings on `share` of the data, as one where the network allows it; made once a workbench.

    Args:
        bench: Whose specimen and seed.
        members: How many.
        share: Of the training examples in each subset.

    Raises:
        NotApplicableError: The recipe does not say how to train, or fewer than two trainings stayed finite.
    """

    def make() -> SubsetEnsemble:
        generator = bench.generator("subset_ensemble")
        count = bench.specimen.size("train")
        rows = balanced_subsets(count, members, share, generator)
        siblings = train_many(bench.specimen, _seeds(members, generator), rows=rows)
        included = torch.zeros(members, count, dtype=torch.bool).scatter_(1, rows, True)
        kept, finite = _finite(siblings)
        return SubsetEnsemble(kept, included[finite], share, members - len(finite))

    return bench.memo(("subset_ensemble", members, share), make)


def seed_ensemble(bench: Workbench, members: int = 10) -> Siblings:
    """Networks trained as the recipe says on all training examples, from other seeds; those that diverged are left out.

    Cost: `members` trainings, as one where the network allows it; made once a workbench.

    Args:
        bench: Whose specimen and seed.
        members: How many.

    Raises:
        NotApplicableError: The recipe does not say how to train, or fewer than two trainings stayed finite.
    """

    def make() -> Siblings:
        seeds = _seeds(members, bench.generator("seed_ensemble"))
        return _finite(train_many(bench.specimen, seeds))[0]

    return bench.memo(("seed_ensemble", members), make)


def _seeds(members: int, generator: torch.Generator) -> list[int]:
    return torch.randint(2**31, (members,), generator=generator).tolist()


def _finite(siblings: Siblings) -> tuple[Siblings, Tensor]:
    """The networks whose training stayed finite, and which they are."""
    diverged = siblings.run.diverged if siblings.run is not None else {}
    finite = torch.tensor([k for k in range(len(siblings)) if k not in diverged])
    if len(finite) < 2:
        raise NotApplicableError(
            f"needs trainings that stay finite; {len(diverged)} of {len(siblings)} diverged with the recipe's settings"
        )
    if not diverged:
        return siblings, finite
    return replace(siblings, ensemble=siblings.ensemble.subset(finite), run=None), finite
