"""The Jacobian of one layer's output in another layer's input."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.objectives.base import pick_output
from torchstone.operators.batch_jacobian import BatchJacobian, Rows
from torchstone.operators.differentiated_map import GRAPH_BYTES
from torchstone.specimen import Specimen


class LayerJacobian(BatchJacobian):
    r"""J = d h_B / d h_A with h_A the input of module A and h_B the output of module B.

    Everything that depends on h_A counts, also what reaches B past A, by a skip connection. Block-diagonal over
    examples (over batches, where the network mixes them). Its mean squared singular value tells how signals grow from A
    to B, its spectrum how evenly. Of a module that is called several times, A's first call and B's last are meant; of
    several inputs, the first floating one.

    Accuracy, cost and memory: as for `InputJacobian`, and a forward pass more.

    Args:
        specimen: What is examined.
        source: Name of module A; "" for the whole network.
        target: Name of module B; "" for the whole network.
        split: Part of the data.
        rows: Only these examples: increasing indices, or a single one; None for all.
        memory_bytes: Budget for kept graphs.

    Raises:
        SettingError: No such module, one that is never called, inputs that are not continuous or are overwritten, a
            target that does not depend on the source, or a product J v through an operation that cannot be
            differentiated twice (J^T u has no such limit).

    >>> from torchstone import Specimen
    >>> from torchstone.objectives import Regression
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> data = torch.ones(4, 2), torch.zeros(4, 1)
    >>> J = LayerJacobian(Specimen(model, Regression(), data), "1", "2", rows=0)
    >>> J.shape
    (1, 3)

    Source: Pennington, Schoenholz & Ganguli 2017, section 2 (input-output Jacobians of deep networks).
    """

    def __init__(
        self,
        specimen: Specimen,
        source: str,
        target: str,
        split: str = "train",
        rows: Rows = None,
        *,
        memory_bytes: int = GRAPH_BYTES,
    ) -> None:
        self.source, self.target = source, target
        self._modules = _module(specimen.model, source), _module(specimen.model, target)
        self._depends = False
        super().__init__(specimen, split, rows, memory_bytes)

    def _link(self, batch: Batch, forward: Callable[[Batch], Tensor]) -> tuple[Tensor, Tensor]:
        # Copied, because the first module's input may be the user's data, and is marked to need a gradient.
        batch = batches.map_tensors(lambda tensor: tensor.clone(), batch)
        seen: dict[str, Tensor] = {}
        try:
            with self._watching(seen):
                forward(batch)
        except RuntimeError as error:  # PyTorch refuses to overwrite a leaf at once
            if "leaf Variable" not in str(error):
                raise
            raise self._overwritten() from error
        for name, key in ((self.source, "source"), (self.target, "target")):
            if key not in seen:
                raise SettingError(
                    "Both modules are called by the network", f"{name!r}, which is not", "Name another one."
                )
        source, target = seen["source"], seen["target"]
        if source._version != int(seen["version"]):
            raise self._overwritten()
        self._depends = self._depends or _depends(target, source)
        if not self._depends:
            raise SettingError(
                "The target's output depends on the source's input",
                f"{self.target!r}, which does not depend on {self.source!r}",
                "Exchange source and target, or name others.",
            )
        return target, source

    def _overwritten(self) -> SettingError:
        return SettingError(
            "The input of the source is not overwritten later on",
            f"an operation in place on the input of {self.source!r}",
            "Name another module, or write x = x + ... instead of x += ...",
        )

    @contextlib.contextmanager
    def _watching(self, seen: dict[str, Tensor]) -> Iterator[None]:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if "source" in seen:
                return None
            values = (*batches.tensors(args), *batches.tensors(kwargs))
            found = next((value for value in values if value.is_floating_point()), None)
            if found is None:
                raise SettingError(
                    "The input of the source is continuous",
                    f"{self.source!r}, whose is not",
                    "Name the next module.",
                )
            if not found.requires_grad:
                found.requires_grad_(True)  # a leaf, as it depends on nothing
            seen["source"], seen["version"] = found, torch.tensor(found._version)
            passed = found.clone()  # which the module may overwrite
            swap = lambda tensor: passed if tensor is found else tensor
            return batches.map_tensors(swap, args), batches.map_tensors(swap, kwargs)

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            seen["target"] = pick_output(output)

        source, target = self._modules
        handles = [
            source.register_forward_pre_hook(before, with_kwargs=True),
            target.register_forward_hook(after),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _by_differences(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:  # noqa: ARG002
        raise SettingError(
            "Products with a Jacobian between layers need operations that can be differentiated twice",
            self.how.removeprefix("central differences (").removesuffix(")"),
            "Use products with its transpose, or InputJacobian, which can use differences.",
        )


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        names = [known for known, _ in model.named_modules() if known]
        raise SettingError(
            "source and target are names of modules", repr(name), f"Choose from {', '.join(names[:8])}, ..."
        ) from None


def _depends(target: Tensor, source: Tensor) -> bool:
    if not target.requires_grad:
        return False
    (found,) = torch.autograd.grad(target.sum(), source, retain_graph=True, allow_unused=True)
    return found is not None
