"""The network a remedy would give: an untrained copy with the changes made, and what was changed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from torchstone.batches import Batch
from torchstone.errors import RemedyError, SpecimenError, TorchstoneError, blaming
from torchstone.landscape.batch_statistics import batch_norms, recomputed_statistics
from torchstone.mending.initialising import initialise
from torchstone.mending.normalising import normalise
from torchstone.mending.observing import Call, running
from torchstone.mending.shortcuts import add_shortcuts
from torchstone.mending.trial import Trial
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen, keeping_random_states
from torchstone.workbench.retraining import untrained


@dataclass(frozen=True, eq=False)
class Mended:
    """Two networks to compare on the same data.

    Attributes:
        trial: What was tried.
        before: A specimen with the untrained network.
        after: The same with the changes made. Weights that the remedy does not set are those of `before`.
        changes: What was done, by the name of the module or parameter.
        named: Parameters of `after` by their names in `before`.
        start: Where the weights of `before` come from, as a sentence.
    """

    trial: Trial
    before: Specimen
    after: Specimen
    changes: Mapping[str, str]
    named: Mapping[str, nn.Parameter]
    start: str


def mended(specimen: Specimen, remedy: str | Trial, generator: torch.Generator) -> Mended:
    """Apply a remedy to an untrained copy of a specimen's network; the specimen and its model are left alone.

    The untrained network is what `recipe.build` makes, else the model with `recipe.initial_state`, else a copy of the
    model as it is. Shortcuts come first, then normalisation, then the initialisation. Where batch normalisation was not
    trained, its running statistics are those of the training data.

    Cost: a few forward passes over one batch; with batch normalisation one over the training data.

    Args:
        specimen: What is examined.
        remedy: For example "init=orthogonal,norm=layer"; see `Trial`.
        generator: Draws initial weights.

    Returns:
        Both networks and what was changed.

    Raises:
        RemedyError: The remedy is not known, or cannot be applied to this model.
        SpecimenError: `recipe.build` fails, or the model cannot be copied.

    >>> from torchstone import Classification
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> data = torch.randn(9, 4, generator=torch.Generator()), torch.arange(9) % 3
    >>> found = mended(Specimen(model, Classification(), data), "norm=layer", torch.Generator())
    >>> [type(module).__name__ for module in found.after.model[0]], found.changes
    (['Linear', 'LayerNorm'], {'0': 'LayerNorm behind it'})
    """
    trial = Trial.parse(remedy) if isinstance(remedy, str) else remedy
    with keeping_random_states():
        first, start = _start(specimen, generator)
        batch = next(specimen.batches("train"))
        other = _copied(first)
        named = dict(other.named_parameters())
        other, changes = _changed(specimen, other, trial, batch, generator)
        fresh = specimen.recipe is not None and specimen.recipe.build is not None
        before = with_model(specimen, first)
        after = with_model(specimen, other)
        for one in (before, after) if fresh else (after,):
            _set_statistics(one)
    return Mended(trial, before, after, changes, named, start)


def with_model(specimen: Specimen, model: nn.Module) -> Specimen:
    """The same data and objective with another network, and of the recipe what is true of any network."""
    other = copy.copy(specimen)
    for cached in ("trainable", "device", "dtype"):
        other.__dict__.pop(cached, None)
    other.model = model.train(specimen.model.training)
    other.objective = specimen.objective.bind(model)
    known = specimen.recipe
    if known is not None:
        rates = known.learning_rates
        other.recipe = Recipe(
            lr=rates[0] if rates else None,
            momentum=known.heavy_ball,
            batch_size=known.batch_size,
            epochs=known.epochs,
        )
    other.passes = replace(specimen.passes)
    return other


def _start(specimen: Specimen, generator: torch.Generator) -> tuple[nn.Module, str]:
    recipe = specimen.recipe
    if recipe is not None and recipe.build is not None:
        return untrained(specimen, generator), "Both start from an untrained network of recipe.build."
    model = _copied(specimen.model)
    if recipe is not None and recipe.initial_state is not None:
        with blaming(SpecimenError, "recipe.initial_state must fit the model", "Pass its state_dict()."):
            model.load_state_dict(dict(recipe.initial_state))
        return model, "Both start from recipe.initial_state, the weights before training."
    return model, (
        "Both start from the weights as given, which may be trained: pass Recipe(build=...) or "
        "Recipe(initial_state=...) to compare untrained networks."
    )


def _copied(model: nn.Module) -> nn.Module:
    with blaming(SpecimenError, "The model must be copyable to be changed", "See copy.deepcopy.", "deepcopy"):
        return copy.deepcopy(model)


def _changed(
    specimen: Specimen, model: nn.Module, trial: Trial, batch: Batch, generator: torch.Generator
) -> tuple[nn.Module, dict[str, str]]:
    call: Call = lambda network, data: specimen.objective.bind(network).outputs(network, data)
    changes: dict[str, str] = {}
    with _refusing(trial):
        if trial.norm == "none":
            model, changes = normalise(model, "none", batch, call)
        if trial.skip:
            changes |= add_shortcuts(model, trial.scale, batch, call)
        if trial.norm not in ("", "none"):
            model, done = normalise(model, trial.norm, batch, call)
            changes |= done
        with running(model):
            call(model, batch)
    if trial.init:
        changes |= initialise(model, trial.init, batch, call, generator)
    return model, changes


@contextlib.contextmanager
def _refusing(trial: Trial) -> Iterator[None]:
    """What the model's own code raises with other modules in place of its own is a refusal."""
    try:
        yield
    except TorchstoneError:
        raise
    except Exception as error:
        raise RemedyError(
            f"The model must still run with {trial}",
            f"{type(error).__name__}: {' '.join(str(error).split())}",
            "Its code uses the layers in a way that does not allow others in their place; change the code instead.",
        ) from error


def _set_statistics(specimen: Specimen) -> None:
    found = recomputed_statistics(specimen)
    buffers = dict(specimen.model.named_buffers())
    with torch.no_grad():
        for name, values in found.items():
            buffers[name].copy_(values)
    for norm in batch_norms(specimen.model).values():
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(1)
