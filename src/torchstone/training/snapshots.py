"""Copies of a network's weights at even distances along its training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchstone.errors import SettingError

State = dict[str, Tensor]


class Snapshots:
    """At most `count` states after evenly spaced numbers of updates, 0 and `budget` among them.

    Memory: `count` copies of the parameters and buffers on the CPU.

    Args:
        model: The network that is trained.
        count: How many states; 0 for none.
        budget: Updates that the training may make.

    Raises:
        SettingError: A single state, which is no trajectory, or a negative number.
    """

    def __init__(self, model: nn.Module, count: int, budget: int) -> None:
        if count < 0 or count == 1:
            raise SettingError(
                "keep_trajectory must be 0, or at least 2 for the start and the end", str(count), "Keep 30."
            )
        self._model = model
        self._due = {round(i * budget / (count - 1)) for i in range(count)} if count else set()
        self._steps: list[int] = []
        self._states: list[State] = []
        self.after(0)

    def after(self, step: int) -> None:
        """Keep the state if it is due after so many updates."""
        if step in self._due:
            self._keep(step)

    def end(self, step: int) -> None:
        """Keep the last state of a run that ended early."""
        if self._due and self._steps[-1] != step:
            self._keep(step)

    def _keep(self, step: int) -> None:
        named = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        self._states.append({name: tensor.detach().cpu().clone() for name, tensor in named.items()})
        self._steps.append(step)

    def restore(self, states: Sequence[State], steps: Sequence[int]) -> None:
        """Go on from states that were kept before."""
        self._states, self._steps = [dict(state) for state in states], list(steps)

    @property
    def states(self) -> tuple[tuple[State, ...], tuple[int, ...]]:
        """The states, and the number of updates before each."""
        return tuple(self._states), tuple(self._steps)
