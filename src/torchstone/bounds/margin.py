"""Margins of a classifier, and norms of its weights that do or do not see a rescaling of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Margin of each example, :math:`f(x)_y - \max_{j \ne y} f(x)_j`.

    Positive exactly when the example is right whatever the rule for ties; zero for a tie; negative when wrong.

    Args:
        logits: (..., C), C >= 2, in the network's own unit.
        labels: (...), integers in 0..C-1.

    Returns:
        (...) in float64, in the unit of the logits.

    Raises:
        SettingError: Fewer than two classes, or labels that do not match the logits.
        NumericalError: A logit is NaN.

    Example:
        >>> margins(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).tolist()
        [1.0]

    Source: Bartlett, Foster & Telgarsky 2017, section 1.
    """
    if (
        logits.ndim < 1
        or logits.shape[-1] < 2
        or labels.shape != logits.shape[:-1]
        or labels.is_floating_point()
    ):
        raise SettingError(
            "margins need logits (..., C) of at least two classes and integer labels (...)",
            f"{tuple(logits.shape)} and {labels.dtype} {tuple(labels.shape)}",
            "A binary network with one logit z has logits (0, z).",
        )
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= logits.shape[-1]):
        raise SettingError(
            f"labels must lie in 0..{logits.shape[-1] - 1}",
            f"{int(labels.min())}..{int(labels.max())}",
            "Drop ignored examples (label -100) first.",
        )
    if bool(torch.isnan(logits).any()):
        raise NumericalError("margins need logits without NaN", "NaN", "Find the layer that produced it.")
    scores = logits.detach().double()
    index = labels.long().unsqueeze(-1)
    right = scores.gather(-1, index).squeeze(-1)
    return right - scores.scatter(-1, index, -math.inf).amax(-1)


def normalised_margins(margins: Tensor, complexity: float, data_norm: float, examples: int) -> Tensor:
    r"""Margins in the unit in which the spectral bound reads them: :math:`m_i / (R_A \|X\|_F / n)`.

    Comparable between networks: rescaling a layer of a positively homogeneous network leaves them alone.

    Args:
        margins: (n,), from `margins`.
        complexity: :math:`R_A`, from `spectral_complexity`.
        data_norm: :math:`\|X\|_F` of the n inputs.
        examples: n.

    Returns:
        (n,), without unit.

    Raises:
        SettingError: A scale that is not positive and finite.

    Source: Bartlett, Foster & Telgarsky 2017, section 1 and figure 3.
    """
    scale = complexity * data_norm / max(examples, 1)
    if not (math.isfinite(scale) and scale > 0 and examples > 0):
        raise SettingError(
            "normalised_margins needs a positive finite complexity, data norm and number of examples",
            f"{complexity}, {data_norm}, {examples}",
            "A network equal to its reference matrices has complexity 0 and no normalised margin.",
        )
    return margins / scale


def margin_choices(margins: Tensor) -> list[float]:
    """Margins to evaluate a bound at: 32 quantiles of the positive ones, or 1 where none is (the unit of the logits).

    Args:
        margins: (n,), float64.

    Returns:
        Increasing margins.
    """
    positive = margins[(margins > 0) & torch.isfinite(margins)]
    if not len(positive):
        return [1.0]
    return positive.quantile(torch.linspace(0, 1, 32, dtype=positive.dtype)).tolist()


def path_norm(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None] | None = None, order: float = 2.0
) -> float:
    r"""Norm over all paths from an input to an output: :math:`(\sum_{paths} \prod_{e} |w_e|^p)^{1/p}`.

    One product of entrywise powers: :math:`(\mathbf 1^\top |W_L|^p \cdots |W_1|^p \mathbf 1)^{1/p}`. Invariant to every
    rescaling of units that keeps the function of a positively homogeneous network. Biases start paths of their own.

    Cost: one pass through the network with one example.

    Args:
        weights: Dense matrices (out, in), first layer first.
        biases: One (out,) tensor or None a layer; None for no biases at all.
        order: p, positive.

    Returns:
        The norm; infinite only if it exceeds the range of float64.

    Raises:
        SettingError: No layers, layers that do not chain, or a non-positive order.
        NumericalError: Weights that are NaN or infinite.

    Example:
        >>> round(path_norm([torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0]])]), 12)
        10.0

    Source: Neyshabur, Tomioka & Srebro 2015 (norm-based capacity control), section 4.
    """
    matrices = _checked_chain(weights)
    if not order > 0:
        raise SettingError("order must be positive", str(order), "Use 1 or 2.")
    offsets = [None] * len(matrices) if biases is None else list(biases)
    if len(offsets) != len(matrices):
        raise SettingError(
            "path_norm needs one bias (or None) a layer",
            f"{len(offsets)} biases for {len(matrices)} layers",
            "Pass None for a layer without one.",
        )
    flow = torch.ones(matrices[0].shape[1], dtype=torch.float64, device=matrices[0].device)
    # The running scale is kept apart as a logarithm, so that deep networks do not overflow.
    log_scale = 0.0
    for matrix, offset in zip(matrices, offsets, strict=True):
        flow = matrix.abs() ** order @ flow
        if offset is not None:
            top = max(log_scale, 0.0)
            fresh = offset.detach().double().abs() ** order
            flow, log_scale = flow * math.exp(log_scale - top) + fresh * math.exp(-top), top
        largest = float(flow.max())
        if largest > 0:
            flow, log_scale = flow / largest, log_scale + math.log(largest)
    total = float(flow.sum())
    return 0.0 if total == 0 else _exp((math.log(total) + log_scale) / order)


def product_norm(weights: Sequence[Tensor], order: str | float = "fro") -> float:
    r"""Product of the layers' norms, :math:`\prod_i \|W_i\|`.

    Invariant to rescaling whole layers by (c, 1/c), unlike the Euclidean norm of all weights.

    Args:
        weights: Matrices (out, in).
        order: A norm of `torch.linalg.matrix_norm`: "fro", "nuc", 2 (spectral), 1 or infinity.

    Returns:
        The product; infinite only if it exceeds the range of float64.

    Raises:
        SettingError: No layers, or layers that do not chain.
        NumericalError: Weights that are NaN or infinite.
    """
    norms = [float(torch.linalg.matrix_norm(w, order)) for w in _checked_chain(weights)]
    return 0.0 if min(norms) == 0 else _exp(math.fsum(map(math.log, norms)))


def _checked_chain(weights: Sequence[Tensor]) -> list[Tensor]:
    shapes = [tuple(w.shape) for w in weights]
    chained = all(later[1:] == earlier[:1] for earlier, later in pairwise(shapes))
    if not weights or not chained or any(w.ndim != 2 for w in weights):
        raise SettingError(
            "Weights must be matrices (out, in) that chain, first layer first",
            f"shapes {shapes}",
            "Unroll convolutions, and pass layers in the order of the forward pass.",
        )
    matrices = [w.detach().double() for w in weights]
    if not all(bool(torch.isfinite(w).all()) for w in matrices):
        raise NumericalError("Weights must be finite", "NaN or infinity", "The network has diverged.")
    return matrices


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.78 else math.inf
