"""What is kept of a step: the gradients' norms as the optimiser sees them, and the parameters before it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.watching.alerts import ROUNDING, Weight
from torchstone.watching.state import NO_GRADIENT, stacked_norms


class Kept:
    """The trainable parameters of a model that an optimiser holds, and what is kept of the step that is being taken.

    Parameters of the model that another optimiser holds are that one's watcher's.

    Args:
        model: The model; parameters may be added to it, frozen and thawed.
        optimizer: Its optimiser.

    Attributes:
        weights: What judging a parameter takes, by name.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.names: tuple[str, ...] = ()
        self._places: list[tuple[nn.Module, str]] = []
        self._held: list[tuple[int, bool]] = []
        self.parameters: tuple[nn.Parameter, ...] = ()
        self.weights: Mapping[str, Weight] = {}
        self.before: tuple[Tensor, ...] | None = None
        self._norms: tuple[Tensor, list[int]] | None = None
        self._memory: list[Tensor] = []
        self.find()

    def find(self) -> None:
        """Look for the trainable parameters anew."""
        self._held = self._holding()
        held = {one for one, trained in self._held if trained}
        named = {name: p for name, p in self.model.named_parameters() if id(p) in held}
        self.names, self.parameters = tuple(named), tuple(named.values())
        places = {
            id(p): (module, name) for module in self.model.modules() for name, p in module._parameters.items()
        }
        self._places = [places[id(p)] for p in self.parameters if id(p) in places]
        self.weights = {
            name: Weight(ROUNDING.get(str(p.dtype), ROUNDING["torch.float32"]), p.numel(), p.ndim >= 2)
            for name, p in named.items()
        }

    @property
    def changed(self) -> bool:
        """Whether the trainable parameters are other ones than were found.

        Asked at every step, so it looks at what the optimiser holds and where that was found, not through the model.
        """
        mine = {id(parameter) for parameter in self.parameters}
        return self._held != self._holding() or any(
            id(module._parameters.get(name)) not in mine for module, name in self._places
        )

    def _holding(self) -> list[tuple[int, bool]]:
        groups = self.optimizer.param_groups
        return [(id(parameter), parameter.requires_grad) for group in groups for parameter in group["params"]]

    def keep(self) -> bool:
        """Right before the optimiser's step; nothing waits for a device.

        Returns:
            Whether any of the parameters, where there are some, has a gradient.
        """
        if self.changed:
            self.find()
        used = [i for i, parameter in enumerate(self.parameters) if parameter.grad is not None]
        gradients = [self.parameters[i].grad.detach() for i in used]  # pyright: ignore[reportOptionalMemberAccess]
        found = stacked_norms(gradients) if gradients else torch.zeros(0)
        scale = getattr(self.optimizer, "grad_scale", None)  # fused optimisers unscale by themselves
        self._norms = (found if scale is None else found / scale.to(found.device)), used
        now = [parameter.detach() for parameter in self.parameters]
        kinds = [(part.shape, part.dtype, part.device) for part in now]
        if [(part.shape, part.dtype, part.device) for part in self._memory] != kinds:
            self._memory = [torch.empty_like(part) for part in now]
        if now:
            torch._foreach_copy_(self._memory, now)  # pyright: ignore[reportPrivateImportUsage]
        self.before = tuple(self._memory)
        return bool(used) or not self.parameters

    @property
    def skipped(self) -> bool:
        """Whether a fused optimiser is about to leave the step out, because scaled gradients have overflowed."""
        overflow = getattr(self.optimizer, "found_inf", None)
        return overflow is not None and float(overflow) > 0

    def forget(self) -> None:
        """The step has been looked at."""
        self.before = self._norms = None

    @property
    def gradient_norms(self) -> tuple[float, ...] | None:
        """A norm a parameter, `NO_GRADIENT` where it had none; None where no step was kept."""
        if self._norms is None:
            return None
        found, used = self._norms
        norms = [NO_GRADIENT] * len(self.parameters)
        for i, norm in zip(used, found.tolist(), strict=True):
            norms[i] = norm
        return tuple(norms)
