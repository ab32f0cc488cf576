r"""The path norm of a network as it stands, by one forward pass through a copy with entrywise powers for weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from torchstone.errors import NumericalError, SettingError


def network_path_norm(
    model: nn.Module,
    example: Tensor,
    order: float = 1.0,
    forward: Callable[[nn.Module, Tensor], Tensor] | None = None,
) -> float:
    r"""Norm over all paths from an input or a bias to an output: :math:`(\sum_{paths} \prod_e |w_e|^p)^{1/p}`.

    A copy of the network with :math:`|w|^p` in place of every weight and bias is run on an input of ones; its outputs sum to the
    p-th power of the norm. Batch normalisation in evaluation is folded: scale :math:`|s|^p`, and the shift as a bias. Convolutions,
    average pooling and residual connections need no unrolling.

    Meant for networks of ReLUs (all maps between layers leave positive numbers alone), for which it is invariant to every
    rescaling of units that keeps the function. **Maxima** over windows of K take the largest of K sums of paths, so that K
    times the result bounds the sum over all paths; the factor is left to the caller (`l1_margin_bound(maxima=...)`).

    Cost: a copy of the network in float64 and one forward pass of one example.

    Args:
        model: The network; not changed.
        example: An input with its batch dimension (1, ...), for its shape only; of several the first counts.
        order: p: 1 for `l1_margin_bound`, 2 for comparing networks.
        forward: Runs a network on inputs, `forward(model, x)`; by default `model(x)`.

    Returns:
        The norm; infinite where it exceeds the range of float64.

    Raises:
        SettingError: A non-positive order, parametrised weights, normalisation without running statistics or whose output depends on
            the example (layer normalisation), or outputs that are no tensor.
        NumericalError: Weights that are not finite.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> with torch.no_grad():
        ...     _ = net[0].weight.copy_(torch.tensor([[3.0, -4.0]]))
        ...     _ = net[2].weight.fill_(-2.0)
        >>> network_path_norm(net, torch.zeros(1, 2)), network_path_norm(net, torch.zeros(1, 2), order=2)
        (14.0, 10.0)

    Source: Neyshabur, Tomioka & Srebro 2015 (norm-based capacity control), section 4; Neyshabur, Salakhutdinov & Srebro 2015
    (path-SGD), section 3, for the forward pass.
    """
    if not (math.isfinite(order) and order > 0):
        raise SettingError("order must be positive", str(order), "Use 1 or 2.")
    twin = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for module in twin.modules():
            _refuse(module)
            if isinstance(module, _BatchNorm):
                _fold(module)
        for parameter in twin.parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise NumericalError(
                    "network_path_norm needs finite weights", "NaN or infinity", "The network has diverged."
                )
            parameter.copy_(parameter.abs() ** order)
        ones = torch.ones_like(example, dtype=torch.float64)
        outputs = twin(ones) if forward is None else forward(twin, ones)
    if not isinstance(outputs, Tensor):
        raise SettingError(
            "network_path_norm needs a network that returns a tensor",
            type(outputs).__name__,
            "Wrap it in a module that returns its scores.",
        )
    total = float(outputs[0].sum())
    return math.inf if not math.isfinite(total) else total ** (1 / order)


def _refuse(module: nn.Module) -> None:
    """Modules for which entrywise powers are not the powers of paths."""
    if parametrize.is_parametrized(module):
        raise SettingError(
            "network_path_norm needs plain weights",
            f"parametrised ones in {type(module).__name__}",
            "Remove the parametrisation (torch.nn.utils.parametrize.remove_parametrizations) from a copy.",
        )
    statistics = isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm)
    if statistics or (isinstance(module, _BatchNorm) and module.running_mean is None):
        raise SettingError(
            "network_path_norm needs a piecewise linear network",
            f"{type(module).__name__} divides by statistics of its input",
            "Its path norm has no meaning.",
        )


def _fold(norm: _BatchNorm) -> None:
    """Batch normalisation as scale and shift, with statistics that leave inputs alone."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = 1 / (variance + norm.eps).sqrt()
    shift = -mean * scale
    if norm.affine:
        scale, shift = norm.weight * scale, norm.weight * shift + norm.bias
    norm.weight, norm.bias = nn.Parameter(scale), nn.Parameter(shift)
    norm.affine = True
    norm.running_mean, norm.running_var = torch.zeros_like(mean), torch.full_like(variance, 1 - norm.eps)
