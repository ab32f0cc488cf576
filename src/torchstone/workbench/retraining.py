"""Training a specimen's network once more, from another seed, as its recipe says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.errors import NotApplicableError, SettingError, SpecimenError, blaming
from torchstone.objectives import Objective
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.training.fit import History, OnEpoch, fit
from torchstone.training.fit_many import fit_many
from torchstone.training.optimizers import made_optimizer
from torchstone.training.presentation import Penalty
from torchstone.workbench.example_tensors import ExampleTensors, OfBatch
from torchstone.workbench.siblings import OnSiblingsEpoch, Siblings


def train_again(specimen: Specimen, seed: int) -> tuple[nn.Module, History]:
    """A network of the same kind, trained like the specimen's on the same training data.

    `recipe.build` makes it and a fresh optimiser of the recipe's kind, with the settings of each parameter group, moves
    it. The initial weights and the order of examples come from the seed. Data augmentation is not repeated.

    Cost: the recipe's epochs, each a forward and a backward pass.

    Args:
        specimen: What is examined; prepared, and never changed.
        seed: Of the new run.

    Returns:
        The network in eval mode on the specimen's device, and its history.

    Raises:
        NotApplicableError: The recipe does not say how to train; the reason names what is missing.
        SpecimenError: `recipe.build` fails or makes a network of other parameters.
        NumericalError: The training diverged.
    """
    _complete(specimen)
    generator = torch.Generator().manual_seed(seed)
    model = untrained(specimen, generator)
    return model, train(specimen, model, fresh_optimizer(specimen, model), generator)


def untrained(
    specimen: Specimen, generator: torch.Generator, other: Callable[..., nn.Module] | None = None
) -> nn.Module:
    """What `recipe.build` makes, on the specimen's device, of its type, with the same parameters frozen.

    PyTorch's own initialisers draw from the global generator, which is seeded like the given one while `build` runs and
    put back after: a function without a `generator` argument that just makes the network has its seeds too.

    Args:
        specimen: Whose recipe.
        generator: Where the initial weights come from.
        other: Makes another network than `recipe.build`, whose parameters may differ; none of them is frozen.

    Raises:
        SpecimenError: `recipe.build` fails, makes a network of other parameters, or other weights from the same seed.
    """
    build = other or (specimen.recipe.build if specimen.recipe is not None else None)
    with blaming(
        SpecimenError, "recipe.build(generator=...) must make an untrained network", "Mend it.", "build()"
    ):
        model = _built(build, generator) if build is not None else nn.Identity()
    if not isinstance(model, nn.Module):
        raise SpecimenError(
            "recipe.build(generator=...) must make an untrained network",
            type(model).__name__,
            "Return a Module.",
        )
    model = model.to(device=specimen.device, dtype=specimen.dtype)
    if other is not None:
        return model
    _check_same_parameters(specimen.model, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in specimen.trainable)
    return model


def _built(build: Callable[..., nn.Module], generator: torch.Generator) -> nn.Module:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.default_generator.manual_seed(generator.initial_seed())
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(generator.initial_seed())
        parameters = inspect.signature(build).parameters.values()
        takes = any(p.name == "generator" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        return build(generator=generator) if takes else build()


def train(
    specimen: Specimen,
    model: nn.Module,
    optimizer: Optimizer,
    generator: torch.Generator,
    on_epoch: OnEpoch | None = None,
) -> History:
    """Train a network on a specimen's training data for the epochs of its recipe, in place.

    Args:
        specimen: Whose data, objective, batch size, epochs and schedule.
        model: What is trained; need not be the specimen's.
        optimizer: Of its parameters.
        generator: Draws the order of examples.
        on_epoch: Called after each epoch.

    Raises:
        NotApplicableError: The recipe does not say how to train.
        NumericalError: The training diverged.
    """
    recipe = _complete(specimen)
    objective = specimen.objective.bind(model)

    def losses(network: nn.Module, rows: Tensor, _again: Tensor) -> Tensor:
        order = rows.sort()
        parts = [
            objective.losses(objective.outputs(network, batch), batch)
            for batch in specimen.batches("train", order.values.cpu())
        ]
        specimen.passes.forward += len(rows)
        specimen.passes.backward += len(rows)
        return torch.cat(parts)[order.indices.argsort()]

    rows = torch.arange(specimen.size("train"), device=specimen.device)
    return fit(
        model,
        losses,
        rows,
        rows,
        optimizer=optimizer,
        batch_size=min(recipe.batch_size or 1, len(rows)),
        epochs=recipe.epochs,
        scheduler=recipe.schedule,
        penalty=recipe.penalty,
        generator=generator,
        on_epoch=on_epoch,
    )


def fresh_optimizer(
    specimen: Specimen, model: nn.Module, named: Mapping[str, nn.Parameter] | None = None
) -> Optimizer:
    """An optimiser like the recipe's for another network: of the same class, with the settings of every group.

    Args:
        specimen: Whose recipe.
        model: The other network.
        named: Its parameters by the names that they have in the specimen's model, where its own names are others;
            parameters that are not among them join the first group.

    Raises:
        NotApplicableError: The recipe's optimiser holds other parameters than the specimen's.
    """
    own = dict(model.named_parameters()) if named is None else dict(named)
    known = {id(parameter) for parameter in own.values()}
    more = {name: p for name, p in model.named_parameters() if id(p) not in known}
    return optimizer_of(specimen, {**own, **{f"new {name}": p for name, p in more.items()}})


def optimizer_of(specimen: Specimen, named: Mapping[str, Tensor]) -> Optimizer:
    """An optimiser like the recipe's of any parameters, which may be stacks of those of many networks.

    Args:
        specimen: Whose recipe.
        named: The parameters, by the names that they have in the specimen's model; others join the first group.

    Raises:
        NotApplicableError: The recipe's optimiser holds other parameters than the specimen's.
    """
    recipe = _complete(specimen)
    if not isinstance(recipe.optimizer, Optimizer):
        make: Callable[[Any], Optimizer] = recipe.optimizer or (
            lambda parameters: torch.optim.SGD(
                parameters, lr=recipe.learning_rates[0], momentum=recipe.heavy_ball
            )
        )
        return made_optimizer(make, [p for p in named.values() if p.requires_grad])
    names = {id(parameter): name for name, parameter in specimen.model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in recipe.optimizer.param_groups:
        if unknown := [p for p in group["params"] if id(p) not in names]:
            raise NotApplicableError(
                f"the recipe's optimizer holds {len(unknown)} parameters that are not the model's"
            )
        settings = {key: value for key, value in group.items() if key not in ("params", "initial_lr")}
        if recipe.schedule is not None and "initial_lr" in group:
            settings["lr"] = group["initial_lr"]
        its = [names[id(p)] for p in group["params"]]
        groups.append({**settings, "params": [named[name] for name in its if name in named]})
    own = set(names.values())
    groups[0]["params"] += [p for name, p in named.items() if name not in own and p.requires_grad]
    # Every setting is in the groups; the class asks for its defaults all the same.
    return type(recipe.optimizer)(groups, **_defaults(recipe.optimizer))


def _defaults(optimizer: Optimizer) -> dict[str, Any]:
    accepted = inspect.signature(type(optimizer).__init__).parameters
    return {key: value for key, value in optimizer.defaults.items() if key in accepted}


def _complete(specimen: Specimen) -> Recipe:
    recipe = specimen.recipe
    if recipe is None or recipe.build is None:
        raise NotApplicableError("needs a recipe that can train the network again (Recipe(build=...))")
    missing = [name for name in ("batch_size", "epochs") if not getattr(recipe, name)]
    if recipe.optimizer is None and not recipe.learning_rates:
        missing.append("optimizer or lr")
    if missing:
        raise NotApplicableError(f"needs a recipe that says {' and '.join(missing)} to train again")
    return recipe


def _check_repeatable(model: nn.Module, again: nn.Module) -> None:
    pairs = zip(model.named_parameters(), again.parameters(), strict=True)
    different = [name for (name, p), q in pairs if not torch.equal(p, q) and not p.isnan().any()]
    if different:
        raise SpecimenError(
            "recipe.build must make the same weights from the same seed",
            f"other {', '.join(different[:3])} the second time",
            "Draw them from the generator it is given, or from PyTorch's global one.",
        )


def _check_same_parameters(model: nn.Module, other: nn.Module) -> None:
    shapes = [{name: tuple(p.shape) for name, p in m.named_parameters()} for m in (model, other)]
    if shapes[0] != shapes[1]:
        different = sorted(
            name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
        )
        raise SpecimenError(
            "recipe.build must make a network with the parameters of the examined one",
            f"other {', '.join(different[:3])}",
            "Build the same architecture.",
        )


def train_many(
    specimen: Specimen,
    seeds: Sequence[int],
    *,
    rows: Sequence[Tensor] | Tensor | None = None,
    labels: Tensor | None = None,
    build: Callable[..., nn.Module] | None = None,
    epochs: int | None = None,
    lr_factors: Sequence[float] | Tensor | None = None,
    weight_decay: Sequence[float] | Tensor | None = None,
    penalty: Penalty | None = None,
    ledger: OfBatch | None = None,
    on_epoch: OnSiblingsEpoch | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    memory_budget: int = 2**30,
) -> Siblings:
    """Networks like the specimen's, trained as its recipe says from other seeds, on other rows or labels, as one.

    Network k is what `train_again(specimen, seeds[k])` would make, up to the rounding of sums in another order (see
    `torchstone.training.fit_many`); dropout draws other masks of the same law.

    Cost: the arithmetic of K trainings with the overhead of one, where the network can be mapped by vmap.

    Args:
        specimen: What is examined; prepared, and never changed.
        seeds: One for each network: its initial weights and its order of examples. Equal seeds make twins.
        rows: Training rows of each, (K, n) or a list of K; repeats allowed.
        labels: (K, N) in place of the training targets.
        build: Makes other networks than `recipe.build`, for example wider ones.
        epochs: In place of the recipe's.
        lr_factors: Factor of the learning rate for each.
        weight_decay: For each; the recipe's optimiser must have none.
        penalty: Added to the mean loss, in place of the recipe's.
        ledger: What is noted of each example at each presentation, from outputs and batch; `wrong(objective)` notes
            errors.
        on_epoch: Called after each epoch with the epoch and the networks so far (`siblings.errors("test")`, say).
        on_progress: Called after each epoch with the network epochs done and all of them.
        memory_budget: Bytes.

    Raises:
        NotApplicableError: The recipe does not say how to train, or labels cannot be put in the target's place.
        SpecimenError: `build` fails, or makes networks of other parameters than the specimen's.
        SettingError: No seeds, or rows, labels or factors that do not pair up with them.
    """
    recipe = _complete(specimen)
    seeds = _checked(seeds, labels, specimen.size("train"))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    models = [untrained(specimen, generator, build) for generator in generators]
    _check_repeatable(models[0], untrained(specimen, torch.Generator().manual_seed(seeds[0]), build))
    objective = specimen.objective.bind(models[0])
    data = ExampleTensors.of(specimen, "train")
    names = [name for name, _ in models[0].named_parameters()]
    run = fit_many(
        models,
        data.mapped(objective, objective.losses),
        data.x,
        data.y,
        optimizer=lambda parameters: optimizer_of(specimen, dict(zip(names, parameters, strict=True))),
        batch_size=min(recipe.batch_size or 1, specimen.size("train")),
        generators=generators,
        epochs=epochs if epochs is not None else recipe.epochs,
        rows=rows,
        targets=data.replaced(labels) if labels is not None else None,
        lr_factors=lr_factors,
        weight_decay=weight_decay,
        scheduler=recipe.schedule,
        penalty=penalty if penalty is not None else recipe.penalty,
        ledger=data.mapped(objective, ledger) if ledger is not None else None,
        on_epoch=_with_siblings(specimen, objective, on_epoch),
        on_progress=on_progress,
        memory_budget=memory_budget,
    )
    presented = sum(
        int(steps) * min(recipe.batch_size or 1, specimen.size("train")) for steps in run.steps.tolist()
    )
    specimen.passes.forward += presented
    specimen.passes.backward += presented
    return Siblings(specimen, objective, run.ensemble, run)


def _checked(seeds: Any, labels: Any, count: int) -> list[int]:
    """Seeds as whole numbers, where there are some and labels of the training data for each."""
    listed = isinstance(seeds, Collection)
    if not listed or len(seeds) == 0 or not all(hasattr(seed, "__index__") for seed in seeds):
        raise SettingError(
            "train_many needs a whole number as seed of each network, at least one",
            "none" if listed and len(seeds) == 0 else f"{seeds!r:.80}",
            "Pass range(8).",
        )
    if labels is not None and tuple(getattr(labels, "shape", ())[:2]) != (len(seeds), count):
        raise SettingError(
            f"labels must have shape ({len(seeds)}, {count}, ...): one set for each network",
            f"shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__,
            "Stack what each network is to learn.",
        )
    return [int(seed) for seed in seeds]


def _with_siblings(specimen: Specimen, objective: Objective, on_epoch: OnSiblingsEpoch | None) -> Any:
    if on_epoch is None:
        return None
    return lambda epoch: on_epoch(epoch, Siblings(specimen, objective, epoch.ensemble, None))
