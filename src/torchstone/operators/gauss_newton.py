"""The generalised Gauss-Newton matrix of the empirical risk."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.curvature_map import GRAPH_BYTES
from torchstone.operators.loss_hessian import hessian_weigher, hessian_weigher_by_differences
from torchstone.operators.output_curvature import OutputCurvature, Weigher
from torchstone.specimen import Specimen


class GaussNewton(OutputCurvature):
    r"""G = (1/N) sum_n J_n^T (d^2 l_n / df^2) J_n, the Hessian with the network replaced by its linearisation.

    J_n is the Jacobian of the outputs f in the parameters. Positive semi-definite for losses that are convex in the
    outputs. For softmax cross-entropy it is the Fisher information matrix. Works for any objective: the loss Hessian
    in the outputs comes by automatic differentiation, also where the losses of a batch depend on each other.

    Cost of a product: about 2 gradients where graphs are kept, 3 where not; memory as for `Hessian`. Bias: none; where
    the network cannot be differentiated twice, J v and the loss Hessian's products are central differences and `how`
    says so.

    Args:
        specimen: What is examined.
        split: Part of the data.
        names: Only these parameters: the corresponding block of G. None for all trainable ones.
        memory_bytes: Budget for kept graphs.

    Raises:
        SpecimenError: No trainable parameter, or a complex one.

    Source: Schraudolph 2002, Neural Computation 14(7); Martens 2020, JMLR 21(146), section 8.
    """

    def __init__(
        self,
        specimen: Specimen,
        split: str = "train",
        names: Iterable[str] | None = None,
        *,
        memory_bytes: int = GRAPH_BYTES,
    ) -> None:
        super().__init__(specimen, split, names, memory_bytes)

    def _weigher(self, outputs: Tensor, batch: Batch, position: int) -> Weigher | None:  # noqa: ARG002
        return hessian_weigher(self.specimen, outputs, batch)

    def _weigher_by_differences(self, outputs: Tensor, batch: Batch, position: int) -> Weigher | None:  # noqa: ARG002
        return hessian_weigher_by_differences(self.specimen, outputs, batch)
