"""What is kept of a step: the gradients' norms as the optimiser sees them, and the parameters before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.watching.state import NO_GRADIENT, stacked_norms


class Kept:
    """The trainable parameters of a model, and what is kept of the step that is being taken.

    Args:
        model: The model; parameters may be added to it, frozen and thawed.
        optimizer: Its optimiser.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.names: tuple[str, ...] = ()
        self.parameters: tuple[nn.Parameter, ...] = ()
        self.before: tuple[Tensor, ...] | None = None
        self._norms: tuple[Tensor, list[int]] | None = None
        self._memory: list[Tensor] = []
        self.find()

    def find(self) -> None:
        """Look for the trainable parameters anew."""
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.names, self.parameters = tuple(named), tuple(named.values())

    @property
    def changed(self) -> bool:
        """Whether the trainable parameters are other ones than were found."""
        now = [p for p in self.model.parameters() if p.requires_grad]
        return len(now) != len(self.parameters) or any(
            a is not b for a, b in zip(now, self.parameters, strict=True)
        )

    def keep(self) -> None:
        """Right before the optimiser's step; nothing waits for a device."""
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
