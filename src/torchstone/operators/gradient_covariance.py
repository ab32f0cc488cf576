"""The covariance of single examples' gradients: the noise of stochastic gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.cotangents import OfLoss
from torchstone.operators.curvature_map import GRAPH_BYTES
from torchstone.operators.model_state import ModelState
from torchstone.operators.output_curvature import OutputCurvature, Weigher, outer_weigher
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.operators.separate_examples import require_separate_examples
from torchstone.specimen import Specimen


class GradientCovariance(OutputCurvature):
    r"""C = (1/N) sum_n (g_n - g)(g_n - g)^T, g_n the gradient of loss n in the trainable parameters and g their mean.

    The mean gradient of a batch of b examples, drawn with replacement, has the covariance C / b; without replacement
    (N - b) / (N - 1) of that. C = M - g g^T with the second moment M = (1/N) sum_n g_n g_n^T, which is the empirical Fisher
    matrix and what `centred=False` gives. Rank at most N - 1, or N.

    Cost of a product: as for `GaussNewton`, and once one gradient. Bias: none as the covariance of these examples; that of
    the law they were drawn from is N / (N - 1) times as large on average.

    Args:
        specimen: What is examined.
        split: Part of the data.
        names: Only these parameters: the corresponding block. None for all trainable ones.
        centred: Whether the mean is subtracted.
        memory_bytes: Budget for kept graphs.

    Raises:
        SpecimenError: No trainable parameter; examples that influence each other.
        SettingError: Losses that depend on each other.

    Source: McCandlish, Kaplan, Amodei et al. 2018, arXiv:1812.06162, section 2.2; Kunstner, Balles & Hennig 2019, NeurIPS,
    section 3.3.
    """

    def __init__(
        self,
        specimen: Specimen,
        split: str = "train",
        names: Iterable[str] | None = None,
        *,
        centred: bool = True,
        memory_bytes: int = GRAPH_BYTES,
    ) -> None:
        super().__init__(specimen, split, names, memory_bytes)
        require_separate_examples(specimen, split)
        self.centred = centred
        self._mean: tuple[ModelState, Tensor] | None = None

    def _weigher(self, outputs: Tensor, batch: Batch, position: int) -> Weigher | None:
        return outer_weigher(OfLoss().of(self.specimen, outputs, batch, position))

    def _by_double_backward(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return self._without_mean(super()._by_double_backward(X), X)

    def _principal_by_double_backward(
        self, X: Float[Tensor, "n k"], spaces: Sequence[ParameterSpace]
    ) -> Float[Tensor, "n k"]:
        products = super()._principal_by_double_backward(X, spaces)
        if not self.centred:
            return products
        sizes, mean = [space.size for space in spaces], self._gradient()
        means = [mean[self.space.indices(space.names).to(mean.device)] for space in spaces]
        blocks = zip(products.split(sizes), means, X.double().split(sizes), strict=True)
        return torch.cat([product - own[:, None] * (own @ x) for product, own, x in blocks])

    def _by_differences(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return self._without_mean(super()._by_differences(X), X)

    def _without_mean(self, product: Float[Tensor, "n k"], X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        if not self.centred:
            return product
        mean = self._gradient()
        return product - mean[:, None] * (mean @ X.double())

    def _gradient(self) -> Float[Tensor, " n"]:
        """The mean gradient at the present parameters."""
        if self._mean is None or not self._mean[0].holds():
            gradient = self.specimen.gradient(self.split)
            self._mean = (
                ModelState(self.specimen.model),
                self.space.flatten([gradient[name] for name in self.space.names]),
            )
        return self._mean[1]
