"""Spectral complexity of a network: its Lipschitz constant times a correction for how far its layers have moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchstone.bounds.convolution import ConvolutionLayer
from torchstone.bounds.dense import DenseLayer
from torchstone.errors import NumericalError, SettingError

Layer = DenseLayer | ConvolutionLayer


@dataclass(frozen=True)
class SpectralComplexity:
    r"""Spectral complexity :math:`R_A` and what it is made of, one entry a layer.

    Args:
        log_value: :math:`\ln R_A`; minus infinity for a network equal to its references.
        operator_norms: :math:`\|A_i\|_{op}`, or upper bounds of them; with biases, of the augmented maps.
        two_one_norms: :math:`\|(A_i - M_i)^\top\|_{2,1}`.
        lipschitz: :math:`\rho_i` of the nonlinearities.
        width: Largest dimension W of any layer's input or output.
        augmented: Whether a constant unit carries biases through the network.
    """

    log_value: float
    operator_norms: tuple[float, ...]
    two_one_norms: tuple[float, ...]
    lipschitz: tuple[float, ...]
    width: int
    augmented: bool

    @property
    def value(self) -> float:
        """Spectral complexity; infinite where it exceeds the range of float64."""
        return math.exp(self.log_value) if self.log_value < 709.78 else math.inf

    @property
    def log_lipschitz_product(self) -> float:
        """Logarithm of the product of all operator norms and Lipschitz constants."""
        return sum(_log(s) + _log(rho) for s, rho in zip(self.operator_norms, self.lipschitz, strict=True))


def spectral_complexity(
    layers: Sequence[Layer],
    references: Sequence[Layer | None] | None = None,
    lipschitz: Sequence[float] | float = 1.0,
) -> SpectralComplexity:
    r"""Spectral complexity of the network :math:`x \mapsto \sigma_L(A_L \cdots \sigma_1(A_1 x))`.

    .. math:: R_A = \Big(\prod_i \rho_i \|A_i\|_{op}\Big)
        \Big(\sum_i \big(\|A_i^\top - M_i^\top\|_{2,1} / \|A_i\|_{op}\big)^{2/3}\Big)^{3/2}

    Written as :math:`(\sum_i (\|A_i^\top - M_i^\top\|_{2,1} \rho_i \prod_{j \ne i} \rho_j \|A_j\|_{op})^{2/3})^{3/2}` it is
    defined for zero layers too, and increases with every operator norm: an upper bound of a norm (zero-padded
    convolutions) gives an upper bound of :math:`R_A`. It is computed in logarithms.

    The paper has no biases. Where a layer has one, a constant unit 1 is carried along: hidden layers become
    [[A, b], [0, 1]], the last one [A, b]; references carry the same 1, and a bias counts as one more incoming weight.
    The norm of such a map is bounded by that of the 2 x 2 matrix of its blocks' norms, and :math:`\rho_i` by
    :math:`\max(\rho_i, 1)`. Without biases, and with all references zero, rescaling two layers by (c, 1/c) changes nothing.

    Cost: one singular value decomposition a dense layer, small eigenvalue problems for a convolution; no data.

    Args:
        layers: First layer first; batch norm folded in by the caller.
        references: :math:`M_i`, one layer or None (zero) each: the layers at initialisation, `layer.identity()` for
            residual ones. Fixed before the data. None for all zero.
        lipschitz: :math:`\rho_i` of the fixed maps after each layer (activation and pooling), with
            :math:`\sigma_i(0) = 0`; one number for all or one a layer.

    Returns:
        The complexity and its ingredients.

    Raises:
        SettingError: No layers, layers that do not chain, or another number of references or constants.
        NumericalError: Weights so large that a single norm overflows, above 1e150.

    Example:
        >>> import torch
        >>> round(spectral_complexity([DenseLayer(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))]).value, 9)
        6.0

    Source: Bartlett, Foster & Telgarsky 2017, equation (1.2).
    """
    starts = [None] * len(layers) if references is None else list(references)
    rhos = (
        [float(lipschitz)] * len(layers)
        if isinstance(lipschitz, int | float)
        else [float(r) for r in lipschitz]
    )
    _check(layers, starts, rhos)
    augmented = any(layer.bias is not None for layer in layers)
    norms = [layer.norm_bound() for layer in layers]
    if augmented:
        last = len(layers) - 1
        pairs = zip(layers, norms, strict=True)
        norms = [_with_bias(s, layer.bias_norm(), final=i == last) for i, (layer, s) in enumerate(pairs)]
        rhos = [max(rho, 1.0) for rho in rhos]
    moves = [_moved(layer, start) for layer, start in zip(layers, starts, strict=True)]
    if not all(map(math.isfinite, (*norms, *moves))):
        raise NumericalError(
            "spectral_complexity needs norms inside the range of float64",
            f"operator norms {norms}, (2,1) norms {moves}",
            "The network has diverged.",
        )
    width = max(max(layer.dimensions) for layer in layers) + int(augmented)
    log_value = log_complexity(norms, moves, rhos)
    return SpectralComplexity(log_value, tuple(norms), tuple(moves), tuple(rhos), width, augmented)


def log_complexity(norms: Sequence[float], moves: Sequence[float], lipschitz: Sequence[float]) -> float:
    """Logarithm of the spectral complexity with given norms, (2,1) norms and Lipschitz constants."""
    logs = [_log(s) for s in norms]
    rho = sum(_log(r) for r in lipschitz)
    terms = []
    for i, move in enumerate(moves):
        others = math.fsum(log for j, log in enumerate(logs) if j != i)
        terms.append((_log(move) + others + rho) * 2 / 3)
    top = max(terms)
    if top == -math.inf:
        return -math.inf
    return 1.5 * (top + math.log(math.fsum(math.exp(term - top) for term in terms)))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def _with_bias(norm: float, bias: float, final: bool) -> float:
    """Norm of [[norm, bias], [0, 1]], or of its first row."""
    if final:
        return math.hypot(norm, bias)
    # Half the sum and half the difference of its two singular values, without squares that overflow.
    return math.hypot(norm + 1, bias) / 2 + math.hypot(norm - 1, bias) / 2


def _moved(layer: Layer, start: Layer | None) -> float:
    if isinstance(layer, DenseLayer) and (start is None or isinstance(start, DenseLayer)):
        return layer.two_one_norm(start)
    if isinstance(layer, ConvolutionLayer) and (start is None or isinstance(start, ConvolutionLayer)):
        return layer.two_one_norm(start)
    raise SettingError(
        "A reference must be of its layer's kind",
        f"{type(start).__name__} for {type(layer).__name__}",
        "Pass the layers of the same network in the same order.",
    )


def _check(layers: Sequence[Layer], references: Sequence[Layer | None], lipschitz: Sequence[float]) -> None:
    if not layers or len(references) != len(layers) or len(lipschitz) != len(layers):
        raise SettingError(
            "spectral_complexity needs at least one layer, and one reference and Lipschitz constant a layer",
            f"{len(layers)} layers, {len(references)} references, {len(lipschitz)} constants",
            "Pass None for a zero reference.",
        )
    if not all(math.isfinite(rho) and rho > 0 for rho in lipschitz):
        raise SettingError(
            "Lipschitz constants must be positive", str(list(lipschitz)), "ReLU and tanh have 1."
        )
