"""From `nn.Module` to pure functions of parameters and inputs, for torch.func's transformations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.stateless import places

Named = Mapping[str, Tensor]


@dataclass(frozen=True)
class PureFunction:
    """A module as f(parameters, *inputs), without state.

    Attributes:
        module: The module, which is never changed.
        parameters: Its parameters, detached, by name; pass these or others of their shapes.
        buffers: Its buffers, by name.
    """

    module: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def __call__(self, parameters: Named, *inputs: Any) -> Any:
        """The module's output with these parameters.

        Raises:
            SettingError: The module writes into its buffers, as batch normalisation does in training mode.
        """
        given = {**parameters, **self.buffers}
        known = {place: name for place, name in places(self.module).items() if name in given}
        state = {place: given[name] for place, name in known.items()}
        output = torch.func.functional_call(self.module, state, inputs, tie_weights=False)
        # functional_call writes back what the module assigned to.
        if changed := [place for place, name in known.items() if state[place] is not given[name]]:
            raise _stateful(", ".join(changed[:3]))
        return output


def pure_function(module: nn.Module) -> PureFunction:
    """A module as a pure function of its parameters and inputs.

    Raises:
        SettingError: A layer whose forward pass changes it: batch normalisation in training mode with running
            statistics.

    >>> f = pure_function(nn.Linear(2, 1))
    >>> f({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, torch.tensor([[1.0, 2.0]]))
    tensor([[3.]])
    """
    tracking = [
        name
        for name, part in module.named_modules()
        if part.training and getattr(part, "track_running_stats", False)
    ]
    if tracking:
        raise _stateful(", ".join(tracking[:3]))
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return PureFunction(module, parameters, dict(module.named_buffers()))


def per_example_gradients(
    module: nn.Module, losses: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Gradient of each example's loss in every parameter, by `vmap`: (N, *parameter.shape) by name.

    Memory: N copies of the parameters. For norms and inner products alone see `torchstone.operators`, which does not
    form them.

    Args:
        module: Maps (N, ...) to (N, ...), each example by itself; in eval mode where it has batch normalisation.
        losses: (outputs, targets) -> losses (N,).
        inputs: (N, ...).
        targets: (N, ...).
    """
    f = pure_function(module)

    def loss(parameters: Named, x: Tensor, y: Tensor) -> Tensor:
        return losses(f(parameters, x[None]), y[None]).sum()

    gradient: Any = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), randomness="different")
    return gradient(f.parameters, inputs, targets)


def jacobian_products(
    function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """J v by one forward sweep and J^T u by one reverse sweep; <u, J v> = <J^T u, v>.

    Args:
        function: Of one tensor.
        x: Where.
        v: Direction, of the shape of x.
        u: Cotangent, of the shape of the output.
    """
    pushed: Any = torch.func.jvp(function, (x,), (v,))[1]
    _, pull, *_ = torch.func.vjp(function, x)
    return pushed, pull(u)[0]


def _stateful(names: str) -> SettingError:
    return SettingError(
        "A pure function may not change the module",
        f"running statistics in {names}",
        "Call module.eval() first, or use layers without running statistics.",
    )
