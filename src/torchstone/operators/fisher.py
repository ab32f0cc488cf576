"""The Fisher information matrix of a network's predictive distribution, exact, sampled, and the empirical look-alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.operators.cotangents import Columns, Cotangents, OfLoss
from torchstone.operators.curvature_map import GRAPH_BYTES
from torchstone.operators.loss_hessian import hessian_weigher, hessian_weigher_by_differences
from torchstone.operators.model_state import ModelState
from torchstone.operators.output_curvature import OutputCurvature, Weigher, outer_weigher
from torchstone.operators.predictive import OfLabels, require_predictive
from torchstone.operators.separate_examples import require_separate_examples
from torchstone.specimen import Specimen

FisherKind = Literal["true", "sampled", "empirical"]


class Fisher(OutputCurvature):
    r"""F = (1/N) sum_n E_y[grad log p(y | x_n) grad log p(y | x_n)^T], in the trainable parameters.

    The three kinds differ in where the label y comes from:

    - "true": y follows the network's own prediction p(. | x_n), and the expectation is taken exactly. Labels of the data
      play no part. For softmax cross-entropy this is (1/N) sum_n J_n^T (diag(p_n) - p_n p_n^T) J_n, the Gauss-Newton
      matrix. This is the matrix of natural gradients, of the distance between networks, of Laplace approximations.
    - "sampled": `samples` labels an example are drawn from p(. | x_n). Unbiased for "true". v^T F v has the variance
      (1/N^2) sum_n Var_y[(g_ny . v)^2] / samples, and the rank is at most N samples, so single numbers that sum over many
      directions are good after few samples, while small eigenvalues are not. A product costs as much as one with
      "true", less only where the outputs outweigh the network; draws pay off where rows are counted
      (`dual_eigenpairs`).
    - "empirical": y is the label that was observed: (1/N) sum_n g_n g_n^T with g_n the gradient of loss n. Despite its
      name it estimates "true" only if the labels do follow p; it takes on the size of the gradients, so it vanishes
      where the data are fitted, while the curvature need not, and it is not curvature where the model is
      misspecified. It is the second moment of the gradient noise; use it for that.

    Scale: that of the loss. A loss that averages an example's T positions weighs each position 1/T in "true" and
    "sampled", whose labels are independent given the inputs; "empirical" multiplies whole gradients of averages, and is
    smaller by about another factor T. Mean squared error over D outputs is -log p of a Gaussian with variance D/2 in each
    output; for noise variance s^2 multiply by D / (2 s^2). Label smoothing changes "empirical" only.

    Cost of a product: as for `GaussNewton`. Bias: none.

    Args:
        specimen: What is examined.
        kind: "true", "sampled" or "empirical".
        split: Part of the data.
        names: Only these parameters: the corresponding block of F. None for all trainable ones.
        samples: Labels drawn an example, for "sampled".
        generator: Draws a seed for them; needed for "sampled". The matrix stays the same from product to product.
        memory_bytes: Budget for kept graphs, and again for drawn labels.

    Raises:
        SettingError: Another kind; fewer samples than one; no generator; an objective without a predictive distribution;
            losses that depend on each other, for "empirical".
        SpecimenError: No trainable parameter; examples that influence each other, for "empirical".

    Source: Martens 2020, JMLR 21(146), sections 5, 9 and 11; Kunstner, Balles & Hennig 2019, NeurIPS, equations (2) and
    (3) and section 3.
    """

    def __init__(
        self,
        specimen: Specimen,
        kind: FisherKind = "true",
        split: str = "train",
        names: Iterable[str] | None = None,
        *,
        samples: int = 1,
        generator: torch.Generator | None = None,
        memory_bytes: int = GRAPH_BYTES,
    ) -> None:
        super().__init__(specimen, split, names, memory_bytes)
        self.kind, self.cotangents = kind, fisher_cotangents(specimen, kind, samples, generator)
        self._memory_bytes = memory_bytes
        self._drawn: dict[int, Columns] = {}
        self._drawn_at: ModelState | None = None
        if kind == "empirical":
            require_separate_examples(specimen, split)

    def _weigher(self, outputs: Tensor, batch: Batch, position: int) -> Weigher | None:
        if self.cotangents is None:
            return hessian_weigher(self.specimen, outputs, batch)
        if self.kind == "empirical":
            return outer_weigher(self.cotangents.of(self.specimen, outputs, batch, 0))
        return outer_weigher(self._labels(self.cotangents, outputs, batch, position))

    def _labels(self, cotangents: Cotangents, outputs: Tensor, batch: Batch, position: int) -> Columns:
        """What was drawn for a batch: kept where it fits, as finding out from what to draw is not cheap for large outputs."""
        if self._drawn_at is None or not self._drawn_at.holds():
            self._drawn, self._drawn_at = {}, ModelState(self.specimen.model)
        if position not in self._drawn:
            made = cotangents.of(self.specimen, outputs, batch, self._firsts[position])
            size = made[0].numel() * made[0].element_size()
            if size * (len(self._drawn) + 1) > self._memory_bytes:
                return made
            self._drawn[position] = made
        return self._drawn[position]

    def _weigher_by_differences(self, outputs: Tensor, batch: Batch, position: int) -> Weigher | None:
        if self.cotangents is None:
            return hessian_weigher_by_differences(self.specimen, outputs, batch)
        return self._weigher(outputs, batch, position)


def fisher_cotangents(
    specimen: Specimen, kind: FisherKind, samples: int, generator: torch.Generator | None
) -> OfLoss | OfLabels | None:
    """What an example's factors are; None where the exact expectation is meant.

    Raises:
        SettingError: See `Fisher`.
    """
    if kind not in get_args(FisherKind):
        raise SettingError(
            "kind must be one of " + ", ".join(map(repr, get_args(FisherKind))), repr(kind), 'Pass "true".'
        )
    if kind == "empirical":
        return OfLoss()
    require_predictive(specimen.objective, kind)
    if kind == "true":
        return None
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise SettingError("samples must be a whole number of 1 or more", repr(samples), "Pass 1.")
    if generator is None:
        raise SettingError(
            'Fisher(kind="sampled") draws labels',
            "no generator",
            "Pass generator=torch.Generator().manual_seed(0).",
        )
    return OfLabels(samples, int(torch.randint(2**62, (), generator=generator)))
