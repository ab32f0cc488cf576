"""What makes a specimen impossible to examine, found before anything is measured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import ObjectiveError, SettingError, SpecimenError, blaming
from torchstone.objectives.base import Objective, one_per_example
from torchstone.recipe import Recipe
from torchstone.specimen.split import Split


def check_kinds(model: Any, objective: Any, recipe: Any, mode: str, batch_size: int) -> None:
    """Refuse arguments of the wrong kind.

    Raises:
        SpecimenError: The model, objective or recipe.
        SettingError: A setting.
    """
    if not isinstance(model, nn.Module):
        raise SpecimenError(
            "model must be a torch.nn.Module",
            f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__,
            "Pass an instance; wrap a function in a module.",
        )
    if not isinstance(objective, Objective):
        raise SpecimenError(
            "objective must be an Objective",
            type(objective).__name__
            if not isinstance(objective, type)
            else f"the class {objective.__name__}",
            "Pass Classification(), Regression(), CausalLM(), HuggingFace() or your own subclass of Objective.",
        )
    if recipe is not None and not isinstance(recipe, Recipe):
        raise SpecimenError(
            "recipe must be a Recipe", type(recipe).__name__, "Pass Recipe(optimizer=..., ...)."
        )
    if mode not in ("eval", "as_is"):
        raise SettingError(
            "mode must be 'eval' or 'as_is'", repr(mode), "Use 'eval' unless you know why not."
        )
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise SettingError("batch_size must be a whole number of at least 1", repr(batch_size), "Use 256.")


def check_model(model: nn.Module) -> None:
    """Every parameter and buffer must be initialised, on one device and finite.

    Raises:
        SpecimenError: Naming those that are not.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    if lazy := [
        name
        for name, tensor in named
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer)
    ]:
        raise SpecimenError(
            "Every parameter must be initialised",
            f"lazy {', '.join(lazy[:3])}",
            "Run the model on one batch first.",
        )
    devices = sorted({str(tensor.device) for _, tensor in named})
    if devices == ["meta"]:
        raise SpecimenError(
            "The model's parameters must have values",
            "parameters on the meta device, which have none",
            "Load the weights: model.to_empty(device='cpu'), then load_state_dict().",
        )
    if len(devices) > 1:
        raise SpecimenError(
            "The whole model must lie on one device",
            ", ".join(devices),
            "Call model.to('cpu') or model.to('cuda').",
        )
    # Buffers may hold infinities by design (attention masks), parameters may not.
    broken = [name for name, tensor in model.named_parameters() if not bool(tensor.isfinite().all())]
    if broken:
        raise SpecimenError(
            "Every parameter must be finite",
            f"NaN or infinite values in {', '.join(broken[:3])}{' and more' if len(broken) > 3 else ''}",
            "The training run diverged: load an earlier checkpoint, lower the learning rate or clip gradients.",
        )


def check_gradient(losses: Iterable[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    """The loss of some batch must have a gradient in some parameter; batches are asked until one has.

    Raises:
        SpecimenError: None has one, or it cannot be computed.
    """
    attached = next((loss for loss in losses if loss.requires_grad), None)
    if attached is None:
        raise SpecimenError(
            "The loss must depend on a trainable parameter in a way that autograd can follow",
            "losses without a gradient",
            "Take detach(), item(), NumPy and torch.no_grad() out of forward() and the objective.",
        )
    with telling_overwriting():
        torch.autograd.grad(attached, parameters, allow_unused=True)


@contextlib.contextmanager
def telling_overwriting() -> Iterator[None]:
    """Inside, a derivative whose tensors were overwritten by the network is refused in words.

    Raises:
        SpecimenError: It is.
    """
    try:
        yield
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise SpecimenError(
            "forward() must leave alone what its gradient needs",
            f"an operation in place that overwrites it ({str(error).split(' Hint:')[0].rstrip('.')})",
            "Write h = h * 2 instead of h.mul_(2) or h *= 2, and the like.",
        ) from error


def check_split(
    split: Split,
    forward: Callable[[Batch], Tensor],
    objective: Objective,
    move: Callable[[Batch], Batch],
) -> list[str]:
    """The network must give finite outputs and losses on the first batch, and every batch must be usable.

    Returns:
        Findings in words.

    Raises:
        TorchstoneError: What is wrong with which part of the data.
    """
    original = split.first()
    # A copy, so that a network that writes into its input does not write into the user's data.
    batch = batches.map_tensors(lambda tensor: tensor.clone(), move(original))
    _check_inputs(split, batch)
    outputs = _checked_outputs(forward(batch), objective.size(batch))
    if not batches.same(batch, move(original)):
        raise SpecimenError(
            "forward() must not write into its input",
            f"{split.name} data that differ after a forward pass",
            "Use relu(x) instead of relu_(x) or inplace=True in the first layer, or start with x = x.clone().",
        )
    with _blaming(objective):
        objective.check(outputs, batch)
        given = outputs.clone()
        losses = objective.losses(given, batch)
    if not batches.same(given, outputs):
        raise ObjectiveError(
            "losses(outputs, batch) must not write into the outputs",
            f"outputs that differ after the losses of {split.name} data",
            "Use outputs = outputs / 2 instead of outputs /= 2 or outputs.div_(2), or start with outputs.clone().",
        )
    one_per_example(losses, objective.size(batch))
    for what, values in (("outputs", outputs), ("losses", losses)):
        if not bool(values.isfinite().all()):
            raise SpecimenError(
                f"The network's {what} on {split.name} data must be finite",
                f"{int((~values.isfinite()).sum())} NaN or infinite of {values.numel()}",
                "Look for divisions, logarithms and overflow in forward(), and check the weights.",
            )
    _check_rest(split, outputs, objective, move)
    return _casts(split, original, batch)


def _checked_outputs(outputs: Any, count: int) -> Tensor:
    if not isinstance(outputs, Tensor) or outputs.ndim == 0 or outputs.shape[0] != count:
        raise ObjectiveError(
            f"outputs() must return one row per example, shape ({count}, ...)",
            f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__,
            "Return the outputs before any averaging; pass output=... to the objective to pick a tensor.",
        )
    return outputs


def _blaming(objective: Objective) -> AbstractContextManager[None]:
    expected = f"{type(objective).__name__} must give the losses of a batch"
    return blaming(ObjectiveError, expected, "Check that outputs and targets belong together.")


def _check_rest(split: Split, outputs: Tensor, objective: Objective, move: Callable[[Batch], Batch]) -> None:
    """Labels and inputs of every batch; the outputs' first row stands for a batch's scores in shape checks."""
    seen: set[int] = set()
    for original in split:
        batch = move(original)
        _check_inputs(split, batch)
        with _blaming(objective):
            labels = objective.labels(batch)
            if labels is not None:
                rows = outputs[:1].expand(labels.shape[0], *outputs.shape[1:])
                objective.check(rows, batch)
                seen |= set(labels[labels >= 0].unique().tolist())  # negative ones are ignored
    if split.name == "train" and len(seen) == 1:
        raise SpecimenError(
            "A classifier's training data must hold at least two classes",
            f"only class {next(iter(seen))}",
            "Check the labels and the sampler.",
        )


def _check_inputs(split: Split, batch: Batch) -> None:
    for tensor in batches.tensors(batch):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise SpecimenError(
                f"The {split.name} data must be finite",
                f"{int((~tensor.isfinite()).sum())} NaN or infinite values in a batch",
                "Remove or impute those examples.",
            )


def _casts(split: Split, original: Batch, moved: Batch) -> list[str]:
    changed = {
        f"{before.dtype} to {after.dtype}".replace("torch.", "")
        for before, after in zip(batches.tensors(original), batches.tensors(moved), strict=True)
        if isinstance(before, Tensor) and before.dtype != after.dtype and before.dtype != torch.bool
    }
    return [f"{split.name} data were cast from {cast} to match the model." for cast in sorted(changed)]
