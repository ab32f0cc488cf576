"""Versions and hardware, and the identity of a specimen."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from torchstone import batches
from torchstone._version import __version__
from torchstone.examination import Environment, SpecimenCard
from torchstone.objectives import Objective
from torchstone.plan import Plan
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen

_PLAIN = (str, int, float, bool, tuple, type(None))


def environment(device: torch.device) -> Environment:
    """What a measurement on `device` runs on."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return Environment(
        torchstone=__version__,
        torch=str(torch.__version__),
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        processor=_processor(),
        threads=torch.get_num_threads(),
        accelerator=accelerator,
    )


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def specimen_card(specimen: Specimen) -> SpecimenCard:
    """What the report says of a specimen."""
    model = specimen.model
    parameters = list(model.parameters())
    names = getattr(specimen.objective, "class_names", ())
    return SpecimenCard(
        name=specimen.name,
        model=type(model).__name__,
        task=specimen.objective.task,
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in specimen.trainable.values()),
        layers=sum(1 for module in model.modules() if not any(True for _ in module.children())),
        train_examples=specimen.split("train").total,
        test_examples=specimen.split("test").total if specimen.has("test") else None,
        class_names=tuple(names),
        device=str(specimen.device),
        dtype=str(specimen.dtype or "none").replace("torch.", ""),
        recipe=specimen.recipe.card() if specimen.recipe is not None else {},
    )


def fingerprint(specimen: Specimen, plan: Plan, seed: int) -> str:
    """Identity of a prepared specimen under a plan: weights, data, objective, recipe, version.

    Cost: one pass over the stored data.
    """
    digest = hashlib.blake2b(digest_size=16)
    training = [module.training for module in specimen.model.modules() if specimen.mode == "as_is"]
    described = (
        *(__version__, plan, seed, specimen.name, specimen.mode, specimen.freeze_noise, training),
        *(str(specimen.device), list(specimen.trainable), _plain(specimen.objective)),
    )
    digest.update(repr(described).encode())
    for name, tensor in (*specimen.model.named_parameters(), *specimen.model.named_buffers()):
        digest.update(name.encode())
        _update(digest, tensor)
    _update_recipe(digest, specimen.recipe)
    for name, split in specimen.splits.items():
        digest.update(f"{name}:{split.size}".encode())
        for batch in split if split.stored else [split.first()]:
            for tensor in batches.tensors(batch):
                _update(digest, tensor)
    return digest.hexdigest()


def _plain(objective: Objective) -> tuple[str, Mapping[str, object]]:
    """Class and plain settings of an objective; functions and modules have no value to compare."""
    settings = {key: value for key, value in vars(objective).items() if isinstance(value, _PLAIN)}
    return type(objective).__name__, settings


def _update_recipe(digest: hashlib.blake2b, recipe: Recipe | None) -> None:
    if recipe is None:
        return
    history = {name: [float(value) for value in series] for name, series in recipe.history.items()}
    digest.update(repr((recipe.card(), recipe.learning_rates, recipe.build is not None, history)).encode())
    for name, tensor in (recipe.initial_state or {}).items():
        digest.update(name.encode())
        _update(digest, tensor)
    if recipe.live_optimizer is not None:
        for state in recipe.live_optimizer.state.values():
            for tensor in batches.tensors(state):
                _update(digest, tensor)


def _update(digest: hashlib.blake2b, tensor: torch.Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy().tobytes())
