"""Many networks of one shape, their parameters stacked: evaluated together, taken apart one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from torchstone.errors import SettingError
from torchstone.stateless import StatelessCall
from torchstone.training.evaluation import PerExample, one_per_example

CELLS = 16384  # members times examples in one pass of an evaluation


@dataclass(frozen=True)
class Ensemble:
    """K networks of one architecture.

    Args:
        template: One of them, for its structure; its own weights are nobody's.
        parameters: Stacked parameters (K, ...) by name.
        buffers: Stacked buffers (K, ...) by name.
        vectorised: Whether the network can be evaluated for all members at once; else they are taken in turns.
    """

    template: nn.Module
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    vectorised: bool = True

    @classmethod
    def of(cls, models: Sequence[nn.Module], vectorised: bool = True) -> Ensemble:
        """Stack networks.

        Raises:
            SettingError: None, or networks of different architectures; the first difference is named.
        """
        check_same_architecture(models)

        def stacked(named: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            # Contiguous also where a network's own are not (channels last): fused updates count on it.
            return {
                name: torch.stack([one[name].detach() for one in named]).contiguous() for name in named[0]
            }

        parameters = stacked([dict(model.named_parameters()) for model in models])
        buffers = stacked([dict(model.named_buffers()) for model in models])
        return cls(copy.deepcopy(models[0]).eval(), parameters, buffers, vectorised)

    def __len__(self) -> int:
        tensors = [*self.parameters.values(), *self.buffers.values()]
        return len(tensors[0]) if tensors else 0

    def member(self, index: int) -> nn.Module:
        """A copy of one network, in eval mode."""
        model = copy.deepcopy(self.template).eval()
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            for name, stack in {**self.parameters, **self.buffers}.items():
                own[name].copy_(stack[index])
        return model

    def subset(self, members: Sequence[int] | Tensor) -> Ensemble:
        """Some of the networks, copied."""
        chosen = torch.as_tensor(members)
        return Ensemble(
            self.template,
            {name: stack.detach()[chosen.to(stack.device)] for name, stack in self.parameters.items()},
            {name: stack.detach()[chosen.to(stack.device)] for name, stack in self.buffers.items()},
            self.vectorised,
        )

    def outputs(self, x: Any) -> Tensor:
        """Outputs of every member in eval mode, (K, N, ...).

        Cost: K forward passes over x.
        """
        return self.map(lambda model, some_x, _: model(some_x), x, x)

    def evaluate(self, function: PerExample, x: Any, y: Any) -> Tensor:
        """A loss or error of every example under every member in eval mode, without gradients.

        Cost: K forward passes over x.

        Args:
            function: As for `evaluation.evaluate`.
            x: Inputs (N, ...), or a tree of them.
            y: Targets (N, ...).

        Returns:
            (K, N), float64.

        Raises:
            ObjectiveError: The function does not return one number per example.
        """

        def checked(model: nn.Module, some_x: Any, some_y: Any) -> Tensor:
            return one_per_example(function(model, some_x, some_y), size(some_x))

        return self.map(checked, x, y).double()

    def map(self, function: Callable[[nn.Module, Any, Any], Tensor], x: Any, y: Any) -> Tensor:
        """Rows (K, N, ...) of a function of a network, inputs and targets, in eval mode without gradients."""
        step = max(1, CELLS // max(1, len(self)))
        count = size(x)
        parts = []
        with torch.no_grad():
            for start in range(0, count, step):
                some = slice(start, min(count, start + step))
                some_x, some_y = (tree_map(lambda t: t[some], tree) for tree in (x, y))  # noqa: B023
                parts.append(self._of_batch(function, some_x, some_y))
        return torch.cat(parts, dim=1)

    def _of_batch(self, function: Any, x: Any, y: Any) -> Tensor:
        call = StatelessCall(self.template.eval(), function)

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            return call({**parameters, **buffers}, x, y)

        parameters, buffers = dict(self.parameters), dict(self.buffers)
        if self.vectorised and (parameters or buffers):
            return vmap(one, randomness="different")(parameters, buffers)
        return torch.stack(
            [
                one({n: v[k] for n, v in parameters.items()}, {n: v[k] for n, v in buffers.items()})
                for k in range(len(self))
            ]
        )


def size(tree: Any) -> int:
    """Number of examples in a tensor or a tree of tensors."""
    return len(tree_leaves(tree)[0])


def check_same_architecture(models: Sequence[nn.Module]) -> None:
    """Members must have the same modules with the same settings, and parameters of the same shapes and types.

    Raises:
        SettingError: They do not, or there are none.
    """
    if not models:
        raise SettingError(
            "models must hold at least one network", "none", "Pass one network for each member."
        )
    first = _structure(models[0])
    for k, model in enumerate(models):
        other = _structure(model)
        if other != first:
            mine = next((line for line in first if line not in other), first[-1])
            its = next((line for line in other if line not in first), "nothing in its place")
            raise SettingError(
                "All members must be networks of one architecture",
                f"member 0 has {mine}, member {k} {its}",
                "Train groups of equal networks, one call each.",
            )


def _structure(model: nn.Module) -> list[str]:
    modules = [
        f"{name or 'itself'}: {type(m).__name__}({m.extra_repr()})" for name, m in model.named_modules()
    ]
    named = [*model.named_parameters(), *model.named_buffers()]
    tensors = [f"{name}: {str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for name, t in named]
    trained = [
        f"{name}: {'trained' if p.requires_grad else 'frozen'}" for name, p in model.named_parameters()
    ]
    return [*modules, *tensors, *trained]
