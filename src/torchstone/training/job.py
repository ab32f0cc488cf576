"""What `fit_many` was asked for, as its two ways of training take it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchstone.training.ensemble import Ensemble
from torchstone.training.evaluation import PerExample
from torchstone.training.member_data import MemberData
from torchstone.training.optimizers import OptimizerFactory
from torchstone.training.presentation import Penalty


@dataclass(frozen=True)
class Job:
    """All that `fit_many` was asked for, checked; see there."""

    models: Sequence[nn.Module]
    losses: PerExample
    data: MemberData
    optimizer: OptimizerFactory
    batch_size: int
    generators: Sequence[torch.Generator]
    budgets: Sequence[int]
    lr_factors: Tensor | None
    weight_decay: Tensor | None
    scheduler: Any
    penalty: Penalty | None
    ledger: PerExample | None
    on_epoch: Callable[[int, int, Tensor, Tensor, Ensemble], dict[str, Tensor]] | None
    on_progress: Callable[[int], None]
    compiled: bool = False

    @property
    def device(self) -> torch.device:
        """Where the data are."""
        return tree_leaves(self.data.x)[0].device
