"""The contract of an objective, and how supervised objectives find inputs and targets in a batch."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import BatchError, ObjectiveError

TARGET_KEYS = ("labels", "label", "targets", "target", "y")
OUTPUT_KEYS = ("logits", "output", "outputs", "prediction", "predictions", "scores")


class Objective(ABC):
    """A loss split in two, so that everything else can be generic.

    `outputs(model, batch)` is the network; `losses(outputs, batch)` is the loss, one value per example. From the two
    follow the generalised Gauss-Newton matrix, the neural tangent kernel, margins and per-example losses for any task.
    """

    task: ClassVar[str] = "custom"
    convex: ClassVar[bool] = False
    """Whether each loss is convex in its row of outputs (so the Gauss-Newton matrix is positive semi-definite)."""
    natural: ClassVar[bool] = False
    """Whether each loss is -log p(y | outputs) with the outputs as natural parameters, or a weighted sum of such terms over
    positions: softmax cross-entropy, squared error. Its Hessian in the outputs is then the Fisher information. A subclass
    that overrides `losses` must say so again."""

    def bind(self, model: nn.Module) -> Self:
        """The objective with whatever it must know of the model filled in; by default itself."""
        return self

    @abstractmethod
    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The network's outputs, shape (N, ...)."""

    @abstractmethod
    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """One loss per example, shape (N,)."""

    def size(self, batch: Batch) -> int:
        """Number of examples in a batch."""
        return batches.size(batch)

    def take(self, batch: Batch, rows: Tensor) -> Batch:
        """The examples `rows` of a batch."""
        return batches.take(batch, rows)

    def target(self, batch: Batch) -> Tensor | None:
        """What the outputs are compared with, one row per example, or None where there is no such tensor."""
        return None

    def labels(self, batch: Batch) -> Tensor | None:
        """One class label per example, shape (N,), or None where there is none."""
        return None

    def scores(self, outputs: Tensor) -> Tensor | None:
        """One score per class and example, shape (N, C), or None where the task has no classes."""
        return None

    def inputs(self, batch: Batch) -> Tensor | None:
        """The continuous input that can be perturbed, shape (N, ...), or None."""
        return None

    def with_inputs(self, batch: Batch, inputs: Tensor) -> Batch:
        """The batch with its continuous input replaced."""
        old = self.inputs(batch)
        return batches.map_tensors(lambda tensor: inputs if tensor is old else tensor, batch)

    def sampled(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """Gradient of -log p(y | outputs) in the outputs, (N, ...), at labels y that are drawn from p; None without a p.

        Optional: for custom objectives that shall have a sampled Fisher matrix. Where losses weigh positions, multiply a
        position's gradient by the root of its weight, so that the mean of s s^T is the Fisher information on the loss's scale.
        """
        return None

    def check(self, outputs: Tensor, batch: Batch) -> None:  # noqa: B027 - optional to override
        """Raise a TorchstoneError when outputs and batch cannot belong together (labels out of range, say)."""


class Supervised(Objective):
    """An objective whose batches hold the model's arguments and a target.

    By default the target is the last item of a tuple or list, or the entry called labels, label, targets, target or y
    of a mapping or dataclass; everything else goes to the model, by position or by name.

    Args:
        call: How to call the model on a batch, where the default does not fit: `call(model, batch) -> output`.
        target: Key, position or function that finds the target in a batch.
        output: Function that picks the tensor (N, ...) out of what the model returns.
    """

    def __init__(
        self,
        *,
        call: Callable[[nn.Module, Batch], Any] | None = None,
        target: str | int | Callable[[Batch], Tensor] | None = None,
        output: Callable[[Any], Tensor] | None = None,
    ) -> None:
        self._call, self._find_target, self._output = call, target, output

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's outputs as one tensor (N, ...)."""
        raw = (
            self._call(model, batch) if self._call is not None else _call_model(model, self._arguments(batch))
        )
        return self._output(raw) if self._output is not None else pick_output(raw)

    def target(self, batch: Batch) -> Tensor:
        """The target of a batch.

        Raises:
            BatchError: The batch has no target where one is expected.
        """
        if callable(self._find_target):
            return self._find_target(batch)
        key = self._key(batch)
        try:
            by_position: Any = batch  # a name under a tuple is a TypeError, like any other wrong key
            by_name = isinstance(key, str) and not isinstance(batch, tuple | list)
            found = _entries(batch)[str(key)] if by_name else by_position[key]
        except (KeyError, IndexError, TypeError):
            raise BatchError(
                f"The batch must hold a target under {key!r}",
                describe(batch),
                "Pass target=... to the objective.",
            ) from None
        if not isinstance(found, Tensor):
            raise BatchError(
                f"The target under {key!r} must be a tensor", type(found).__name__, "Collate it."
            )
        return found

    def inputs(self, batch: Batch) -> Tensor | None:
        """The first floating tensor among the model's arguments."""
        arguments = batches.tensors(self._arguments(batch))
        return next((tensor for tensor in arguments if tensor.is_floating_point()), None)

    def with_inputs(self, batch: Batch, inputs: Tensor) -> Batch:
        """The batch with its continuous input replaced, and its target kept even where it is the same tensor."""
        old, target = self.inputs(batch), self.target(batch)
        changed = batches.map_tensors(lambda tensor: inputs if tensor is old else tensor, batch)
        return changed if target is not old else self._with_target(changed, target)

    def _with_target(self, batch: Batch, target: Tensor) -> Batch:
        key = self._key(batch)
        if isinstance(key, int):
            items = [*batch]
            items[key] = target
            return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
        changed = copy.copy(batch)
        if isinstance(batch, Mapping):
            changed[key] = target
        else:
            object.__setattr__(changed, str(key), target)
        return changed

    def _key(self, batch: Batch) -> str | int | None:
        """Where the target lies: key or position; None where only a function knows."""
        if callable(self._find_target):
            return None
        return self._find_target if self._find_target is not None else _target_key(batch)

    def _arguments(self, batch: Batch) -> tuple[Any, ...] | dict[str, Any]:
        key, target = self._key(batch), self.target(batch)
        if isinstance(batch, Tensor):
            raise _no_target(batch)
        is_target = lambda place, value: value is target if key is None else place == key
        if isinstance(batch, Mapping) or dataclasses.is_dataclass(batch):
            return {name: value for name, value in _entries(batch).items() if not is_target(name, value)}
        if isinstance(key, int) and key < 0:
            key += len(batch)
        return tuple(item for place, item in enumerate(batch) if not is_target(place, item))


def _target_key(batch: Batch) -> str | int:
    if isinstance(batch, Tensor):
        raise _no_target(batch)
    if isinstance(batch, tuple | list):
        if len(batch) < 2:
            raise _no_target(batch)
        return len(batch) - 1
    entries = _entries(batch)
    for key in TARGET_KEYS:
        if key in entries:
            return key
    raise BatchError(
        f"A batch must name its target {', '.join(TARGET_KEYS)}",
        describe(batch),
        "Pass target=... to the objective.",
    )


def _no_target(batch: Batch) -> BatchError:
    return BatchError(
        "A supervised batch must hold inputs and targets", describe(batch), "Yield (inputs, targets)."
    )


def _entries(batch: Batch) -> Mapping[str, Any]:
    if isinstance(batch, Mapping):
        return batch
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    raise BatchError(
        "A batch must be a tensor, tuple, list, mapping or dataclass",
        type(batch).__name__,
        "Pass call=... and target=... to the objective.",
    )


def _call_model(model: nn.Module, arguments: tuple[Any, ...] | dict[str, Any]) -> Any:
    if isinstance(arguments, tuple):
        return model(*arguments)
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    known = {key: value for key, value in arguments.items() if takes_any or key in parameters}
    if known:
        return model(**known)
    if len(arguments) == 1:  # a mapping such as {"image": x, "label": y} for forward(x)
        return model(next(iter(arguments.values())))
    raise BatchError(
        f"The batch's entries must be named like forward's arguments ({', '.join(parameters)})",
        ", ".join(arguments),
        "Rename them, or pass call=lambda model, batch: ... to the objective.",
    )


def pick_output(raw: Any) -> Tensor:
    """The output tensor out of what a model returns: itself, its logits, or the first tensor of a tuple."""
    if isinstance(raw, Tensor):
        return raw
    as_mapping = getattr(raw, "_asdict", None)  # of named tuples
    raw = as_mapping() if as_mapping is not None else raw
    if isinstance(raw, Mapping) or (dataclasses.is_dataclass(raw) and not isinstance(raw, type)):
        entries = _entries(raw)
        for key in OUTPUT_KEYS:
            if isinstance(entries.get(key), Tensor):
                return entries[key]
    found = next(batches.tensors(raw), None)
    if found is None:
        raise ObjectiveError(
            "The model must return a tensor (N, ...), or a structure that holds one",
            type(raw).__name__,
            "Pass output=lambda returned: ... to the objective.",
        )
    return found


def describe(batch: Batch) -> str:
    """A batch in a few words, for error messages."""
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"a mapping with {', '.join(map(str, batch))}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"


def one_per_example(losses: Any, size: int) -> Tensor:
    """The losses, after checking that there is one per example.

    Raises:
        ObjectiveError: Any other shape.
    """
    if not isinstance(losses, Tensor) or losses.shape != (size,):
        raise ObjectiveError(
            f"losses() must return one loss per example, shape ({size},)",
            f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}",
            'Use reduction="none" and average over everything but the examples.',
        )
    return losses


def widened(outputs: Tensor) -> Tensor:
    """Half-precision outputs as float32, in which losses are computed."""
    return outputs.float() if outputs.dtype.itemsize < 4 and outputs.is_floating_point() else outputs
