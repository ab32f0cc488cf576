r"""Bounds from the size of the weights rather than their number: layers measured by sums of absolute weights.

**Class.** Networks of L weight layers, each hidden unit with absolute incoming weights that sum to at most :math:`A_i`, the outputs'
summing over *all* outputs to at most :math:`A_L`, activations 1-Lipschitz with :math:`\phi(0) = 0`; :math:`A = \prod_i A_i`. How many
units a layer has does not matter.

**Complexity.** With independent signs for each of C outputs, :math:`V = \max_j \sum_i x_{ij}^2` over the d input coordinates,

.. math:: E \sup_f \frac1n \sum_{i,k} \sigma_{ik} f_k(x_i) \le \frac A n \sqrt{2 V T}, \qquad
          T = (L - 1) \ln 2 + \ln(2 d C).

*Derivation.* For :math:`\lambda > 0`, Jensen bounds the expectation E by :math:`\frac1\lambda \ln E \exp(\lambda \sup \dots)`. A supremum over
:math:`\|w\|_1 \le A_i` is :math:`A_i \max_u |\cdot|` over single units u, which stay in a class of the same kind. Absolute values and
activations go by contraction in the form :math:`E e^{\lambda \sup |\sum \sigma \phi(h)|} \le 2 E e^{\lambda \sup |\sum \sigma h|}` (Ledoux & Talagrand 1991,
equation 4.20, for both signs), a factor 2 a hidden layer. At the inputs
:math:`E \max_{j,k} e^{\lambda A |\sum_i \sigma_{ik} x_{ij}|} \le 2 d C\, e^{\lambda^2 A^2 V / 2}`; the best :math:`\lambda` gives the claim. It is the argument of
Golowich, Rakhlin & Shamir 2018 (theorem 2) with these constants; depth enters by its root only.

*Maxima.* A maximum over windows of K units multiplies A by K and adds :math:`\lceil \log_2 K \rceil \ln \frac32` to T, from
:math:`\max(a, b) = \frac12 (a + b + |a - b|)` for each halving. Averages cost nothing.

*Biases* are weights of a constant input 1 that is carried along: :math:`A_i = \max(1, \max_u \|w_u\|_1 + |b_u|)`, d grows by one and V is
at least n. ReLUs carry it as one unit more. Past activations with :math:`\phi(1) \ne 1` (tanh) it goes by itself, so that a layer's units are two
families: :math:`E e^{\max(a, b)} \le E e^a + E e^b` makes the factor 2 of a hidden layer a 3 (`branches`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from torchstone.bounds.convolution import ConvolutionLayer
from torchstone.bounds.dense import DenseLayer, check_layer
from torchstone.bounds.risk_bound import check_at_least, check_count
from torchstone.errors import NumericalError, SettingError

Layer = DenseLayer | ConvolutionLayer


@dataclass(frozen=True)
class WeightSize:
    r"""The l1 norms of a network's layers, which its number of units does not enter.

    Args:
        log_value: :math:`\ln A`, the sum of the logarithms of `layers`; minus infinity for a network that is zero.
        layers: :math:`A_i`: largest sum of absolute incoming weights of a hidden unit; for the last layer their sum over outputs.
        augmented: Whether a constant unit carries biases.
        weights: Numbers in the layers, for comparison.
    """

    log_value: float
    layers: tuple[float, ...]
    augmented: bool
    weights: int

    @property
    def value(self) -> float:
        """A; infinite where it exceeds the range of float64."""
        return math.exp(self.log_value) if self.log_value < 709.78 else math.inf


def weight_size(layers: Sequence[Layer], lipschitz: Sequence[float] | float = 1.0) -> WeightSize:
    r"""Product over layers of the largest sum of absolute incoming weights of a unit.

    Not changed by duplicating units (each copy with its share of the outgoing weight), nor, without biases, by rescaling
    layers by (c, 1/c).

    Cost: one pass over the weights.

    Args:
        layers: First layer first, dense or convolution.
        lipschitz: Of the activation after each layer; one number for all.

    Returns:
        The product and its factors.

    Raises:
        SettingError: No layers, or another number of constants.
        NumericalError: Weights that are not finite.

    Example:
        >>> import torch
        >>> net = [DenseLayer(torch.tensor([[1.0, -2.0], [0.5, 0.5]])), DenseLayer(torch.tensor([[3.0, -1.0]]))]
        >>> weight_size(net).layers, round(weight_size(net).value, 9)
        ((3.0, 4.0), 12.0)

    Source: Bartlett 1998; Bartlett & Mendelson 2002, theorem 18; Golowich, Rakhlin & Shamir 2018, theorem 2.
    """
    rhos = [float(lipschitz)] * len(layers) if isinstance(lipschitz, int | float) else list(lipschitz)
    if not layers or len(rhos) != len(layers):
        raise SettingError(
            "weight_size needs at least one layer, and one Lipschitz constant a layer",
            f"{len(layers)} layers, {len(rhos)} constants",
            "Pass the layers in the order of the forward pass.",
        )
    augmented = any(layer.bias is not None for layer in layers)
    norms = []
    for index, (layer, rho) in enumerate(zip(layers, rhos, strict=True)):
        check_at_least("A Lipschitz constant", rho, strictly=True)
        check_layer(layer.weight, layer.bias)
        sums = _incoming(layer)
        if index == len(layers) - 1:
            positions = layer.dimensions[0] // layer.weight.shape[0]
            norm = float(sums.sum()) * positions
        else:
            norm = float(sums.max()) * rho
            norm = max(norm, 1.0) if augmented else norm
        norms.append(norm)
    log_value = math.fsum(math.log(norm) for norm in norms) if min(norms) > 0 else -math.inf
    weights = sum(w.numel() for layer in layers for w in (layer.weight, layer.bias) if w is not None)
    return WeightSize(log_value, tuple(norms), augmented, weights)


def largest_coordinate_norm(x: Tensor, constant: bool = False) -> float:
    r""":math:`\sqrt V = \max_j (\sum_i x_{ij}^2)^{1/2}`: the largest norm of an input coordinate over the sample.

    Args:
        x: Inputs (n, ...), flattened to (n, d).
        constant: Whether a constant coordinate 1 belongs to them.

    Returns:
        The norm.

    Raises:
        SettingError: No inputs.
        NumericalError: Inputs that are not finite.
    """
    if x.numel() == 0 or x.ndim < 2:
        raise SettingError(
            "A coordinate norm needs inputs (n, d)", f"shape {tuple(x.shape)}", "Pass the inputs."
        )
    largest = float(x.detach().flatten(1).double().norm(dim=0).max())
    if not math.isfinite(largest):
        raise NumericalError("Inputs must be finite", "NaN or infinity", "Remove them.")
    return max(largest, math.sqrt(len(x))) if constant else largest


def l1_rademacher(
    norm: float,
    coordinate_norm: float,
    dimensions: int,
    n: int,
    depth: int,
    outputs: int = 1,
    maxima: Sequence[int] = (),
    branches: int = 2,
) -> float:
    r"""Rademacher complexity of networks of a given weight size on a sample; formula and derivation in the module.

    Args:
        norm: A, a `weight_size` or, for networks that are positively homogeneous, an l1 path norm.
        coordinate_norm: :math:`\sqrt V`, from `largest_coordinate_norm`.
        dimensions: d, inputs and the constant where there are biases.
        n: Number of examples.
        depth: L, weight layers.
        outputs: C; the complexity is that of the sum over outputs, each with signs of its own.
        maxima: Window sizes K of pooling by maximum.
        branches: 3 where biases are carried past activations other than ReLUs, else 2.

    Returns:
        An upper bound on the complexity; it does not depend on the width.

    Raises:
        SettingError: An argument out of range.

    Example:
        >>> round(l1_rademacher(10.0, 100.0, dimensions=64, n=10_000, depth=2), 4)
        0.333

    Source: Golowich, Rakhlin & Shamir 2018, theorem 2, with the constants of the module's derivation; Maurer 2016 for outputs.
    """
    check_count("n", n)
    norm, coordinate_norm = (
        check_at_least("norm", norm),
        check_at_least("coordinate_norm", coordinate_norm),
    )
    for window in maxima:
        norm *= check_count("A window", window)
    return (
        norm * coordinate_norm * math.sqrt(2 * log_classes(dimensions, depth, outputs, maxima, branches)) / n
    )


def log_classes(
    dimensions: int, depth: int, outputs: int = 1, maxima: Sequence[int] = (), branches: int = 2
) -> float:
    r""":math:`T = (L - 1) \ln 2 + \ln (2 d C) + \sum \lceil \log_2 K \rceil \ln \frac32`, the logarithm in `l1_rademacher`.

    Args:
        dimensions: d.
        depth: L.
        outputs: C.
        maxima: Window sizes.
        branches: 2 or 3, whose logarithm each hidden layer adds.

    Returns:
        Nats.
    """
    pairs = check_count("dimensions", dimensions) * check_count("outputs", outputs)
    halvings = sum(math.ceil(math.log2(window)) for window in maxima)
    hidden = (check_count("depth", depth) - 1) * math.log(check_count("branches", branches, least=2))
    return hidden + math.log(2 * pairs) + halvings * math.log(1.5)


def two_layer_rademacher(
    output_norm: float, hidden_norm: float, dimensions: int, n: int, largest_input: float = 1.0
) -> float:
    r"""The classical bound for two layers, :math:`2 A B X \sqrt{2 \ln(2d) / n}`, whatever the number of hidden units.

    The class: :math:`\sum_j a_j \phi(\langle w_j, x \rangle)` with :math:`\|a\|_1 \le A`, :math:`\|w_j\|_1 \le B`, inputs in
    :math:`[-X, X]^d`, :math:`\phi` 1-Lipschitz with :math:`\phi(0) = 0`. `l1_rademacher` replaces the factor 2 by
    :math:`\sqrt{\ln 4d / \ln 2d}`.

    Args:
        output_norm: A.
        hidden_norm: B.
        dimensions: d.
        n: Number of examples.
        largest_input: X.

    Returns:
        The bound.

    Raises:
        SettingError: An argument out of range.

    Example:
        >>> round(two_layer_rademacher(5.0, 2.0, dimensions=64, n=10_000), 4)
        0.623

    Source: Bartlett & Mendelson 2002, theorem 18; Bartlett 1998.
    """
    norms = [
        check_at_least(name, value)
        for name, value in (
            ("output_norm", output_norm),
            ("hidden_norm", hidden_norm),
            ("largest_input", largest_input),
        )
    ]
    dimensions = check_count("dimensions", dimensions)
    return 2 * math.prod(norms) * math.sqrt(2 * math.log(2 * dimensions) / check_count("n", n))


def _incoming(layer: Layer) -> Tensor:
    """Sum of absolute incoming weights and bias of each unit or channel; at borders a unit has fewer."""
    sums = layer.weight.detach().double().abs().flatten(1).sum(1)
    return sums if layer.bias is None else sums + layer.bias.detach().to(sums).abs()
