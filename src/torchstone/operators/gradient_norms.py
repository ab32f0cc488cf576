"""Norms of single examples' gradients, without forming them where a layer's rule allows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.batch_traces import BatchTraces
from torchstone.operators.cotangents import loss_cotangent
from torchstone.operators.double_backward import twice_differentiable
from torchstone.operators.example_rows import formed_gradients
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.operators.pieces import Pieces
from torchstone.specimen import Specimen

WORK_BYTES = 2**28


@dataclass(frozen=True)
class GradientNorms:
    """Sizes of the gradients of single examples' losses.

    Attributes:
        squared: ||g_n||^2, (N,) in float64, on the CPU, in the data's order.
        per_parameter: Each parameter's share of them, by name.
        formed: Parameters without a rule, whose gradients were formed.
    """

    squared: Float[Tensor, " n"]
    per_parameter: dict[str, Float[Tensor, " n"]]
    formed: tuple[str, ...]

    @property
    def norms(self) -> Float[Tensor, " n"]:
        """||g_n||."""
        return self.squared.sqrt()

    @property
    def second_moment(self) -> float:
        """Mean of ||g_n||^2: the trace of the empirical Fisher matrix."""
        return float(self.squared.mean())


def gradient_norms(
    specimen: Specimen,
    split: str = "train",
    *,
    names: Iterable[str] | None = None,
    memory_bytes: int = WORK_BYTES,
) -> GradientNorms:
    r"""||g_n||^2 of every example, g_n the gradient of loss n in the trainable parameters.

    A dense layer's share is |u_n|^2 |v_n|^2 with its input v and the back-propagated signal u; over several positions
    sum_tt' (u_t . u_t')(v_t . v_t') or the norm of sum_t u_t v_t^T, whichever multiplies less. The gradients of parameters
    that enter in a way without a rule are formed, for these alone.

    Cost: one forward pass and three backward passes that stop at the first layer (two of them find out where the
    examples lie). Bias: none; sums are in float64.

    Args:
        specimen: What is examined.
        split: Part of the data.
        names: Only these parameters; None for all trainable ones.
        memory_bytes: For what the norms need beside the graph; batches are cut to keep within.

    Raises:
        SpecimenError: No trainable parameter; examples that influence each other.
        SettingError: Losses that depend on each other.

    Source: Goodfellow 2015, arXiv:1510.01799; Rochette, Manoel & Tramel 2019, arXiv:1912.06015 (convolutions).
    """
    work = _Work(specimen, ParameterSpace.of(specimen, names), memory_bytes)
    with specimen.measuring(), twice_differentiable(specimen.model, specimen.device):
        table = specimen.map_over(work.of_batch, split)
    formed = set().union(*specimen.processes.of_each(work.formed))
    columns = dict(zip(work.space.names, table.T, strict=True))
    return GradientNorms(table.sum(1), columns, tuple(name for name in columns if name in formed))


class _Work:
    def __init__(self, specimen: Specimen, space: ParameterSpace, memory_bytes: int) -> None:
        self.specimen, self.space, self.memory_bytes = specimen, space, memory_bytes
        self.parameters = dict(zip(space.names, space.parameters, strict=True))
        self.pieces = Pieces(specimen, self._bytes, memory_bytes)
        self.formed: set[str] = set()

    def of_batch(self, batch: Batch) -> Float[Tensor, "n p"]:
        """Squared norms by example and parameter."""
        with torch.enable_grad():
            return torch.cat([self._of_piece(piece) for piece, _ in self.pieces.of(batch)])

    def _bytes(self, few: Batch) -> int:
        outputs = self.specimen.forward(few)
        if not outputs.requires_grad:
            return 0
        traces = BatchTraces.of(self.specimen, few, outputs, self.parameters, 1)
        return traces.bytes_per_example() * outputs.shape[0]

    def _of_piece(self, batch: Batch) -> Float[Tensor, "n p"]:
        outputs = self.specimen.forward(batch)
        cotangent = loss_cotangent(self.specimen, outputs, batch)
        count = outputs.shape[0]
        if not outputs.requires_grad:
            return torch.zeros(count, len(self.parameters), dtype=torch.float64)
        traces = BatchTraces.of(self.specimen, batch, outputs, self.parameters, 1)
        signs = torch.ones(count, dtype=torch.float64, device=outputs.device)
        found = traces.norms(lambda _k: (cotangent, signs), 1, self.memory_bytes, each=False)
        if lacking := [name for name in self.parameters if name not in found]:
            rows = formed_gradients(
                self.specimen, batch, outputs, lacking, cotangent[None], self.memory_bytes
            )
            found |= {
                name: one.gradients.double().square().sum((1, 2))[None].cpu() for name, one in rows.items()
            }
        self.formed |= set(traces.loose)
        return torch.stack([found[name][0] for name in self.parameters], dim=1)
