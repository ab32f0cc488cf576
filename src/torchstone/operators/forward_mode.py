"""J v by forward-mode differentiation, where that is cheaper than differentiating J^T u."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from torchstone.batches import Batch
from torchstone.operators.column_gradients import SMALL_PARAMETERS
from torchstone.operators.graph import nodes_of
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen
from torchstone.stateless import StatelessCall

FORWARD_MODE = "J v in forward mode"
DISAGREE = (
    "forward and reverse mode disagree, as where a network computes without gradients what depends on weights"
)


class ForwardMode:
    """J v of a batch from one forward pass that carries tangents: 3 convolutions where a forward pass has 1.

    Differentiating J^T u in u takes 2 a layer on paper. PyTorch's formula for the derivative of a convolution's backward
    pass, however, also computes the derivatives in the input and in the weight, which nobody asked for: 4 in all, one of
    them with a kernel as large as an image. So networks with convolutions go forward: J v of a ResNet-18 took 0.9
    gradients in place of 1.6. On a GPU several columns at once outweigh that, and tiny networks spend their time on calls.

    Tangents flow through `torch.no_grad()`, gradients do not, so the first J v is held against J^T.

    Args:
        specimen: The network.
        space: Its parameters.

    Attributes:
        refused: Why not: what PyTorch said where an operation has no forward-mode derivative, or `DISAGREE`.
    """

    def __init__(self, specimen: Specimen, space: ParameterSpace) -> None:
        self._specimen, self._space = specimen, space
        self._call = StatelessCall(specimen.model, lambda _, batch: specimen.forward(batch))
        self._pays: bool | None = None
        self.refused = ""

    def pays(self, outputs: Tensor, batch: Batch) -> bool:
        """Whether this is right, and the cheaper way, for the network whose outputs these are.

        Cost: the first time 2 gradients of the batch, then nothing.
        """
        if self._pays is None:
            large = self._space.device.type == "cpu" and self._space.bytes >= SMALL_PARAMETERS
            self._pays = (
                large
                and any(node.name().startswith("ConvolutionBackward") for node in nodes_of(outputs))
                and self._agrees(outputs, batch)
            )
        return self._pays and not self.refused

    def __call__(
        self, batch: Batch, names: Sequence[str], columns: Sequence[Float[Tensor, "k ..."]]
    ) -> Float[Tensor, "k ..."] | None:
        """J V for directions of some parameters; None where PyTorch refuses, once and for all.

        Args:
            batch: Examples.
            names: Of the parameters that move.
            columns: Directions of each, (k, *shape).

        Returns:
            (k, *outputs).
        """
        moving = dict(zip(self._space.names, self._space.parameters, strict=True))
        pushed = []
        try:
            for k in range(len(columns[0])):
                with torch.no_grad(), forward_ad.dual_level():
                    duals = {
                        name: forward_ad.make_dual(moving[name].detach(), column[k].contiguous())
                        for name, column in zip(names, columns, strict=True)
                    }
                    outputs = self._call(duals, batch)
                    value, tangent = forward_ad.unpack_dual(outputs)
                    pushed.append(torch.zeros_like(value) if tangent is None else tangent.clone())
        except (NotImplementedError, RuntimeError) as error:
            self.refused = str(error).splitlines()[0] if str(error) else type(error).__name__
            return None
        return torch.stack(pushed)

    def _agrees(self, outputs: Tensor, batch: Batch) -> bool:
        """Whether |J v|^2 = <v, J^T (J v)> for a random v, to half of the digits."""
        generator = torch.Generator().manual_seed(0)
        v = [torch.randn(p.shape, generator=generator).to(p.dtype) for p in self._space.parameters]
        pushed = self(batch, self._space.names, [part[None] for part in v])
        if pushed is None:
            return False
        pulled = self._specimen.grad(
            outputs, self._space.parameters, batch, grad_outputs=pushed[0], retain_graph=True
        )
        square = pushed.double().square().sum()
        inner = torch.stack([(a * b).sum(dtype=torch.float64) for a, b in zip(v, pulled, strict=True)]).sum()
        if not bool((square - inner).abs() <= torch.finfo(outputs.dtype).eps ** 0.5 * square):
            self.refused = DISAGREE
        return not self.refused
