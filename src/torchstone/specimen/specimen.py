"""The specimen: what is examined, and the only code that loops over data, moves batches and guards state."""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import RaggedError, SettingError, SpecimenError, blaming
from torchstone.objectives.base import Objective, one_per_example
from torchstone.recipe import Recipe
from torchstone.specimen.checks import (
    check_gradient,
    check_kinds,
    check_model,
    check_split,
    telling_overwriting,
)
from torchstone.specimen.determinism import check_forward, couples_examples, freeze_data
from torchstone.specimen.processes import Group, Processes
from torchstone.specimen.protection import protect
from torchstone.specimen.split import Split

SPLITS = ("train", "test", "shifted")
_CACHED = ("trainable", "device", "dtype", "_differentiable")


@dataclass
class Passes:
    """Examples sent forward and backward so far."""

    forward: int = 0
    backward: int = 0


class Specimen:
    """A network, what it is trained for, and its data.

    Args:
        model: The network. It is never changed.
        objective: `Classification()`, `Regression()`, `CausalLM()`, `HuggingFace()` or your own `Objective`.
        train: Training data: tensors, a `Dataset`, a `DataLoader` or a re-iterable of batches (see `Split.of`).
        test: Held-out data of the same kind; many questions need it.
        recipe: How the network was trained.
        shifted: Data from where the network will be used, if that differs from where it was trained.
        name: A name for the report; by default the model's class.
        mode: "eval" measures in evaluation mode, "as_is" in whatever mode each submodule is.
        freeze_noise: Every forward pass draws the same noise, for networks that are random by design.
        batch_size: Examples a batch, where the data are not already in batches.
        processes: "all" or a process group: its processes share the batches of every sum. All of them hold the same
            model and data and ask the same questions.

    Raises:
        SpecimenError: Something of the above is of the wrong kind or empty.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        train: Any,
        test: Any = None,
        recipe: Recipe | None = None,
        *,
        shifted: Any = None,
        name: str = "",
        mode: Literal["eval", "as_is"] = "eval",
        freeze_noise: bool = False,
        batch_size: int = 256,
        processes: Group = None,
    ) -> None:
        check_kinds(model, objective, recipe, mode, batch_size)
        self.model, self.recipe = model, recipe
        self.objective = objective.bind(model)
        self.name = str(name) or type(model).__name__
        self.mode, self.freeze_noise, self.batch_size = mode, freeze_noise, batch_size
        given = {"train": train, "test": test, "shifted": shifted}
        self.splits = {
            key: Split.of(key, data, self.objective, batch_size)
            for key, data in given.items()
            if data is not None
        }
        if "train" not in self.splits:
            raise SpecimenError("A specimen needs training data", "None", "Pass train=(inputs, targets).")
        self.findings: tuple[str, ...] = ()
        self.coupled = False
        self.processes = Processes(processes)
        self.passes = Passes()

    # -- what it is ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that require a gradient, by name; shared ones once."""
        return {
            name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad
        }

    @functools.cached_property
    def device(self) -> torch.device:
        """Where the model lies; CPU where it holds no tensor."""
        return next((tensor.device for tensor in self._tensors()), torch.device("cpu"))

    @functools.cached_property
    def dtype(self) -> torch.dtype | None:
        """The floating type of the model's parameters (the data's own where it has none)."""
        return next((tensor.dtype for tensor in self._tensors() if tensor.is_floating_point()), None)

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.model.parameters()
        yield from self.model.buffers()

    def has(self, split: str) -> bool:
        """Whether that part of the data was given."""
        return split in self.splits

    def split(self, name: str) -> Split:
        """A part of the data.

        Raises:
            SpecimenError: It was not given.
        """
        if not isinstance(name, str):
            raise SpecimenError("split must be a name", type(name).__name__, 'Pass "train", for example.')
        if name not in self.splits:
            raise SpecimenError(
                f"This needs {name} data", f"only {', '.join(self.splits)}", f"Pass {name}=..."
            )
        return self.splits[name]

    def size(self, split: str = "train") -> int:
        """Number of examples."""
        return self.split(split).size

    # -- loops over data -------------------------------------------------------------------------------------------

    def batches(self, split: str = "train", rows: Tensor | None = None) -> Iterator[Batch]:
        """The batches of a split in their fixed order, on the model's device, floats in the model's type.

        Args:
            split: Part of the data.
            rows: Increasing indices of the examples to keep; None for all.
        """
        part = self.split(split)
        for batch in part if rows is None or len(rows) == part.size else part.take(rows):
            yield self._moved(batch)

    def share(self, split: str = "train") -> Iterator[Batch]:
        """Those batches that are this process's to work on: all of them where it is alone."""
        return map(self._moved, self.processes.share(self.split(split)))

    def forward(self, batch: Batch) -> Tensor:
        """Outputs of the network on a batch, shape (N, ...). Call it inside `measuring()`."""
        self.passes.forward += self.objective.size(batch)
        if self.freeze_noise:
            torch.random.set_rng_state(torch.Generator().manual_seed(0).get_state())
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(torch.Generator(self.device).manual_seed(0).get_state(), self.device)
        return self.objective.outputs(self.model, batch)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """One loss per example, shape (N,); checked."""
        return one_per_example(self.objective.losses(outputs, batch), self.objective.size(batch))

    def grad(self, value: Any, inputs: Any, batch: Batch, **options: Any) -> tuple[Tensor, ...]:
        """`torch.autograd.grad` of values over a batch, counted as one backward pass.

        Unused inputs give zeros, or None where `options` say `materialize_grads=False`. Sparse gradients, of embeddings, are
        made dense.

        Raises:
            SpecimenError: The network overwrote in place what the derivative needs.
        """
        self.passes.backward += self.objective.size(batch)
        values = (value,) if isinstance(value, Tensor) else tuple(value)
        if not any(one.requires_grad for one in values):  # nothing that is differentiated was used
            return tuple(
                torch.zeros_like(one) for one in ((inputs,) if isinstance(inputs, Tensor) else inputs)
            )
        with telling_overwriting():
            found = torch.autograd.grad(value, inputs, **{"materialize_grads": True, **options})
        return tuple(map(_dense, found))

    def sum_over(self, function: Callable[[Batch], Any], split: str = "train", *, given: bool = False) -> Any:
        """Sum of `function(batch)` over the batches of a split, accumulated in float64.

        Args:
            function: Returns a tensor, or a tuple of tensors, already summed over the batch's examples.
            split: Part of the data.
            given: The function keeps nothing of what it returns, so that the first result need not be copied, and the
                only one keeps its dtype. That saves most of the time of a sum of one batch as long as the parameters.

        Returns:
            Float64 tensors like those of `function`, on the model's device.
        """
        total: tuple[Tensor, ...] | None = None
        single = alone = True
        with self.measuring(), self.processes.telling_failure():
            for batch in self.share(split):
                result = function(batch)
                single = isinstance(result, Tensor)
                parts = tuple(part.detach() for part in ((result,) if single else result))
                if total is None:
                    total = parts if given else tuple(part.to(torch.float64, copy=True) for part in parts)
                else:
                    alone = False
                    pairs = zip(total, parts, strict=True)
                    total = tuple(a.to(torch.float64).add_(b) for a, b in pairs)
        if total is not None and not (alone and self.processes.count == 1):
            total = tuple(part.to(torch.float64) for part in total)
        return self.processes.summed(total[0] if total is not None and single else total)

    def mean_over(
        self, function: Callable[[Batch], Any], split: str = "train", *, given: bool = False
    ) -> Any:
        """`sum_over` divided by the number of examples, so that a ragged last batch weighs what it should."""
        total, size = self.sum_over(function, split, given=given), self.size(split)
        return total.div_(size) if isinstance(total, Tensor) else tuple(part.div_(size) for part in total)

    def map_over(self, function: Callable[[Batch], Tensor], split: str = "train") -> Tensor:
        """Rows of `function(batch)`, shape (N_batch, ...), of all batches together, on the CPU.

        Raises:
            RaggedError: The rows of different batches have different shapes (each batch padded by itself, say).
        """
        with self.measuring(), self.processes.telling_failure():
            rows = [function(batch).detach().cpu() for batch in self.share(split)]
        rows = self.processes.gathered(rows)
        shapes = sorted({tuple(part.shape[1:]) for part in rows})
        if len(shapes) > 1:
            raise RaggedError(
                "All batches must give rows of one shape here",
                ", ".join(map(str, shapes[:3])),
                "Pad or crop all examples to one length.",
            )
        return torch.cat(rows)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Inside, the model is in the mode to be measured; on leaving it is as it was, bit for bit."""
        # cuDNN's recurrent kernels have no backward pass in eval mode.
        recurrent = self.device.type == "cuda" and any(
            isinstance(m, nn.RNNBase) for m in self.model.modules()
        )
        kernels = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()
        with protect(self.model), kernels:
            if self.mode == "eval":
                self.model.eval()
            yield

    # -- what follows from outputs and losses ----------------------------------------------------------------------

    @torch.no_grad()
    def example_losses(self, split: str = "train") -> Tensor:
        """Loss of every example, float64 (N,), in the data's order. Cost: one forward pass."""
        return self.map_over(lambda batch: self.losses(self.forward(batch), batch).double(), split)

    def risk(self, split: str = "train") -> float:
        """Empirical risk: the mean loss over a split, in float64, whatever the batch size."""
        return float(self.example_losses(split).mean())

    def gradient(self, split: str = "train") -> dict[str, Tensor]:
        """Gradient of the empirical risk in the trainable parameters, float64. Cost: one forward and backward pass."""
        parameters = self.trainable

        def of_batch(batch: Batch) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                total = self.losses(self.forward(batch), batch).sum()
                return self.grad(total, tuple(parameters.values()), batch)

        if not parameters:
            return {}
        return dict(zip(parameters, self.mean_over(of_batch, split), strict=True))

    def require_gradient(self) -> None:
        """Refuse losses that autograd cannot differentiate in any trainable parameter; found out once, uncounted.

        Raises:
            SpecimenError: They are cut off from all of them, or an operation in place destroyed what is needed.
        """
        _ = self._differentiable

    @functools.cached_property
    def _differentiable(self) -> bool:
        counted = copy.copy(self.passes)
        # A compiled network is run as it was written, which compiles nothing for a single batch.
        compiled = "torch._dynamo" in sys.modules
        eager = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
        with self.measuring(), torch.enable_grad(), eager:
            losses = (self.losses(self.forward(batch), batch).sum() for batch in self.batches())
            check_gradient(losses, tuple(self.trainable.values()))
        self.passes.forward, self.passes.backward = counted.forward, counted.backward
        return True

    # -- getting ready ---------------------------------------------------------------------------------------------

    def prepared(
        self, *, memory_bytes: int = 2**30, examples: dict[str, int | None] | None = None, seed: int = 0
    ) -> Self:
        """The same specimen, checked and made deterministic.

        Stores the data where they fit the memory budget, draws at most `examples[split]` of each part, measures twice,
        and says in `findings` what was noticed. The model is shared, not copied.

        Raises:
            TorchstoneError: The specimen cannot be examined; the message says what to do.
        """
        ready = copy.copy(self)
        ready.passes, ready.splits, findings = Passes(), {}, list(self.findings)
        for cached in _CACHED:  # the user may have frozen layers since
            ready.__dict__.pop(cached, None)
        check_model(self.model)
        self.processes.require_same("model and data", self._signature())
        _ = ready.trainable  # found now, before anything measured asks for further gradients
        with ready.measuring(), torch.no_grad():
            for position, (name, split) in enumerate(self.splits.items()):
                cap = (examples or {}).get("test" if name == "shifted" else name)
                generator = torch.Generator().manual_seed(seed * len(SPLITS) + position)
                with blaming(
                    SpecimenError, f"{name} data must be readable", "Mend the data set or its loader."
                ):
                    share = memory_bytes // len(self.splits)
                    ready.splits[name], found = freeze_data(split, share, cap, generator)
                findings += found
            for name in ready.splits:
                findings += check_split(
                    ready.splits[name], ready.forward_checked, ready.objective, ready._moved
                )
            first = ready._moved(ready.splits["train"].first())
            check_forward(ready.forward, ready.model, first)
            count = ready.objective.size(first)
            ready.coupled = couples_examples(ready.forward, ready.objective.take, first, count)
        if ready.coupled:
            findings.append(
                "An example's output depends on the rest of its batch (batch statistics in training mode?); "
                "questions about single examples are not asked."
            )
        ready.findings = tuple(dict.fromkeys(findings))
        ready.passes = Passes()
        return ready

    def _signature(self) -> tuple[Any, ...]:
        """What processes compare before they share work: sizes, and sums of the weights and of the first batches."""
        if self.processes.alone:
            return ()
        tensors = [*self._tensors()]
        for split in self.splits.values():
            tensors += batches.tensors(split.first())
        return (
            [(name, split.size) for name, split in self.splits.items()],
            [(tuple(tensor.shape), float(tensor.detach().double().sum())) for tensor in tensors],
        )

    def forward_checked(self, batch: Batch) -> Tensor:
        """Outputs on a batch; what the user's model raises becomes an error that says where it came from."""
        where = f"The model must run on a batch of its data (mode {self.mode!r}, {self.device}, {self.dtype})"
        fix = "Check shapes and types of the data, or pass call=lambda model, batch: ... to the objective."
        with blaming(SpecimenError, where, fix, "forward()"):
            return self.forward(batch)

    def _moved(self, batch: Batch) -> Batch:
        return batches.move(batch, self.device, self.dtype)

    def to(self, device: str | torch.device) -> Self:
        """A specimen whose model is a copy on another device; the given model stays where it is.

        Raises:
            SettingError: No such device.
        """
        try:
            target = torch.device(device)
            torch.empty(0, device=target)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise SettingError(
                "device must be one that PyTorch can use here",
                f"{device!r} ({str(error).splitlines()[0]})",
                "Use --device cpu, or install a PyTorch build for that device.",
            ) from None
        if target == self.device:
            return self
        moved = copy.copy(self)
        moved.model = copy.deepcopy(self.model).to(target)
        for cached in _CACHED:
            moved.__dict__.pop(cached, None)
        moved.passes = Passes()
        return moved


def _dense(gradient: Any) -> Any:
    return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient
