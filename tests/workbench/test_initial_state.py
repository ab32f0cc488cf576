"""The network before training."""

from __future__ import annotations

import torch
from torch import nn

from torchstone.objectives import Classification
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.workbench.initial_state import at_initialisation


def specimen(recipe: Recipe | None) -> Specimen:
    return Specimen(
        nn.Linear(3, 2), Classification(), (torch.ones(4, 3), torch.tensor([0, 1, 0, 1])), recipe=recipe
    )


def test_the_copy_has_the_initial_weights_and_the_network_keeps_its_own() -> None:
    state = {"weight": torch.full((2, 3), 5.0), "bias": torch.zeros(2), "other": torch.ones(1)}
    one = specimen(Recipe(initial_state=state))
    before = one.trainable["weight"].clone()
    start, notes = at_initialisation(one)
    assert start is not None
    assert notes == ()
    assert torch.equal(start.trainable["weight"], state["weight"])
    assert torch.equal(one.trainable["weight"], before)
    assert start.passes is one.passes  # so that its cost is counted


def test_why_there_is_none() -> None:
    assert "initial_state=" in at_initialisation(specimen(None))[1][0]
    assert "initial_state=" in at_initialisation(specimen(Recipe()))[1][0]
    wrong = Recipe(initial_state={"weight": torch.ones(9)})
    start, (note,) = at_initialisation(specimen(wrong))
    assert start is None
    assert "does not fit the network (weight)" in note
