"""Whether a model is still the one of which something was computed."""

from __future__ import annotations

from torch import Tensor, nn

from torchstone import batches


class ModelState:
    """The parameters and buffers of a model at one moment.

    Counters of updates in place alone would miss changes through `.data`, `vector_to_parameters`, and running statistics
    that a pass in training mode updates; values alone would miss an update in place to the same values, after which
    graphs cannot be used.

    Cost: one copy of the parameters and buffers; to ask costs one pass over them.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._places = self._now()
        self._values = [tensor.detach().clone() for tensor in self._tensors()]

    def holds(self) -> bool:
        """Whether the model is as it was."""
        now = self._tensors()
        if self._places != self._now() or len(now) != len(self._values):
            return False
        return all(map(batches.same_bits, now, self._values))

    def _tensors(self) -> list[Tensor]:
        return [*self._model.parameters(), *self._model.buffers()]

    def _now(self) -> list[tuple[int, int]]:
        return [(one._version, one.data_ptr()) for one in self._model.parameters()]
