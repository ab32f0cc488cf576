"""Inner products of single examples' gradients, without forming them where a layer's rule allows it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from torchstone.operators.cotangents import OfLoss
from torchstone.operators.paired_rows import PairedRows
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen

GRAM_BYTES = 2**29


@dataclass(frozen=True)
class GradientGram:
    """Inner products of examples' gradients.

    Attributes:
        matrix: g_n . h_m, (N, M) in float64, on the CPU; symmetric for one split with itself.
        formed: Parameters without a rule, whose gradients were formed.
    """

    matrix: Float[Tensor, "n m"]
    formed: tuple[str, ...]


def gradient_gram(
    specimen: Specimen,
    split: str = "train",
    other: str | None = None,
    *,
    names: list[str] | None = None,
    memory_bytes: int = GRAM_BYTES,
) -> GradientGram:
    r"""K_nm = g_n . g_m for all pairs of examples, g_n the gradient of loss n in the trainable parameters.

    By layer, from activations v and back-propagated signals u: (u_n . u_m)(v_n . v_m) for dense layers, summed over pairs
    of positions where there are few, of this layer's formed gradients where there are many. The gradients as a whole
    are never formed. K / N has the non-zero eigenvalues of the empirical Fisher matrix.

    Cost: a forward and three backward passes, and N M times the layers' share of a pair (a dense layer a x b: a + b
    multiplications). Memory: the factors of all examples where they fit, else of as many as do, and the others are made
    once again for each such block. Bias: none; products in the network's type, sums in float64.

    Args:
        specimen: What is examined.
        split: Examples of the rows.
        other: Examples of the columns; None for the same.
        names: Only these parameters; None for all trainable ones.
        memory_bytes: For factors that are kept.

    Raises:
        SpecimenError: No trainable parameter; or examples influence each other, so that no gradient is one example's.
        SettingError: Losses that depend on each other.

    Source: Goodfellow 2015, arXiv:1510.01799; for products of different examples Novak, Sohl-Dickstein & Schoenholz
    2022, ICML, section 3.
    """
    space = ParameterSpace.of(specimen, names)
    rows = PairedRows(specimen, space, OfLoss(), memory_bytes)
    matrix = rows.gram(split) if other in (None, split) else rows.between(split, str(other))
    formed = set().union(*specimen.processes.of_each(rows.formed))
    return GradientGram(matrix, tuple(name for name in space.names if name in formed))
