"""The data that a watcher measures on, from whatever it was given."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.errors import SettingError
from torchstone.objectives import Classification, Objective, Regression
from torchstone.plan import Plan
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.specimen.processes import Processes
from torchstone.workbench import Workbench

EXAMPLES = 128


def probe(
    data: Any,
    model: nn.Module,
    optimizer: Optimizer,
    objective: Objective | None,
    batch_size: int | None,
    examples: int = EXAMPLES,
    seed: int = 0,
) -> Workbench | None:
    """A bench with at most `examples` training and test examples, on the live model and optimiser.

    Args:
        data: A specimen, a batch (inputs, targets) or None.
        model: The model that trains; a specimen's own model is replaced by it.
        optimizer: Its optimiser, whose rule the stability edge is computed for.
        objective: For a batch; by default `Classification` for whole-number targets and `Regression` for others.
        batch_size: Examples of a training batch, for what noise means.
        examples: At most this many of each part.
        seed: Draws them.

    Raises:
        SettingError: A batch whose objective cannot be told.
        TorchstoneError: The specimen cannot be examined.
    """
    if data is None:
        return None
    if isinstance(data, Specimen):
        specimen = copy.copy(data)
        specimen.model = model
        # Each process decides by its own clock when to measure, so that none may wait for another.
        specimen.processes = Processes()
        for cached in ("trainable", "device", "dtype"):
            specimen.__dict__.pop(cached, None)
    else:
        specimen = Specimen(model, objective or _objective(data), data)
    recipe = specimen.recipe or Recipe()
    specimen.recipe = replace(
        recipe, optimizer=optimizer, lr=None, momentum=None, batch_size=batch_size or recipe.batch_size
    )
    plan = replace(Plan.named("quick"), train_examples=max(2, examples), test_examples=max(2, examples))
    return Workbench.on(specimen, plan, seed)


def _objective(data: Any) -> Objective:
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[1], Tensor):
        whole = not data[1].is_floating_point() and data[1].dtype != torch.bool
        return Classification() if whole and data[1].ndim == 1 else Regression()
    raise SettingError(
        "A probe is a Specimen or a batch (inputs, targets)",
        type(data).__name__,
        "Pass objective=..., or a Specimen.",
    )
